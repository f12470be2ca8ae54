"""Several releases about the same data: what they prove together.

What composes. A release is computed from weights that the forgotten data influenced. If several releases were (a first
answer and a repaired one, every request served from the one original model), whoever holds them all holds more: their
guarantees compose, also where a later release was chosen after seeing the earlier ones. What does not: a request served
from an *already released* unlearned model is, for the data forgotten before, mere post-processing of that release.
Retraining adds nothing at all.

Gaussian parts compose to sqrt(Σ μ²) (Dong, Roth & Su 2019, arXiv 1905.02383, Corollary 3.3). Others have a profile below that
of their μ: each becomes a dominating pair on a grid, from the mechanism's own steps where it has such (`sampling`), else from its
profile (`chords`), and pairs multiply, adaptively too (`losses`).

One certifier. What is proven jointly is proven against one joint certifier, which for every release is one and the same at all
ε. A mechanism that has several (`SeveralCertifiers`) is composed once for each, never by the least of their profiles: that
least is the profile of no certifier. Of several valid analyses against the same certifier the least counts: the grid, the
Gaussian of all μ together, and the total variation, 1 - δ(0) ≥ Π (1 - δ_k(0)).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from math import exp, expm1, hypot, inf, isnan, log, log1p, sqrt
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge import _validate
from expunge.accounting import gaussian
from expunge.accounting.bounds import ROUNDING, check_kind, log_delta_of, mu_of, reading_of
from expunge.accounting.claims import Bound, Budget, EpsilonDeltaClaim, ExactClaim, Kind, Relation
from expunge.accounting.mechanisms import OutputPerturbation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.gaussian_profile import GaussianProfile
from expunge.accounting.protocol import HasLosses, Mechanism, SeveralCertifiers
from expunge.accounting.search import smallest, smallest_whole

if TYPE_CHECKING:
    from expunge.accounting.losses import Source

__all__ = ["Remaining", "compose", "remaining", "requests_left"]

_THEOREM = (
    "Adaptive composition: Gaussian parts by the root of the sum of squares (Dong, Roth & Su 2019, arXiv 1905.02383), "
    "others by dominating pairs (Zhu, Dong & Wang 2022, arXiv 2106.08567) whose profile is the chord of theirs "
    "(Doroshenko et al. 2022, arXiv 2207.04380)."
)
_KIND, _ASSUMPTIONS = attrgetter("kind"), attrgetter("assumptions")
_LOW = -60.0  # log δ where a profile ends, where no smaller δ is asked for


def compose(mechanisms: Iterable[Mechanism], *, delta: float, relation: Relation = Relation.RETRAINED) -> Bound:
    """What several releases about the same data prove together, the later ones chosen freely after the earlier.

    Args:
        mechanisms: one for each release, at least one; an iterator is read once, to its end.
        delta: δ of the joint guarantee.
        relation: the reading of all parts.

    Raises:
        ValueError: no mechanism, or one whose kind is neither `exact` nor `epsilon_delta`.
        TypeError: a set or a mapping, in which equal releases count once.

    Where a mechanism has several certifiers, the joint ε and μ are against one for each release, the choice that proves more.

    >>> from expunge.accounting.mechanisms import OutputPerturbation
    >>> once = OutputPerturbation(init_clip=1.0, noise_std=8.0)
    >>> f"{compose([once], delta=1e-5).epsilon:.6f} {compose([once] * 4, delta=1e-5).epsilon:.6f}"
    '0.926342 1.993091'
    """
    _validate.open_unit_interval(delta=delta)
    relation = Relation(relation)
    account = _Account.of(mechanisms, relation)
    if account.empty:
        raise ValueError("compose needs at least one mechanism")
    return _composed(account, delta, relation)


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
    relation = Relation(relation)
    account = _Account.of(spent, relation)
    if not account.empty and _composed(account, budget.delta, relation).epsilon > budget.epsilon:
        return Remaining(mu=0.0, epsilon=0.0, retrain=True)

    def more(mu: float) -> OutputPerturbation:
        return OutputPerturbation(init_clip=1.0, noise_std=(2 if relation is Relation.RETRAINED else 1) / mu)

    def excess(mu: float) -> float:
        return _composed(account.after(more(mu), 1, relation), budget.delta, relation).epsilon - budget.epsilon

    whole = gaussian.mu(budget.epsilon, budget.delta)
    if all(_is_gaussian(m, relation) for m, _ in account.others):
        joint = hypot(account.mu, *(sqrt(times) * mu_of(m, relation) for m, times in account.others))
        mu = sqrt(max(whole - joint, 0.0) * (whole + joint))
    else:
        inverse = smallest(lambda x: excess(1 / x), start=1 / max(whole, 1e-290), tolerance=1e-6)
        mu = 0.0 if inverse == inf else 1 / inverse
    mu, nudge = mu * (1 - 1e-9), 1e-9
    while mu > 1e-290 and excess(mu) > 0:
        mu, nudge = mu * (1 - min(nudge, 1.0)), 4 * nudge
    if mu <= 1e-290:
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
    relation = Relation(relation)
    account = _Account.of(spent, relation)
    _check_kind(mechanism)
    if mechanism.kind is Kind.EXACT:
        return limit
    over = smallest_whole(
        lambda n: _composed(account.after(mechanism, n, relation), budget.delta, relation).epsilon > budget.epsilon,
        limit=limit + 1,
    )
    return limit if over is None else over - 1


class _Counted(NamedTuple):
    """One mechanism, and how many releases it made."""

    mechanism: Mechanism
    times: int


class _Account(NamedTuple):
    """Releases about the same data, taken together as far as their types say that they may be.

    Args:
        gaussian: how many have a profile that is Gaussian by construction.
        mu: of those together.
        others: the rest, equal ones together, in the order of their first.
        assumptions: of each mechanism, without repetition, in the order of their first.
    """

    gaussian: int
    mu: float
    others: tuple[_Counted, ...]
    assumptions: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, mechanisms: Iterable[Mechanism], relation: Relation) -> "_Account":
        """Of one mechanism for each release; the errors of `compose`. Nothing is hashed whose profile is Gaussian."""
        if isinstance(
            mechanisms, Mapping | Set
        ):  # in which equal releases count once, and numbers beside them not at all
            raise TypeError(
                f"mechanisms must be a list with one mechanism for each release, not a {type(mechanisms).__name__}"
            )
        kept = tuple(mechanisms)  # alive, so that no id is used twice
        kinds = _runs(map(type, kept))
        _check_types(kept, kinds)
        once, times = kept, None
        if len(set(map(id, kept))) < len(kept):
            once, times = tuple({id(m): m for m in kept}.values()), Counter(map(id, kept))
        alike, apart = once, ()
        if not all(map(_is_plain, kinds)) or _runs(map(_KIND, once)) != [Kind.EPSILON_DELTA]:
            for m in once:
                _check_kind(m)
            plain = [_is_plain(type(m)) and m.kind is Kind.EPSILON_DELTA for m in once]
            alike, apart = (
                tuple(m for m, like in zip(once, plain, strict=True) if like is which) for which in (True, False)
            )
        counts: dict[Mechanism, int] = {}
        for m in apart:
            counts[m] = counts.get(m, 0) + (1 if times is None else times[id(m)])
        others = tuple(_Counted(m, many) for m, many in counts.items())
        mu = _joint_mu(alike, None if times is None else [times[id(m)] for m in alike], relation)
        return cls(len(alike), mu, others, tuple(dict.fromkeys(_runs(map(_ASSUMPTIONS, once)))))

    @property
    def empty(self) -> bool:
        """Whether there is no release."""
        return not self.gaussian and not self.others

    def after(self, mechanism: Mechanism, times: int, relation: Relation) -> "_Account":
        """With so many more releases by `mechanism`."""
        assumptions = tuple(dict.fromkeys((*self.assumptions, mechanism.assumptions)))
        if _is_plain(type(mechanism)):
            mu = hypot(self.mu, sqrt(times) * mu_of(mechanism, relation))
            return _Account(self.gaussian + 1, mu, self.others, assumptions)
        return _Account(self.gaussian, self.mu, (*self.others, _Counted(mechanism, times)), assumptions)


def _runs(items: Iterable[Any]) -> list[Any]:
    """The items without those that equal the one before, which is quicker than to hash them all."""
    return [item for item, _ in groupby(items)]


def _joint_mu(mechanisms: Sequence[Mechanism], times: Sequence[int] | None, relation: Relation) -> float:
    """The root of the sum of squares, each so many times; infinite where `mu_of` is for one of them."""
    said = [m.mu(relation) for m in mechanisms]
    joint = hypot(*said) if times is None else hypot(*(sqrt(n) * mu for n, mu in zip(times, said, strict=True)))
    return inf if isnan(joint) or min(said, default=0.0) < 0 else joint


def _check_types(mechanisms: Sequence[Mechanism], kinds: Iterable[type]) -> None:
    # One of each type: to look for every attribute of every release would take longer than all else.
    for kind in set(kinds):
        one = next(m for m in mechanisms if type(m) is kind)
        if isinstance(one, type) or not isinstance(one, Mechanism):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"mechanisms must hold finished mechanisms, not {_validate.shown(one)}")


def _check_kind(mechanism: Mechanism) -> None:
    check_kind(mechanism)
    if mechanism.kind not in (Kind.EXACT, Kind.EPSILON_DELTA):
        raise ValueError(
            f"'{mechanism.name}' is of kind '{mechanism.kind}', which does not compose: no law of its release is bounded"
        )


def _composed(account: _Account, delta: float, relation: Relation) -> Bound:
    stated = dict.fromkeys(a for assumptions in account.assumptions for a in assumptions if a != assume.ONE_RELEASE)
    assumptions = (*stated, assume.INDEPENDENT_RELEASES)
    noisy = [part for part in account.others if part.mechanism.kind is Kind.EPSILON_DELTA]
    if not noisy and not account.gaussian:
        return ExactClaim(relation=relation, theorem=_THEOREM, assumptions=assumptions)
    least, mu = min(_bound(choice, account.mu, delta) for choice in _choices(noisy, delta, relation))
    return EpsilonDeltaClaim(
        epsilon=least * (1 + ROUNDING), delta=delta, mu=max(mu * (1 + ROUNDING), 1e-290),
        relation=relation, theorem=_THEOREM, assumptions=assumptions,
    )  # fmt: skip


class _Part(NamedTuple):
    """A mechanism, how many releases it made, and the reading that has one certifier."""

    mechanism: Mechanism
    times: int
    relation: Relation


def _choices(counted: Sequence[_Counted], delta: float, relation: Relation) -> list[list[_Part]]:
    """For every release one certifier: all the first, all the second, ..., or for each the one that alone proves most."""
    readings = [_readings(m, relation) for m, _ in counted]
    alone = [
        r.index(reading_of(m, delta=delta, relation=relation)) for r, (m, _) in zip(readings, counted, strict=True)
    ]
    most = max((len(r) for r in readings), default=1)
    picks = {tuple(min(k, len(r) - 1) for r in readings) for k in range(most)} | {tuple(alone)}
    return [
        [_Part(r[k][0], times, r[k][1]) for r, k, (_, times) in zip(readings, pick, counted, strict=True)]
        for pick in sorted(picks)
    ]


def _readings(mechanism: Mechanism, relation: Relation) -> tuple[tuple[Mechanism, Relation], ...]:
    return mechanism.readings(relation) if isinstance(mechanism, SeveralCertifiers) else ((mechanism, relation),)


def _bound(parts: Sequence[_Part], plain: float, delta: float) -> tuple[float, float]:
    """The least ε at δ and the μ of releases against one certifier each, beside Gaussian ones that have μ = `plain` together."""
    joint, target = _Joint.of(parts, plain, min(_LOW, log(delta) - 20)), log(delta)
    if joint.log_delta(0.0) <= target:
        return 0.0, joint.mu
    return smallest(lambda e: joint.log_delta(e) - target), joint.mu


@dataclass(frozen=True)
class _Joint:
    """Independent releases, each against one certifier.

    Args:
        mu: of all parts together, infinite where one has none.
        apart: log of their total variation.
        sources: of dominating pairs, each so many times, the Gaussian parts as one; empty where `mu` says all.
        only: the one release there is, of no Gaussian profile: its own needs no grid.
    """

    mu: float
    apart: float
    sources: "tuple[tuple[Source, int], ...]"
    only: _Part | None

    @classmethod
    def of(cls, parts: Sequence[_Part], plain: float, low: float) -> "_Joint":
        from expunge.accounting.chords import Chords  # late: arrays, which Gaussian releases need not wait for

        counts: dict[Source, int] = {}
        gaussians = [plain] if plain else []
        for m, times, relation in parts:
            made = m.losses() if isinstance(m, HasLosses) else None
            if made is not None and made[0].spacing(made[1] * times) is not None:
                counts[made[0]] = counts.get(made[0], 0) + made[1] * times
            elif _is_gaussian(m, relation):
                gaussians.append(sqrt(times) * mu_of(m, relation))
            else:
                source = Chords(_Of(m, relation), low)
                counts[source] = counts.get(source, 0) + times
        if counts and gaussians:
            counts[Chords(_Gaussian(hypot(*gaussians) * (1 + 1e-15)), low)] = 1
        mu = hypot(plain, *(sqrt(times) * mu_of(m, r) for m, times, r in parts)) * (1 + 1e-15)
        staying = log1p(-min(exp(gaussian.log_delta_upper(0.0, plain)), 1 - 1e-16)) if plain else 0.0
        staying += sum(times * log1p(-min(exp(log_delta_of(m, 0.0, r)), 1 - 1e-16)) for m, times, r in parts)
        apart = min(log(max(-expm1(staying), 1e-300)) + 1e-12, 0.0)
        only = parts[0] if len(parts) == 1 and parts[0].times == 1 and not plain else None
        return cls(mu, apart, tuple(counts.items()), only)

    def log_delta(self, epsilon: float) -> float:
        if self.only is not None:
            return log_delta_of(self.only.mechanism, epsilon, self.only.relation)
        known = min(gaussian.log_delta_upper(epsilon, self.mu), self.apart)
        if not self.sources:
            return known
        from expunge.accounting.losses import composed

        return min(known, composed(self.sources, epsilon))


@dataclass(frozen=True)
class _Of:
    """The profile of a mechanism."""

    mechanism: Mechanism
    relation: Relation

    def __call__(self, epsilon: float) -> float:
        return log_delta_of(self.mechanism, epsilon, self.relation)


@dataclass(frozen=True)
class _Gaussian:
    """The profile of a Gaussian shift."""

    mu: float

    def __call__(self, epsilon: float) -> float:
        return gaussian.log_delta_upper(epsilon, self.mu)


@cache
def _is_plain(kind: type[Mechanism]) -> bool:
    """Whether the profile of such mechanisms is Gaussian by construction, and their certifier one."""
    return getattr(kind, "log_delta", None) is GaussianProfile.log_delta and not issubclass(kind, SeveralCertifiers)


def _is_gaussian(mechanism: Mechanism, relation: Relation) -> bool:
    """Whether `log_delta` says no more than the Gaussian profile of `mu`, which may then take its place."""
    mu = mu_of(mechanism, relation)
    if mu == inf:
        return False
    at = [0.0, 0.1 * mu, mu, mu * mu / 2 + 3 * mu]
    return all(log_delta_of(mechanism, e, relation) >= gaussian.log_delta_upper(e, mu) - 1e-9 for e in at)
