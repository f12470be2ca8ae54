"""Several releases about the same data, and groups.

What composes. A release is computed from weights that the forgotten data influenced. If several releases were (a first
answer and a repaired one, every request served from the one original model), whoever holds them all holds more: their
guarantees compose, also where a later release was chosen after seeing the earlier ones. What does not: a request served
from an *already released* unlearned model is, for the data forgotten before, mere post-processing of that release.
Retraining adds nothing at all.

Gaussian parts compose to sqrt(Σ μ²) (Dong, Roth & Su 2019, arXiv 1905.02383, Corollary 3.3). Others have a profile
below that of their μ. Each profile δ(e^ε) is made into a discrete pair of laws whose own profile is its chord on a grid
of ε ("connect the dots", Doroshenko et al. 2022, arXiv 2207.04380): the true profile is convex in e^ε, so it lies below
the chord, and the pair dominates. Dominating pairs may be multiplied, adaptively too (Zhu, Dong & Wang 2022,
arXiv 2106.08567, Theorem 10). As a guarantee holds in both directions the pair is symmetric, and half the grid suffices.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, hypot, inf, isfinite, log, log2, sqrt

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge.accounting import gaussian
from expunge.accounting.guarantee import ROUNDING, Budget, Guarantee, Kind, Mechanism, Relation
from expunge.accounting.mechanisms import OutputPerturbation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.search import smallest, smallest_whole

__all__ = ["Remaining", "compose", "group_epsilon_delta", "group_mu", "remaining", "requests_left"]

_THEOREM = (
    "Adaptive composition: Gaussian parts by the root of the sum of squares (Dong, Roth & Su 2019, arXiv 1905.02383), "
    "others by dominating pairs (Zhu, Dong & Wang 2022, arXiv 2106.08567) whose profile is the chord of theirs "
    "(Doroshenko et al. 2022, arXiv 2207.04380)."
)
Profile = Callable[[float], float]  # log δ of ε ≥ 0
_GRID = 1000  # points of ε for the widest profile
_LOW = -60.0  # log δ where a profile ends; the rest counts as a certain loss
_SLACK = 1e-9  # relative, more than positive sums over the grid can lose


def compose(mechanisms: Iterable[Mechanism], *, delta: float, relation: Relation = Relation.RETRAINED) -> Guarantee:
    """What several releases about the same data prove together, the later ones chosen freely after the earlier.

    Args:
        mechanisms: one for each release, at least one; an iterator is read once, to its end.
        delta: δ of the joint guarantee.
        relation: the reading of all parts.

    Raises:
        ValueError: no mechanism, or one whose kind is neither `exact` nor `epsilon_delta`.

    >>> from expunge.accounting.mechanisms import OutputPerturbation
    >>> once = OutputPerturbation(init_clip=1.0, noise_std=8.0)
    >>> f"{compose([once], delta=1e-5).epsilon:.6f} {compose([once] * 4, delta=1e-5).epsilon:.6f}"
    '0.926342 1.993091'
    """
    _validate.open_unit_interval(delta=delta)
    relation, mechanisms = Relation(relation), tuple(mechanisms)
    _check_kinds(mechanisms)
    noisy = [m for m in mechanisms if m.kind is Kind.EPSILON_DELTA]
    joint, target = _Joint.of(noisy, relation), log(delta)
    met = joint.log_delta(0.0, relation) <= target
    least = 0.0 if met else smallest(lambda e: joint.log_delta(e, relation) - target)
    stated = dict.fromkeys(a for m in mechanisms for a in m.assumptions if a != assume.ONE_RELEASE)
    return Guarantee(
        epsilon=least * (1 + ROUNDING),
        delta=delta if noisy else 0.0,
        mu=hypot(*(m.mu(relation) for m in noisy)) * (1 + ROUNDING) if noisy else 0.0,
        kind=Kind.EPSILON_DELTA if noisy else Kind.EXACT,
        relation=relation,
        theorem=_THEOREM,
        assumptions=(*stated, assume.INDEPENDENT_RELEASES),
    )


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """What is left of a budget.

    Args:
        mu: the largest μ of one more release that keeps all of them within the budget, rounded down; 0 if none does.
        epsilon: the ε that such a release has alone at the budget's δ.
        retrain: whether nothing is left: the next request needs retraining, which starts a new account.
    """

    mu: float
    epsilon: float
    retrain: bool


def remaining(budget: Budget, spent: Iterable[Mechanism], *, relation: Relation = Relation.RETRAINED) -> Remaining:
    """What releases about the same data, made so far, leave of a joint budget.

    Args:
        budget: (ε, δ) for all releases together.
        spent: one mechanism for each release so far.
        relation: the reading of all parts.

    >>> from expunge.accounting.mechanisms import OutputPerturbation
    >>> left = remaining(Budget(epsilon=2.0, delta=1e-5), [OutputPerturbation(init_clip=1.0, noise_std=8.0)] * 3)
    >>> f"mu {left.mu:.4f}, epsilon {left.epsilon:.4f}, retrain {left.retrain}"
    'mu 0.2531, epsilon 0.9389, retrain False'
    """
    relation, spent = Relation(relation), tuple(spent)
    if spent and compose(spent, delta=budget.delta, relation=relation).epsilon > budget.epsilon:
        return Remaining(mu=0.0, epsilon=0.0, retrain=True)
    joint = _Joint.of([m for m in spent if m.kind is Kind.EPSILON_DELTA], relation)
    if not joint.parts:
        whole = gaussian.mu(budget.epsilon, budget.delta)
        mu = sqrt(max(whole - joint.mu, 0.0) * (whole + joint.mu))
    else:

        def excess(inverse: float) -> float:
            more = OutputPerturbation(init_clip=1.0, noise_std=(2 if relation is Relation.RETRAINED else 1) * inverse)
            return compose([*spent, more], delta=budget.delta, relation=relation).epsilon - budget.epsilon

        inverse = smallest(excess, tolerance=1e-6)
        mu = 0.0 if inverse == inf else 1 / inverse
    mu *= 1 - 1e-9
    if mu <= 0:
        return Remaining(mu=0.0, epsilon=0.0, retrain=True)
    return Remaining(mu=mu, epsilon=gaussian.epsilon(mu, budget.delta), retrain=False)


def requests_left(
    budget: Budget,
    mechanism: Mechanism,
    *,
    spent: Iterable[Mechanism] = (),
    relation: Relation = Relation.RETRAINED,
    limit: int = 10_000,
) -> int:
    """How many more releases by `mechanism` a joint budget has room for; 0: retrain instead.

    Args:
        budget: (ε, δ) for all releases together.
        mechanism: of every further release.
        spent: one mechanism for each release so far.
        relation: the reading of all parts.
        limit: the answer is at most this.
    """
    _validate.whole(limit=limit)
    spent = tuple(spent)
    if mechanism.kind is Kind.EXACT:
        return limit
    over = smallest_whole(
        lambda n: compose([*spent, *[mechanism] * n], delta=budget.delta, relation=relation).epsilon > budget.epsilon,
        limit=limit + 1,
    )
    return limit if over is None else over - 1


def group_mu(mu: float, size: int) -> float:
    """μ for a group of `size` records where a single one has μ (Dong, Roth & Su 2019, Theorem 2.14).

    Needed for guarantees about single records. The mechanisms of this package that take a forget set of any size need
    no such factor.
    """
    _validate.positive(mu=mu)
    _validate.whole(size=size)
    return mu * size * (1 + 2.0**-52)


def group_epsilon_delta(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """(ε, δ) for a group of `size` records, every factor kept: size ε, and δ (e^(size ε) - 1)/(e^ε - 1), at most 1."""
    _validate.non_negative(epsilon=epsilon)
    _validate.open_unit_interval(delta=delta)
    _validate.whole(size=size)
    if epsilon * size > 700:
        return epsilon * size * (1 + ROUNDING), 1.0
    factor = float(size) if epsilon == 0 else float(np.expm1(size * epsilon) / np.expm1(epsilon))
    return epsilon * size * (1 + ROUNDING), min(delta * factor * (1 + ROUNDING), 1.0)


@dataclass(frozen=True)
class _Joint:
    """A Gaussian and discrete losses, independent: the product of dominating pairs.

    Args:
        mu: of all Gaussian parts together.
        parts: (mechanism, times) of those whose profile lies below that of their μ.
        loss: the joint law of all parts on a grid; None where there are only Gaussian ones.
    """

    mu: float
    parts: tuple[tuple[Mechanism, int], ...]
    loss: "_Loss | None"

    @classmethod
    def of(cls, mechanisms: Sequence[Mechanism], relation: Relation) -> "_Joint":
        gaussians = [m for m in mechanisms if _is_gaussian(m, relation)]
        others = [m for m in mechanisms if not _is_gaussian(m, relation)]
        mu = hypot(*(m.mu(relation) for m in gaussians)) * (1 + 1e-15)
        parts = tuple(Counter(others).items())
        if not parts:
            return cls(mu, (), None)
        profiles: list[tuple[Profile, int]] = [(_Of(m, relation), times) for m, times in parts]
        if mu > 0:
            profiles.append((_Gaussian(mu), 1))
        if len(profiles) == 1 and profiles[0][1] == 1:
            return cls(mu, parts, None)  # one release: its own profile, no grid
        # A grid of few different steps, so that what was computed for one question serves the next.
        step = 2 ** (ceil(4 * log2(max(_end(profile) for profile, _ in profiles) / _GRID)) / 4)
        loss = None
        for profile, times in profiles:
            power = _dominating(profile, step).power(times)
            loss = power if loss is None else loss.plus(power)
        return cls(mu, parts, loss)

    def log_delta(self, epsilon: float, relation: Relation) -> float:
        if self.loss is not None:
            return self.loss.log_delta(epsilon)
        if self.parts:
            return self.parts[0][0].log_delta(epsilon, relation)
        return gaussian.log_delta_upper(epsilon, self.mu) if self.mu > 0 else -inf


@dataclass(frozen=True)
class _Loss:
    """A privacy loss: mass at step · (first + i), and mass where nothing is hidden.

    Args:
        step: distance of the grid.
        first: index of the lowest loss.
        mass: probabilities under P, shape (n,).
        certain: probability of an infinite loss.
    """

    step: float
    first: int
    mass: NDArray[np.float64]
    certain: float

    @classmethod
    def dominating(cls, profile: Profile, step: float, points: int) -> "_Loss":
        """The symmetric pair whose profile is the chord of `profile` (log δ of ε ≥ 0) on 0, step, ..., points step.

        Rounding up may leave the pair with a total mass above 1; mass added to both measures only raises their profile.
        """
        alpha = np.exp(step * np.arange(points + 1))
        slopes, certain = _chords(alpha, np.exp([profile(step * i) for i in range(points + 1)]))
        q = slopes - np.append(slopes[1:], 0.0)  # mass under Q at step, 2 step, ...
        q, certain = np.maximum(q, 0.0) * (1 + _SLACK), min(certain * (1 + _SLACK), 1.0)
        p = q * alpha[1:]
        at_zero = max(1 - certain - float(p.sum()) - float(q.sum()), 0.0)
        return cls(step, -points, np.concatenate([q[::-1], [at_zero], p]), certain)

    def plus(self, other: "_Loss") -> "_Loss":
        """The loss of both, independent."""
        mass = np.convolve(self.mass, other.mass)
        certain = self.certain + other.certain - self.certain * other.certain
        return _Loss(self.step, self.first + other.first, mass, certain)._trimmed()

    def power(self, times: int) -> "_Loss":
        """The loss of `times` independent copies."""
        half = self if times == 1 else self.power(times // 2)
        if times == 1:
            return self
        return half.plus(half) if times % 2 == 0 else half.plus(half).plus(self)

    def log_delta(self, epsilon: float) -> float:
        losses = self.step * (self.first + np.arange(len(self.mass)))
        above = losses > epsilon
        total = self.certain + float(self.mass[above] @ -np.expm1(epsilon - losses[above]))
        return log(min(total * (1 + _SLACK), 1.0)) if total > 0 else -inf

    def _trimmed(self) -> "_Loss":
        """Without far tails: the upper one becomes certain loss, the lower one moves up to what remains."""
        low, high = np.cumsum(self.mass), np.cumsum(self.mass[::-1])[::-1]
        start = int(np.searchsorted(low, exp(_LOW)))
        stop = len(high) - int(np.searchsorted(high[::-1], exp(_LOW) / 100))
        kept = self.mass[start:stop].copy()
        if not len(kept):
            return self
        kept[0] += float(self.mass[:start].sum())
        return _Loss(self.step, self.first + start, kept, self.certain + float(self.mass[stop:].sum()))


def _chords(alpha: NDArray[np.float64], delta: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """-slope of each chord of the greatest convex minorant of the points, and the value at its right end.

    The true profile is convex and below the points, so it is below their convex minorant too.
    """
    kept = [0]
    for i in range(1, len(alpha)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (delta[b] - delta[a]) * (alpha[i] - alpha[a]) < (delta[i] - delta[a]) * (alpha[b] - alpha[a]):
                break
            kept.pop()
        kept.append(i)
    slopes = -np.diff(delta[kept]) / np.diff(alpha[kept])
    return np.repeat(np.maximum(slopes, 0.0), np.diff(kept)), float(delta[-1])


@dataclass(frozen=True)
class _Of:
    """The profile of a mechanism."""

    mechanism: Mechanism
    relation: Relation

    def __call__(self, epsilon: float) -> float:
        return self.mechanism.log_delta(epsilon, self.relation)


@dataclass(frozen=True)
class _Gaussian:
    """The profile of a Gaussian shift."""

    mu: float

    def __call__(self, epsilon: float) -> float:
        return gaussian.log_delta_upper(epsilon, self.mu)


@lru_cache(maxsize=256)
def _end(profile: Profile) -> float:
    """The ε at which a profile has fallen to `_LOW`, at most 600."""
    return min(smallest(lambda e: profile(e) - _LOW, tolerance=1e-2), 600.0)


@lru_cache(maxsize=64)
def _dominating(profile: Profile, step: float) -> _Loss:
    return _Loss.dominating(profile, step, max(2, ceil(_end(profile) / step)))


def _is_gaussian(mechanism: Mechanism, relation: Relation) -> bool:
    """Whether `log_delta` says no more than the Gaussian profile of `mu`, which may then take its place."""
    mu = mechanism.mu(relation)
    if not isfinite(mu):
        return False
    at = [0.0, 0.1 * mu, mu, mu * mu / 2 + 3 * mu]
    return all(mechanism.log_delta(e, relation) >= gaussian.log_delta_upper(e, mu) - 1e-9 for e in at)


def _check_kinds(mechanisms: Sequence[Mechanism]) -> None:
    if not mechanisms:
        raise ValueError("compose needs at least one mechanism")
    for m in mechanisms:
        if m.kind not in (Kind.EXACT, Kind.EPSILON_DELTA):
            raise ValueError(f"'{m.name}' is of kind '{m.kind}', which does not compose")
