"""Heads on a fixed feature map, from which rows can be forgotten: by arithmetic, or with a little noise."""

from expunge.heads.analytic import AnalyticHead
from expunge.heads.convex import ConvexHead, noise_for
from expunge.heads.fairness import EqualScores, equalised_odds_gap

__all__ = [
    "AnalyticHead",
    "ConvexHead",
    "EqualScores",
    "equalised_odds_gap",
    "noise_for",
]
