"""Feature maps: from rows to features, without data or by a public network."""

from expunge.features.random import RandomFeatures
from expunge.features.tangent import TangentFeatures

__all__ = ["RandomFeatures", "TangentFeatures"]
