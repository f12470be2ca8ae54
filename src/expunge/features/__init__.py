"""Feature maps: from rows to features, without data or by a public network; and what answers a request for features."""

from expunge.features.answer import FeatureAnswer
from expunge.features.barycenter import GaussianBarycenter, QuantileBarycenter
from expunge.features.protocol import FeatureMap
from expunge.features.public_network import PublicNetwork
from expunge.features.random import RandomFeatures
from expunge.features.tangent import TangentFeatures

__all__ = [
    "FeatureAnswer",
    "FeatureMap",
    "GaussianBarycenter",
    "PublicNetwork",
    "QuantileBarycenter",
    "RandomFeatures",
    "TangentFeatures",
]
