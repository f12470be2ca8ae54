"""What an attack saw, and the lower bounds on ε and μ that follow from it.

Two worlds P and Q: an output of the mechanism from one start, and from another. A test T with values in [0, 1] has mean p
in P and q in Q. If the worlds are (ε, δ)-close in both directions then p ≤ e^ε q + δ and 1 - q ≤ e^ε (1 - p) + δ; if they
are μ-close then Φ⁻¹(p) - Φ⁻¹(q) ≤ μ (Dong, Roth & Su 2019, arXiv 1905.02383). With confidence 1 - α, p ≥ p_low and
q ≤ q_high hold together where each fails with probability α/2 at most; all bounds follow from these two, so none
of them costs more confidence.

Every class here is a handful of numbers. The bound is never stored: a reader computes it again.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import exp, inf, isfinite, log, sqrt
from typing import Any, ClassVar, Protocol, cast

import numpy as np
from scipy.special import bdtrc, betaincinv, chdtri, gammaln, nctdtr, ndtri, rel_entr, stdtr, xlogy

from expunge import _validate
from expunge.accounting import gaussian
from expunge.accounting.search import smallest

__all__ = ["EVIDENCE", "Counts", "Evidence", "GaussianFit", "Means", "OneRun", "OneRunViaCertifier"]


class Evidence(Protocol):
    """A frozen dataclass of what was seen; its bounds hold with the given confidence under `assumes`."""

    kind: ClassVar[str]
    assumes: ClassVar[str]

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """A lower bound on ε at δ; 0 where nothing is shown."""
        ...

    def mu(self, *, confidence: float) -> float | None:
        """A lower bound on μ; None where this evidence gives none."""
        ...

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """The largest ε that evidence of this size can show; infinite where it extrapolates."""
        ...


class _TwoRates(ABC):
    """Bounds from p_low and q_high."""

    @abstractmethod
    def rates(self, confidence: float) -> tuple[float, float]:
        """(p_low, q_high)."""

    @abstractmethod
    def best(self) -> "_TwoRates":
        """The clearest outcome that evidence of this size can have."""

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """The larger of log((p_low - δ)/q_high) and log((1 - q_high - δ)/(1 - p_low))."""
        _check(delta, confidence)
        p, q = self.rates(confidence)
        return max(_log_ratio(p - delta, q), _log_ratio(1 - q - delta, 1 - p), 0.0)

    def mu(self, *, confidence: float) -> float:
        """Φ⁻¹(p_low) - Φ⁻¹(q_high)."""
        _check(0.5, confidence)
        p, q = self.rates(confidence)
        if p <= 0 or q >= 1:
            return 0.0
        return max(float(ndtri(p) - ndtri(q)), 0.0)

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """`epsilon` of the clearest outcome."""
        return self.best().epsilon(delta=delta, confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class Counts(_TwoRates):
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
        _validate.whole(positives=self.positives, negatives=self.negatives)
        _validate.whole(0, true_positives=self.true_positives, false_positives=self.false_positives)
        for part, whole in (("true_positives", "positives"), ("false_positives", "negatives")):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(f"{part}={getattr(self, part)} exceeds {whole}={getattr(self, whole)}")

    def rates(self, confidence: float) -> tuple[float, float]:
        """Clopper-Pearson, α/2 each."""
        alpha = (1 - confidence) / 2
        missed = self.positives - self.true_positives
        return (
            1 - _binomial_upper(missed, self.positives, alpha),
            _binomial_upper(self.false_positives, self.negatives, alpha),
        )

    def best(self) -> "Counts":
        """All of P, none of Q."""
        return Counts(
            positives=self.positives, true_positives=self.positives, negatives=self.negatives, false_positives=0
        )


@dataclass(frozen=True, kw_only=True)
class Means(_TwoRates):
    """A test with values in [0, 1], such as an accuracy, on independent runs of two worlds; Hoeffding limits.

    Args:
        p_mean: mean over the runs of P, the world where the test is expected to be larger.
        p_runs: how many.
        q_mean: mean over the runs of Q.
        q_runs: how many.

    Source: Hoeffding 1963, in the form with the binary relative entropy.
    """

    kind: ClassVar[str] = "means"
    assumes: ClassVar[str] = (
        "independent runs; a metric with values in [0, 1], and its direction, fixed before they were seen"
    )

    p_mean: float
    p_runs: int
    q_mean: float
    q_runs: int

    def __post_init__(self) -> None:
        _validate.whole(p_runs=self.p_runs, q_runs=self.q_runs)
        for name in ("p_mean", "q_mean"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {value!r}")

    def rates(self, confidence: float) -> tuple[float, float]:
        """Hoeffding-Chernoff, α/2 each."""
        cost = -log((1 - confidence) / 2)
        return 1 - _entropy_upper(1 - self.p_mean, cost / self.p_runs), _entropy_upper(self.q_mean, cost / self.q_runs)

    def best(self) -> "Means":
        """1 against 0."""
        return Means(p_mean=1.0, p_runs=self.p_runs, q_mean=0.0, q_runs=self.q_runs)


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
        _validate.whole(2, p_samples=self.p_samples, q_samples=self.q_samples)
        _validate.positive(std=self.std)
        for name in ("p_mean", "q_mean"):
            if not isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, not {getattr(self, name)!r}")

    def mu(self, *, confidence: float) -> float:
        """The lower limit for (mean of P - mean of Q)/standard deviation."""
        _check(0.5, confidence)
        degrees = self.p_samples + self.q_samples - 2
        root = sqrt(self.p_samples * self.q_samples / (self.p_samples + self.q_samples))
        return max(
            _noncentrality_lower((self.p_mean - self.q_mean) / self.std * root, degrees, 1 - confidence) / root, 0.0
        )

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """Of a Gaussian shift by `mu`."""
        _check(delta, confidence)
        mu = self.mu(confidence=confidence)
        return 0.0 if mu == 0 else gaussian.epsilon(mu, delta) * (1 - 1e-12)

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """None: it extrapolates."""
        _check(delta, confidence)
        return inf


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """Guesses about the fair coins of many canaries, all from one run.

    Args:
        canaries: m, each put in by a fair coin of its own.
        guesses: r ≤ m, the coins that the attack made a guess about.
        correct: of them.

    Source: Steinke, Nasr & Jagielski 2023, arXiv 2305.08846, Theorem 3.1 and appendix D.
    """

    kind: ClassVar[str] = "one_run"
    assumes: ClassVar[str] = (
        "one run; every canary in or out by an independent fair coin; the mechanism (ε, δ)-close for each canary alone"
    )

    canaries: int
    guesses: int
    correct: int

    def __post_init__(self) -> None:
        _validate.whole(canaries=self.canaries, guesses=self.guesses)
        _validate.whole(0, correct=self.correct)
        if not self.correct <= self.guesses <= self.canaries:
            raise ValueError(
                f"correct={self.correct} must not exceed guesses={self.guesses}, nor these canaries={self.canaries}"
            )

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """The largest ε whose chance of so many right guesses is at most 1 - confidence."""
        _check(delta, confidence)
        alpha = 1 - confidence
        if self._chance(*self._apart(0.0, delta)) > alpha:
            return 0.0
        # The chance grows with ε. `smallest` returns an ε that passes; the bound is the last that fails.
        edge = smallest(lambda e: alpha - self._chance(*self._apart(e, delta)), tolerance=1e-9)
        return edge * (1 - 1e-8) if isfinite(edge) else inf

    def mu(self, *, confidence: float) -> None:
        """None: the theorem speaks of ε."""
        _check(0.5, confidence)

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """All canaries guessed, all right."""
        return type(self)(canaries=self.canaries, guesses=self.canaries, correct=self.canaries).epsilon(
            delta=delta, confidence=confidence
        )

    @staticmethod
    def _apart(epsilon: float, delta: float) -> tuple[float, float]:
        """How close the outputs with a canary in and out are, where the mechanism is (ε, δ)-close."""
        return epsilon, delta

    def _chance(self, epsilon: float, delta: float) -> float:
        """An upper bound on the probability of `correct` right guesses or more, for an (ε, δ)-close mechanism."""
        r, v, q = self.guesses, self.correct, 1 / (1 + exp(-epsilon))
        tail = float(bdtrc(v - 1, r, q)) if v > 0 else 1.0
        if delta == 0 or v == 0:
            return tail
        k = np.arange(v - 1, -1, -1.0)
        log_masses = gammaln(r + 1) - gammaln(k + 1) - gammaln(r - k + 1) + xlogy(k, q) + xlogy(r - k, 1 - q)
        lost = np.cumsum(np.exp(log_masses)) / np.arange(1, v + 1)
        return min(tail + 2 * self.canaries * delta * float(lost.max()), 1.0)


@dataclass(frozen=True, kw_only=True)
class OneRunViaCertifier(OneRun):
    """`OneRun` for a guarantee that compares each output with a certifier, and not two outputs with each other.

    With a canary in, P ≤ e^ε C + δ; with it out, C ≤ e^ε Q + δ. So P ≤ e^2ε Q + (1 + e^ε) δ, and no more is claimed of
    two runs. The bound is the largest ε that is refuted in that form.
    """

    kind: ClassVar[str] = "one_run_via_certifier"
    assumes: ClassVar[str] = (
        "one run; every canary in or out by an independent fair coin; with a canary in and with it out the output is "
        "(ε, δ)-close to one certifier"
    )

    @staticmethod
    def _apart(epsilon: float, delta: float) -> tuple[float, float]:
        return 2 * epsilon, min((1 + exp(min(epsilon, 700.0))) * delta, 1.0)


EVIDENCE: dict[str, type[Any]] = {kind.kind: kind for kind in (Counts, Means, GaussianFit, OneRun, OneRunViaCertifier)}


def _check(delta: float, confidence: float) -> None:
    _validate.open_unit_interval(confidence=confidence)
    if confidence < 0.5:
        raise ValueError(f"confidence must be at least 0.5, not {confidence!r}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be a number in [0, 1), not {delta!r}")


def _log_ratio(above: float, below: float) -> float:
    if above <= 0:
        return 0.0
    return inf if below <= 0 else log(above / below)


def _binomial_upper(successes: int, trials: int, alpha: float) -> float:
    """The Clopper-Pearson upper limit for a rate."""
    if successes == trials:
        return 1.0
    return min(float(betaincinv(successes + 1, trials - successes, 1 - alpha)) * (1 + 1e-10), 1.0)


def _entropy_upper(mean: float, cost: float) -> float:
    """The largest q ≥ mean with KL(mean, q) ≤ cost, rounded up."""
    low, high = mean, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        entropy = float(rel_entr(mean, middle) + rel_entr(1 - mean, 1 - middle))
        low, high = (middle, high) if entropy <= cost else (low, middle)
    return high


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
