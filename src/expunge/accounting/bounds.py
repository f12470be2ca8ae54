"""What a mechanism proves: its claim at one δ, its δ at one ε, and the interval in which the true ε lies."""

from math import exp, inf, isnan, log

from expunge import _validate
from expunge.accounting.claims import (
    BehaviouralClaim,
    Bound,
    Claim,
    EpsilonDeltaClaim,
    ExactClaim,
    Kind,
    NoClaim,
    Relation,
)
from expunge.accounting.protocol import Behavioural, Mechanism, SeveralCertifiers
from expunge.accounting.search import smallest

__all__ = ["ROUNDING", "check_kind", "delta_at", "guarantee", "interval", "log_delta_of", "mu_of", "reading_of"]

# Every published ε and μ is rounded up by this fraction, far more than floating point can lose between machines.
ROUNDING = 1e-10


def guarantee(mechanism: Mechanism, *, delta: float, relation: Relation = Relation.RETRAINED) -> Claim:
    """The claim that a mechanism proves at a given δ: of kind (ε, δ) with the least ε that its theorem gives, rounded up.

    >>> from expunge.accounting.mechanisms import OutputPerturbation
    >>> proven = guarantee(OutputPerturbation(init_clip=1.0, noise_std=2.0), delta=1e-5)
    >>> f"mu = {proven.mu:.6f}, epsilon = {proven.epsilon:.6f}"
    'mu = 1.000000, epsilon = 4.377178'

    Raises:
        ValueError: a δ outside (0, 1), or a mechanism of a kind that proves no law (see `check_kind`).
    """
    _validate.open_unit_interval(delta=delta)
    relation = Relation(relation)
    check_kind(mechanism)
    theorem, assumptions = mechanism.theorem, mechanism.assumptions
    match Kind(mechanism.kind):
        case Kind.EXACT:
            return ExactClaim(relation=relation, theorem=theorem, assumptions=assumptions)
        case Kind.EPSILON_DELTA:
            return EpsilonDeltaClaim(
                epsilon=_epsilon(mechanism, delta, relation), delta=delta,
                mu=max(mu_of(mechanism, relation) * (1 + ROUNDING), 1e-290),
                relation=relation, theorem=theorem, assumptions=assumptions,
            )  # fmt: skip
        case Kind.BEHAVIOURAL if isinstance(mechanism, Behavioural):
            return BehaviouralClaim(
                predicate=mechanism.predicate, region=mechanism.region, relation=relation, theorem=theorem,
                assumptions=assumptions,
            )  # fmt: skip
        case _:
            return NoClaim(relation=relation, theorem=theorem, assumptions=assumptions)


def interval(
    mechanism: Mechanism, *, delta: float, relation: Relation = Relation.RETRAINED, tolerance: float = 1e-7
) -> tuple[float, float]:
    """[proved lower, proved upper] for the ε of a mechanism at δ: what some adversary attains, and the guarantee.

    Between the two lies the true ε. The lower end is 0 where no adversary is known to exceed δ, the upper one infinite
    where nothing is proven.

    Args:
        mechanism: a finished one.
        delta: δ, strictly between 0 and 1.
        relation: the reading of both ends.
        tolerance: relative, of the search for the lower end; it always errs downwards.

    >>> from expunge.accounting.mechanisms import OutputPerturbation
    >>> low, high = interval(OutputPerturbation(init_clip=1.0, noise_std=2.0), delta=1e-5)
    >>> f"{low:.6f} {high:.6f}"
    '4.377178 4.377178'
    """
    upper, relation, target = _least(mechanism, relation, delta), Relation(relation), log(delta)

    def attained(epsilon: float) -> bool:
        return mechanism.log_delta_lower(epsilon, relation) >= target  # NaN is attained by nobody

    if mechanism.kind == Kind.EXACT or not attained(0.0):
        return 0.0, upper
    # The first ε that is not attained, then down to one that is.
    start = upper if 0 < upper < inf else 1.0
    lower = smallest(lambda e: mechanism.log_delta_lower(e, relation) - target, start=start, tolerance=tolerance)
    lower, step = min(lower, upper), tolerance
    while lower > 0 and not attained(lower):
        lower, step = max(lower * (1 - step), 0.0) if step < 1 else 0.0, 2 * step
    return lower, upper


