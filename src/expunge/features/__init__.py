"""Feature maps: from rows to features, without data or by a public network."""

from expunge.features.protocol import FeatureMap
from expunge.features.public_network import PublicNetwork
from expunge.features.random import RandomFeatures
from expunge.features.tangent import TangentFeatures

__all__ = ["FeatureMap", "PublicNetwork", "RandomFeatures", "TangentFeatures"]
