"""A test that says yes or no, counted in two worlds."""

from dataclasses import dataclass
from typing import ClassVar

from scipy.special import betaincinv

from expunge.audit.evidence.base import counted
from expunge.audit.evidence.two_rates import TwoRates

__all__ = ["Counts"]


@dataclass(frozen=True, kw_only=True)
class Counts(TwoRates):
    """A test that says yes or no, on independent samples of two worlds; exact binomial limits.

    The test must not depend on these samples: a threshold is chosen on others.

    Args:
        positives: samples of P.
        true_positives: of them, where the test said yes.
        negatives: samples of Q.
        false_positives: of them, where the test said yes.

    Source: Clopper & Pearson 1934; Nasr et al. 2021, arXiv 2101.04535.
    """

    kind: ClassVar[str] = "counts"
    assumes: ClassVar[str] = "independent samples of each world; a test fixed before they were seen"

    positives: int
    true_positives: int
    negatives: int
    false_positives: int

    def __post_init__(self) -> None:
        counted(positives=self.positives, negatives=self.negatives)
        counted(0, true_positives=self.true_positives, false_positives=self.false_positives)
        for part, whole in (("true_positives", "positives"), ("false_positives", "negatives")):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(f"{part}={getattr(self, part)} exceeds {whole}={getattr(self, whole)}")

    def rates(self, confidence: float) -> tuple[float, float]:
        """Clopper-Pearson, α/2 each."""
        alpha = (1 - confidence) / 2
        missed = self.positives - self.true_positives
        return (
            1 - binomial_upper(missed, self.positives, alpha),
            binomial_upper(self.false_positives, self.negatives, alpha),
        )

    def best(self) -> "Counts":
        """All of P, none of Q."""
        return Counts(
            positives=self.positives, true_positives=self.positives, negatives=self.negatives, false_positives=0
        )


def binomial_upper(successes: int, trials: int, alpha: float) -> float:
    """The Clopper-Pearson upper limit for a rate."""
    if successes == trials:
        return 1.0
    return min(float(betaincinv(successes + 1, trials - successes, 1 - alpha)) * (1 + 1e-10), 1.0)
