"""Weighed guesses about all coins of one release at once, for a guarantee that compares it with a certifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, log1p
from typing import Any, ClassVar, cast

import numpy as np
from scipy.special import gammaln, ndtri_exp

from expunge import _validate
from expunge.audit.evidence.base import check, counted

__all__ = ["JointGuesses", "log_tail"]

_CLASSES, _HEAVIEST = 64, 1024
_WORK = 5e8  # products of the exact tail: a second. Above it, Chernoff's bound, a few units lower
_SAFE = 1e-9  # relative, of log p: a thousand times what the sums below lose


@dataclass(frozen=True, kw_only=True)
class JointGuesses:
    """Guesses about the coins of many candidates from one release, each with a weight that was fixed without its coin.

    A certificate covers the whole forget set at once. Let m candidates be learned and forgotten, or never seen, by fair
    coins x. Given x, the release has a law P_x that is (ε, δ)-close to the law Q of a certifier, and Q is the same for
    every x, since a certifier sees no candidate. Under Q the release says nothing of x. So whatever is guessed from it
    and with whatever whole weights w, the weight V of the right guesses is Σ_w w Bin(n_w, 1/2), and its
    tail p = P[V ≥ v] is known exactly. As a p-value it has Q[p ≤ t] ≤ t, hence over all coins P[p ≤ t] ≤ e^ε t + δ. With
    confidence 1 - α

        ε ≥ log((α - δ) s/p),    μ ≥ Φ⁻¹(α) - Φ⁻¹(p/s)

    where s is the test's share of the chance of being wrong: one test among others pays for them (Q[p ≤ s t] adds up to t).
    The second line is the same step with P[E] ≤ Φ(Φ⁻¹(Q[E]) + μ), concave in Q[E], so that Jensen's inequality takes
    it from each x to all.

    One release only. Several releases of the same coins compose, and are tested each at its share.

    Args:
        candidates: m, learned and forgotten, or never seen, each by a fair coin of its own.
        weights: whole numbers above 0, rising, at most 64 of them.
        guesses: how many guesses have each weight; together at most m.
        correct: how many of these were right.
        share: s in (0, 1], fixed before the coins were looked at.

    Raises:
        TypeError, ValueError: other numbers.
    """

    kind: ClassVar[str] = "joint_guesses"
    assumes: ClassVar[str] = (
        "one release; every candidate learned and forgotten, or never seen, by an independent fair coin; all candidates "
        "together are a forget set that the guarantee covers; guesses, weights and share fixed without the coins they are about"
    )

    candidates: int
    weights: tuple[int, ...]
    guesses: tuple[int, ...]
    correct: tuple[int, ...]
    share: float = 1.0

    def __post_init__(self) -> None:
        counted(candidates=self.candidates)
        for name in ("weights", "guesses", "correct"):
            held = getattr(self, name)
            if not isinstance(held, list | tuple) or not 0 < len(cast("list[int]", held)) <= _CLASSES:
                raise ValueError(f"{name} must be a list of 1 to {_CLASSES} whole numbers, not {held!r:.80}")
            counted(0 if name != "weights" else 1, **{f"{name}[{k}]": value for k, value in enumerate(held)})
            object.__setattr__(self, name, tuple(held))
        if not len(self.weights) == len(self.guesses) == len(self.correct):
            raise ValueError(
                f"guesses={self.guesses} and correct={self.correct} must be one for each of {self.weights}"
            )
        if list(self.weights) != sorted(set(self.weights)) or self.weights[-1] > _HEAVIEST:
            raise ValueError(f"weights must rise, up to {_HEAVIEST} at most, not {self.weights}")
        if any(c > n for c, n in zip(self.correct, self.guesses, strict=True)) or sum(self.guesses) > self.candidates:
            raise ValueError(
                f"correct={self.correct} must not exceed guesses={self.guesses}, nor these candidates={self.candidates}"
            )
        _validate.positive(share=self.share)
        if self.share > 1:
            raise ValueError(f"share must be at most 1, not {self.share!r}")

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """log((α - δ) s/p), or 0."""
        return _epsilon(self.log_p, delta, confidence)

    def mu(self, *, confidence: float) -> float:
        """Φ⁻¹(α) - Φ⁻¹(p/s), or 0."""
        check(0.5, confidence)
        log_p = min(self.log_p, 0.0)
        if log_p == 0:
            return 0.0
        alpha, p = (float(cast("Any", ndtri_exp)(value)) for value in (log1p(-confidence), log_p))
        return max((alpha - p) * (1 - _SAFE), 0.0)

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """All candidates guessed, all right: m log 2 + log((α - δ) s)."""
        return _epsilon(-self.candidates * log(2) - log(self.share), delta, confidence)

    def reach(self, *, delta: float, confidence: float) -> float:
        """All guesses that were made right, r log 2 + log((α - δ) s): nothing can be seen of a candidate without a guess."""
        return _epsilon(-sum(self.guesses) * log(2) - log(self.share), delta, confidence)

    @property
    def seconds(self) -> float:
        """The products of the exact tail, or a search."""
        products = sum(w * n for w, n in zip(self.weights, self.guesses, strict=True)) * sum(self.guesses)
        return 5e-3 + (2e-9 * products if products <= _WORK else 0.0)

    @cached_property
    def log_p(self) -> float:
        """log(p/s), rounded up: the less, the more is shown."""
        return log_tail(self.weights, self.guesses, self.correct) - log(self.share)


def log_tail(weights: Sequence[int], guesses: Sequence[int], correct: Sequence[int]) -> float:
    """Log P[Σ w Bin(n_w, 1/2) ≥ Σ w c_w], rounded up.

    The coins are tilted, each right with probability 1/(1 + e^(-λw)), λ such that v is the mean. Then
    p = M e^(-λv) E[e^(-λ(V - v)); V ≥ v], M = Π ((1 + e^(λw))/2)^n_w, with an expectation in which nothing is small. It is
    summed out where that is a second's work; by Chernoff it is at most 1.

    Args:
        weights: w > 0, whole.
        guesses: n_w.
        correct: c_w ≤ n_w.
    """
    held = [(w, n, c) for w, n, c in zip(weights, guesses, correct, strict=True) if n > 0]
    total, v = sum(w * n for w, n, _ in held), sum(w * c for w, _, c in held)
    if 2 * v <= total:
        return 0.0
    if v == total:
        return -sum(n for _, n, _ in held) * log(2)
    rate = _tilt(held, total, v)
    # log M - λv, as a sum over the wrong side: (1 + e^(λw))/2 = e^(λw) (1 + e^(-λw))/2.
    found = rate * (total - v) + sum(n * (log1p(exp(-rate * w)) - log(2)) for w, n, _ in held)
    if total * sum(n for _, n, _ in held) <= _WORK:
        found += _summed(held, v, rate)
    return min(found + _SAFE * max(1.0, abs(found)), 0.0)


def _tilt(held: Sequence[tuple[int, int, int]], total: int, v: int) -> float:
    """λ > 0 at which the mean weight of right guesses is v, to rounding: any λ gives a bound."""
    low, high = 0.0, 1.0

    def wrong(rate: float) -> float:
        return sum(w * n * exp(-rate * w) / (1 + exp(-rate * w)) for w, n, _ in held)

    while wrong(high) > total - v:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if wrong(middle) > total - v else (low, middle)
    return high


def _summed(held: Sequence[tuple[int, int, int]], v: int, rate: float) -> float:
    """Log E[e^(-λ(V - v)); V ≥ v] of the tilted coins, V built up one weight after the other."""
    law = np.ones(1)
    for w, n, _ in sorted(held):
        k = np.arange(n + 1.0)
        right, wrong = -log1p(exp(-rate * w)), -rate * w - log1p(exp(-rate * w))
        masses = np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + k * right + (n - k) * wrong)
        wider = np.zeros(len(law) + w * n)
        for start in range(min(w, len(law))):  # places that differ by a multiple of w meet, others do not
            part = np.convolve(law[start::w], masses)
            wider[start : start + w * len(part) : w] = part
        law = wider
    return log(float((law[v:] * np.exp(-rate * np.arange(len(law) - v))).sum()))


def _epsilon(log_p: float, delta: float, confidence: float) -> float:
    check(delta, confidence)
    alpha = 1 - confidence
    if alpha <= delta or log_p >= 0:
        return 0.0
    return max(log(alpha - delta) - log_p, 0.0)