def delta_at(mechanism: Mechanism, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
    """An upper bound on δ at a given ε, never below 1e-300 unless nothing leaks.

    Raises:
        ValueError: an ε below 0 or none, or a mechanism of a kind that proves no law (see `check_kind`).
    """
    _validate.non_negative(epsilon=epsilon)
    check_kind(mechanism)
    log_delta = log_delta_of(mechanism, epsilon, Relation(relation))
    return 0.0 if log_delta == -inf else min(max(exp(log_delta) * (1 + ROUNDING), 1e-300), 1.0)


def reading_of(mechanism: Mechanism, *, delta: float, relation: Relation) -> tuple[Mechanism, Relation]:
    """The mechanism and relation with one certifier at all ε that prove most at δ: its own, unless it has several."""
    if not isinstance(mechanism, SeveralCertifiers):
        return mechanism, relation
    return min(mechanism.readings(relation), key=lambda r: _least(*r, delta))


def check_kind(mechanism: Mechanism) -> None:
    """Raise unless the kind of a mechanism is one that says something about laws: exact, (ε, δ), or nothing at all.

    A behavioural one must say what holds and where, and that it bounds no law. Numbers of another kind are about runs; to read
    them as ε would turn a measurement into a proof.

    Raises:
        ValueError: the kind is none of these, or `exact` where the mechanism's own profile says that something leaks.
    """
    if mechanism.kind == Kind.BEHAVIOURAL and isinstance(mechanism, Behavioural):
        if any(mechanism.log_delta(0.0, relation) != 0.0 for relation in Relation):
            raise ValueError(f"'{mechanism.name}' is of kind 'behavioural', and its own log_delta bounds a law")
        return
    if mechanism.kind not in (Kind.EXACT, Kind.EPSILON_DELTA, Kind.NONE):
        raise ValueError(
            f"'{mechanism.name}' is of kind {str(mechanism.kind)!r}, which proves no (epsilon, delta): only mechanisms of "
            f"kind 'exact', 'epsilon_delta' or 'none' have a guarantee"
        )
    if mechanism.kind == Kind.EXACT and any(mechanism.log_delta(0.0, relation) != -inf for relation in Relation):
        raise ValueError(f"'{mechanism.name}' is of kind 'exact', but its own log_delta says that something leaks")


def log_delta_of(mechanism: Mechanism, epsilon: float, relation: Relation) -> float:
    """What a mechanism says of log δ(ε), at most 0; where it says no number nothing is known, and δ is 1."""
    said = mechanism.log_delta(epsilon, relation)
    return 0.0 if isnan(said) else min(said, 0.0)


def mu_of(mechanism: Mechanism, relation: Relation) -> float:
    """What a mechanism says of μ; infinite, nothing known, where that is no number or below 0."""
    said = mechanism.mu(relation)
    return said if said >= 0 else inf


def _least(mechanism: Mechanism, relation: Relation, delta: float) -> float:
    """The least ε that is proven at δ; infinite where nothing is."""
    claim = guarantee(mechanism, delta=delta, relation=relation)
    return claim.epsilon if isinstance(claim, Bound) else inf


def _epsilon(mechanism: Mechanism, delta: float, relation: Relation) -> float:
    target = log(delta)
    if log_delta_of(mechanism, 0.0, relation) <= target:
        return 0.0
    least = smallest(lambda epsilon: log_delta_of(mechanism, epsilon, relation) - target)
    return inf if least == inf else least * (1 + ROUNDING)
