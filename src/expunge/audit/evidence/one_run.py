"""Guesses about many coins, for a guarantee that speaks of each canary alone."""

from dataclasses import dataclass
from math import exp, inf, isfinite
from typing import ClassVar

import numpy as np
from scipy.special import bdtrc, gammaln, xlogy

from expunge.accounting.search import smallest
from expunge.audit.evidence.base import check, counted

__all__ = ["OneRun", "OneRunViaCertifier"]

_MOST = 10**6  # guesses: each bound sums over them some fifty times


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
        counted(canaries=self.canaries)
        counted(most=_MOST, guesses=self.guesses)
        counted(0, correct=self.correct)
        if not self.correct <= self.guesses <= self.canaries:
            raise ValueError(
                f"correct={self.correct} must not exceed guesses={self.guesses}, nor these canaries={self.canaries}"
            )

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """The largest ε whose chance of so many right guesses is at most 1 - confidence."""
        check(delta, confidence)
        alpha = 1 - confidence
        if self._chance(*self._apart(0.0, delta)) > alpha:
            return 0.0
        # The chance grows with ε. `smallest` returns an ε that passes; the bound is the last that fails.
        edge = smallest(lambda e: alpha - self._chance(*self._apart(e, delta)), tolerance=1e-9)
        return edge * (1 - 1e-8) if isfinite(edge) else inf

    def mu(self, *, confidence: float) -> None:
        """None, because the theorem speaks of ε alone."""
        check(0.5, confidence)

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """All canaries guessed, or a million of them, all right."""
        most = min(self.canaries, _MOST)
        best = type(self)(canaries=self.canaries, guesses=most, correct=most)
        return best.epsilon(delta=delta, confidence=confidence)

    def reach(self, *, delta: float, confidence: float) -> float:
        """All guesses that were made right: nothing can be seen of a canary without a guess."""
        best = type(self)(canaries=self.canaries, guesses=self.guesses, correct=self.guesses)
        return best.epsilon(delta=delta, confidence=confidence)

    @property
    def seconds(self) -> float:
        """Sums over the guesses, and for the ceiling over the canaries."""
        return 1e-3 + 1e-6 * (2 * self.guesses + min(self.canaries, _MOST))

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
