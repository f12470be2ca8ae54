"""What a mechanism must say of itself: one number, an upper bound, and the configuration that it is proven of."""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from expunge.accounting.claims import Kind, Relation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.accounting.losses import Source

__all__ = ["Behavioural", "HasLosses", "Mechanism", "SeveralCertifiers"]


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
class Behavioural(Protocol):
    """A mechanism whose claim is about the answers of the released weights, and is proven from these."""

    @property
    def predicate(self) -> str:
        """What holds, in a sentence's part."""
        ...

    @property
    def region(self) -> str:
        """For which inputs."""
        ...

    def check(self, tensors: "Mapping[str, Any]") -> None:
        """Prove it of weights, by name as numpy arrays; raises `ValueError` with the reason."""
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


@runtime_checkable
class HasLosses(Protocol):
    """A mechanism that is so many independent copies of one source of privacy losses."""

    def losses(self) -> "tuple[Source, int] | None":
        """The source and how many times; None where it has none."""
        ...
