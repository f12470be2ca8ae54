"""No theorem: what a run of a heuristic is held to, so that its certificate says what was run, and that nothing is proven."""

import re
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from expunge import _validate
from expunge.accounting.claims import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume

__all__ = ["Unproven"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


@dataclass(frozen=True, kw_only=True)
class Unproven:
    """A method of which nothing is proven. The guarantee is the empty one, δ = 1.

    Args:
        method: what was run, e.g. "scrub".
    """

    name: ClassVar[str] = "unproven"
    proof: ClassVar[str] = "docs/methods/heuristics.md#statement"
    kind: ClassVar[Kind] = Kind.NONE
    theorem: ClassVar[str] = "None: no theorem speaks of this method."
    proves: ClassVar[str] = "Nothing is proven: no theorem speaks of the method that was run. See the assumptions."
    why: ClassVar[str] = "No theorem speaks of the method that was run"
    unasked: ClassVar[bool] = True
    covers: ClassVar[str] = "no forget set"
    assumptions: ClassVar[tuple[str, ...]] = (assume.NO_THEOREM,)

    method: str = "function"

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or not _NAME.fullmatch(self.method):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"method must be a name of small letters, digits and underscores, not {self.method!r:.100}"
            )

    @property
    def gradient_steps(self) -> int:
        """None that a proof counts."""
        return 0

    @property
    def noise_draws(self) -> int:
        """None."""
        return 0

    @property
    def noise_std(self) -> float:
        """None."""
        return 0.0

    @property
    def start_radius(self) -> float:
        """Unbounded."""
        return inf

    @property
    def output_noise_std(self) -> float:
        """None."""
        return 0.0

    @property
    def surviving_norm(self) -> float:
        """Unbounded."""
        return inf

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """Infinite."""
        Relation(relation)
        return inf

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """0: δ is at most 1, and that is all."""
        _validate.non_negative(epsilon=epsilon)
        Relation(relation)
        return 0.0

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """-inf: no attack is claimed either."""
        _validate.non_negative(epsilon=epsilon)
        Relation(relation)
        return -inf

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """There is none."""
        Relation(relation)
        return "none: no theorem speaks of this method"
