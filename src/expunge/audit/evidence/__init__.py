"""What an attack saw, and the lower bounds on ε and μ that follow from it.

Two worlds P and Q: an output of the mechanism from one start, and from another. A test T with values in [0, 1] has mean p
in P and q in Q. If the worlds are (ε, δ)-close in both directions then p ≤ e^ε q + δ and 1 - q ≤ e^ε (1 - p) + δ; if they
are μ-close then Φ⁻¹(p) - Φ⁻¹(q) ≤ μ (Dong, Roth & Su 2019, arXiv 1905.02383). With confidence 1 - α, p ≥ p_low and
q ≤ q_high hold together where each fails with probability α/2 at most; all bounds follow from these two, so none
of them costs more confidence. `JointGuesses` needs one output alone, compared with a certifier: see there.

Every class here is a handful of numbers. The bound is never stored: a reader computes it again.
"""

from typing import Any

from expunge.audit.evidence.base import Evidence, check, sure
from expunge.audit.evidence.counts import Counts
from expunge.audit.evidence.gaussian_fit import GaussianFit
from expunge.audit.evidence.joint_guesses import JointGuesses
from expunge.audit.evidence.means import Means
from expunge.audit.evidence.one_run import OneRun, OneRunViaCertifier

__all__ = [
    "EVIDENCE",
    "Counts",
    "Evidence",
    "GaussianFit",
    "JointGuesses",
    "Means",
    "OneRun",
    "OneRunViaCertifier",
    "check",
    "sure",
]

EVIDENCE: dict[str, type[Any]] = {
    kind.kind: kind for kind in (Counts, Means, GaussianFit, OneRun, OneRunViaCertifier, JointGuesses)
}
