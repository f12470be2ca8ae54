"""Scores that are Gaussian in both worlds, by their means and deviation."""

from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any, ClassVar, cast

from scipy.special import chdtri, nctdtr, stdtr

from expunge import _validate
from expunge.accounting import gaussian
from expunge.audit.evidence.base import check, counted
from expunge.audit.evidence.counts import Counts

__all__ = ["GaussianFit"]

_FEWEST = 100  # samples of a world: with fewer, hardly any other law could be told from a Gaussian


@dataclass(frozen=True, kw_only=True)
class GaussianFit:
    """Scores that are Gaussian with one standard deviation in both worlds; exact limits for their distance.

    With that assumption it reaches far beyond what counts of the same size can show. Without it, it proves nothing.

    Args:
        p_mean: mean score in P, the world where it is expected to be larger.
        p_samples: how many, at least 2.
        q_mean: mean score in Q.
        q_samples: how many, at least 2.
        std: pooled standard deviation, with p_samples + q_samples - 2 degrees of freedom.

    Source: the noncentral t distribution; Dong, Roth & Su 2019, arXiv 1905.02383 for the profile.
    """

    kind: ClassVar[str] = "gaussian_fit"
    assumes: ClassVar[str] = "independent samples; scores Gaussian with one standard deviation in both worlds"

    p_mean: float
    p_samples: int
    q_mean: float
    q_samples: int
    std: float

    def __post_init__(self) -> None:
        counted(2, p_samples=self.p_samples, q_samples=self.q_samples)
        _validate.positive(std=self.std)
        for name in ("p_mean", "q_mean"):
            if not isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, not {getattr(self, name)!r}")

    def mu(self, *, confidence: float) -> float:
        """The lower limit for (mean of P - mean of Q)/standard deviation."""
        check(0.5, confidence)
        degrees = self.p_samples + self.q_samples - 2
        root = sqrt(self.p_samples * self.q_samples / (self.p_samples + self.q_samples))
        return max(
            _noncentrality_lower((self.p_mean - self.q_mean) / self.std * root, degrees, 1 - confidence) / root, 0.0
        )

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """Of a Gaussian shift by `mu`."""
        check(delta, confidence)
        mu = self.mu(confidence=confidence)
        return 0.0 if mu == 0 else gaussian.epsilon(mu, delta) * (1 - 1e-12)

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """Infinite: the fit extrapolates."""
        check(delta, confidence)
        return inf

    def reach(self, *, delta: float, confidence: float) -> float:
        """No limit from 100 samples of each world on; below, what they can show without the assumption.

        With so few nobody can see that scores are not Gaussian, so that far apart they show what counting shows: all of
        P on one side, all of Q on the other.
        """
        if min(self.p_samples, self.q_samples) >= _FEWEST:
            return self.ceiling(delta=delta, confidence=confidence)
        apart = Counts(
            positives=self.p_samples, true_positives=self.p_samples, negatives=self.q_samples, false_positives=0
        )
        return apart.ceiling(delta=delta, confidence=confidence)

    @property
    def seconds(self) -> float:
        """One root, whatever the samples."""
        return 5e-3


def _noncentrality_lower(t: float, degrees: int, alpha: float) -> float:
    """The lower limit for the noncentrality of which t is a sample, P[T ≥ t | limit] = alpha; 0 where that is negative."""
    from scipy.optimize import brentq

    if t <= 0 or float(cast("Any", stdtr)(degrees, t)) <= 1 - alpha:
        return 0.0

    if t > 1e4:  # beyond what the library computes: T is nc √(ν/χ²) here, but for a normal part that 10 covers
        return max(t * sqrt(float(cast("Any", chdtri)(degrees, 1 - alpha)) / degrees) - 10, 0.0)

    def missing(nc: float) -> float:
        return float(cast("Any", nctdtr)(degrees, nc, t)) - (1 - alpha)

    # The limit lies below t by a few of its standard deviations.
    low = max(t - 10 * sqrt(1 + t * t / (2 * degrees)), 0.0)
    return float(cast("Any", brentq)(missing, low, t * (1 + 1 / degrees), xtol=1e-7)) - 1e-7
