"""What is asked (`Budget`), what is proven (`Guarantee`), and the one number a mechanism must give."""

from dataclasses import dataclass
from enum import StrEnum
from math import exp, inf, isnan, log
from typing import ClassVar, Protocol, runtime_checkable

from expunge import _validate
from expunge.accounting.search import smallest

__all__ = [
    "ROUNDING",
    "Budget",
    "Guarantee",
    "Kind",
    "Mechanism",
    "Relation",
    "SeveralCertifiers",
    "check_kind",
    "delta_at",
    "guarantee",
    "interval",
    "log_delta_of",
    "mu_of",
    "reading_of",
]

# Every published ε and μ is rounded up by this fraction, far more than floating point can lose between machines.
ROUNDING = 1e-10


class Relation(StrEnum):
    """Who plays the model that never saw the forget set: the certifier of the definition.

    `RETRAINED` is the stronger reading: the same procedure started from any other model of the ball, a retrained one
    among them. `CENTER`: noise alone, started at the centre of the ball, no data.
    """

    RETRAINED = "retrained"
    CENTER = "center"


class Kind(StrEnum):
    """Kinds of guarantee; never converted into one another."""

    EXACT = "exact"
    EPSILON_DELTA = "epsilon_delta"
    BEHAVIOURAL = "behavioural"
    EMPIRICAL = "empirical"
    NONE = "none"


@dataclass(frozen=True)
class Budget:
    """The guarantee that is asked for, (ε, δ)-indistinguishability, e.g. `Budget(1.0, 1e-5)`.

    Args:
        epsilon: ε ≥ 0.
        delta: δ, strictly between 0 and 1.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        _validate.non_negative(epsilon=self.epsilon)
        _validate.open_unit_interval(delta=self.delta)


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What is proven: an upper bound, rounded to the safe side.

    `mu` bounds the whole privacy profile (μ-GDP); (`epsilon`, `delta`) is one point of the best profile known, which
    for model clipping lies below that of `mu`. Of kind `none` it is the empty statement: δ = 1, μ infinite.
    """

    epsilon: float
    delta: float
    mu: float
    kind: Kind
    relation: Relation
    theorem: str
    assumptions: tuple[str, ...]


@runtime_checkable
class Mechanism(Protocol):
    """A frozen dataclass of public configuration that carries its own theorem.

    Formal guarantee: if a run does what the fields say, under the stated assumptions, then for every training set and
    every forget set the law of its output and the law of the certifier's output are (ε, δ)-close in both directions
    for every ε ≥ 0 and δ = exp(log_delta(ε, relation)). `covers` names the forget sets, a field in braces
    for its value ("at most {group_size} examples").
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    theorem: ClassVar[str]
    covers: ClassVar[str]
    assumptions: ClassVar[tuple[str, ...]]

    @property
    def gradient_steps(self) -> int:
        """How many gradient steps the run takes, exactly."""
        ...

    @property
    def noise_draws(self) -> int:
        """How many independent noise vectors the run draws, exactly."""
        ...

    @property
    def noise_std(self) -> float | tuple[float, ...]:
        """Standard deviation, per coordinate, of each noise vector; 0 where none is drawn, a tuple where they differ."""
        ...

    @property
    def start_radius(self) -> float:
        """The L2 radius to which the start is clipped; infinite where the proof needs no clip of the start."""
        ...

    @property
    def output_noise_std(self) -> float:
        """Standard deviation, per coordinate, of the accumulated noise in the output."""
        ...

    @property
    def surviving_norm(self) -> float:
        """The largest L2 norm of what can remain of the trained weights in the output."""
        ...

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """An upper bound on the μ of Gaussian differential privacy."""
        ...

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """An upper bound on log δ(ε), never an estimate; -inf where nothing leaks."""
        ...

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """A lower bound on the log δ(ε) of the worst case: what some adversary attains; -inf where none is known."""
        ...

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The certifier of this relation, in a sentence."""
        ...


@runtime_checkable
class SeveralCertifiers(Protocol):
    """A mechanism that under some relation has more than one certifier, each with a profile of its own.

    `log_delta` and `mu` may then give the least at each point: for that one (ε, δ), or for that μ, a certifier exists. Points
    of different certifiers make no profile, and nothing may be composed from them.
    """

    def readings(self, relation: Relation, /) -> tuple[tuple[Mechanism, Relation], ...]:
        """For each certifier one mechanism and relation whose profile is proven against it, and it alone."""
        ...


def guarantee(mechanism: Mechanism, *, delta: float, relation: Relation = Relation.RETRAINED) -> Guarantee:
    """The guarantee of a mechanism at a given δ: the least ε that its theorem gives, rounded up.

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
    if mechanism.kind is Kind.EXACT:
        epsilon, delta, mu = 0.0, 0.0, 0.0
    elif mechanism.kind is Kind.NONE:
        epsilon, delta, mu = 0.0, 1.0, inf
    else:
        epsilon, mu = _epsilon(mechanism, delta, relation), max(mu_of(mechanism, relation) * (1 + ROUNDING), 1e-290)
    return Guarantee(
        epsilon=epsilon,
        delta=delta,
        mu=mu,
        kind=mechanism.kind,
        relation=relation,
        theorem=mechanism.theorem,
        assumptions=mechanism.assumptions,
    )


def interval(
    mechanism: Mechanism, *, delta: float, relation: Relation = Relation.RETRAINED, tolerance: float = 1e-7
) -> tuple[float, float]:
    """[proved lower, proved upper] for the ε of a mechanism at δ: what some adversary attains, and the guarantee.

    Between the two lies the true ε. The lower end is 0 where no adversary is known to exceed δ.

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
    upper = guarantee(mechanism, delta=delta, relation=relation).epsilon
    relation, target = Relation(relation), log(delta)

    def attained(epsilon: float) -> bool:
        return mechanism.log_delta_lower(epsilon, relation) >= target  # NaN is attained by nobody

    if mechanism.kind is Kind.EXACT or not attained(0.0):
        return 0.0, upper
    # The first ε that is not attained, then down to one that is.
    lower = smallest(lambda e: mechanism.log_delta_lower(e, relation) - target, start=upper or 1.0, tolerance=tolerance)
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
    return min(mechanism.readings(relation), key=lambda r: guarantee(r[0], delta=delta, relation=r[1]).epsilon)


def check_kind(mechanism: Mechanism) -> None:
    """Raise unless the kind of a mechanism is one that says something about laws: exact, (ε, δ), or nothing at all.

    Numbers of another kind (`behavioural`, `empirical`, or one unknown here) measure runs; to read them as ε would turn a
    measurement into a proof.

    Raises:
        ValueError: the kind is none of these, or `exact` where the mechanism's own profile says that something leaks.
    """
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


def _epsilon(mechanism: Mechanism, delta: float, relation: Relation) -> float:
    target = log(delta)
    if log_delta_of(mechanism, 0.0, relation) <= target:
        return 0.0
    least = smallest(lambda epsilon: log_delta_of(mechanism, epsilon, relation) - target)
    return inf if least == inf else least * (1 + ROUNDING)
