"""What is asked (`Budget`), and what is claimed: one class for each kind, none of which is read as another."""

from abc import ABC
from dataclasses import dataclass
from enum import StrEnum
from math import isnan
from typing import TYPE_CHECKING, ClassVar, Never

from expunge import _validate

__all__ = [
    "BehaviouralClaim",
    "Bound",
    "Budget",
    "Claim",
    "EpsilonDeltaClaim",
    "ExactClaim",
    "Kind",
    "NoClaim",
    "Relation",
    "numbers_of",
]


class Relation(StrEnum):
    """Who plays the model that never saw the forget set: the certifier of the definition.

    `RETRAINED` is the stronger reading: the same procedure started from any other model of the ball, a retrained one
    among them. `CENTER`: noise alone, started at the centre of the ball, no data.
    """

    RETRAINED = "retrained"
    CENTER = "center"


class Kind(StrEnum):
    """Kinds of claim, each with a class of its own; never converted into one another."""

    EXACT = "exact"
    EPSILON_DELTA = "epsilon_delta"
    BEHAVIOURAL = "behavioural"
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
class _Stated(ABC):
    """What claims of all kinds have: the certifier's relation, the theorem, and what it assumes."""

    kind: ClassVar[Kind]

    relation: Relation
    theorem: str
    assumptions: tuple[str, ...]

    def meets(self, budget: Budget) -> bool:
        """Whether the claim bounds the laws within a budget: one that bounds none meets none."""
        return isinstance(self, Bound) and self.epsilon <= budget.epsilon and self.delta <= budget.delta

    if not TYPE_CHECKING:  # to a type checker, what is not declared is not there

        def __getattr__(self, name: str) -> Never:
            if name in _NUMBERS:
                raise AttributeError(f"a claim of kind '{self.kind}' bounds no law: it has no {name}")
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")


@dataclass(frozen=True, kw_only=True)
class ExactClaim(_Stated):
    """The law of the output is the certifier's: ε, δ and μ are 0."""

    kind: ClassVar[Kind] = Kind.EXACT
    epsilon: ClassVar[float] = 0.0
    delta: ClassVar[float] = 0.0
    mu: ClassVar[float] = 0.0


@dataclass(frozen=True, kw_only=True)
class EpsilonDeltaClaim(_Stated):
    """The law of the output is (ε, δ)-indistinguishable from the certifier's: an upper bound, rounded to the safe side.

    Args:
        epsilon: ε ≥ 0, at `delta` one point of the best profile known; infinite where nothing is known.
        delta: δ, strictly between 0 and 1.
        mu: bounds the whole profile (μ-GDP), which for model clipping lies above the best; infinite where nothing is known.
        relation: whom the output is compared with.
        theorem: in a sentence, with its source.
        assumptions: of the theorem, in sentences.
    """

    kind: ClassVar[Kind] = Kind.EPSILON_DELTA

    epsilon: float
    delta: float
    mu: float

    def __post_init__(self) -> None:
        _validate.open_unit_interval(delta=self.delta)
        for name, value in (("epsilon", self.epsilon), ("mu", self.mu)):
            if isnan(value) or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, or infinite, not {_validate.shown(value)}")


@dataclass(frozen=True, kw_only=True)
class BehaviouralClaim(_Stated):
    """The released model behaves in a stated way on a stated region: nothing about laws, and so no ε.

    Args:
        predicate: what holds, in a sentence.
        region: for which inputs, in a sentence or by identifiers.
        relation: whom the output is compared with, where the predicate compares.
        theorem: what shows it, in a sentence.
        assumptions: of it, in sentences.
    """

    kind: ClassVar[Kind] = Kind.BEHAVIOURAL

    predicate: str
    region: str

    def __post_init__(self) -> None:
        _validate.text(predicate=self.predicate, region=self.region)


@dataclass(frozen=True, kw_only=True)
class NoClaim(_Stated):
    """Nothing is claimed: an assumption of the theorem was not declared, or there is no theorem."""

    kind: ClassVar[Kind] = Kind.NONE


Bound = ExactClaim | EpsilonDeltaClaim
"""The claims that bound laws, and alone have ε, δ and μ."""

Claim = ExactClaim | EpsilonDeltaClaim | BehaviouralClaim | NoClaim
"""What is claimed of an output; `isinstance` tells the kinds apart."""

_NUMBERS = ("epsilon", "delta", "mu")


def numbers_of(claim: Claim) -> dict[str, float | None]:
    """ε, δ and μ by name, for whoever writes them down; None of each where the claim bounds no law."""
    return {name: getattr(claim, name) if isinstance(claim, Bound) else None for name in _NUMBERS}
