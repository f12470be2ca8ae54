"""Heuristics that researchers compare with: nothing is proven of them, and most of them train on the forgotten rows.

Each is an unlearner of kind none: `expunge.unlearn(task, request, Scrub())` runs it, plans, audits and comparisons take it,
and its certificate says what was run and that nothing is proven. `GradientClipping(start=JustInTime())` runs one before a noisy mechanism.
"""

from expunge.unlearners.heuristics.base import Heuristic
from expunge.unlearners.heuristics.fine_tune import FineTune
from expunge.unlearners.heuristics.grad_diff import GradientDifference
from expunge.unlearners.heuristics.gradient_ascent import GradientAscent
from expunge.unlearners.heuristics.information import InformationPenalty
from expunge.unlearners.heuristics.jit import JustInTime
from expunge.unlearners.heuristics.neggrad_plus import NegGradPlus
from expunge.unlearners.heuristics.npo import NegativePreference
from expunge.unlearners.heuristics.prune import Patching
from expunge.unlearners.heuristics.salun import Saliency
from expunge.unlearners.heuristics.scrub import Scrub
from expunge.unlearners.heuristics.selective_dampening import SelectiveDampening

__all__ = [
    "BEHAVIOURAL",
    "HEURISTICS",
    "FineTune",
    "GradientAscent",
    "GradientDifference",
    "Heuristic",
    "InformationPenalty",
    "JustInTime",
    "NegGradPlus",
    "NegativePreference",
    "Patching",
    "Saliency",
    "Scrub",
    "SelectiveDampening",
]

HEURISTICS = (
    FineTune, GradientAscent, NegGradPlus, Scrub, SelectiveDampening, Saliency, JustInTime, GradientDifference,
    NegativePreference, InformationPenalty,
)  # fmt: skip
"""Of kind none."""

BEHAVIOURAL = (Patching,)
"""What they do to answers is proven, and nothing else."""
