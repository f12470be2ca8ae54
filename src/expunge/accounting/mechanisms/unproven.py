"""No theorem: what a run of a heuristic is held to, so that its certificate says what was run, and that nothing is proven."""

import re
from dataclasses import dataclass
from typing import ClassVar

from expunge.accounting.claims import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.without_law import WithoutNoise

__all__ = ["Unproven"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


@dataclass(frozen=True, kw_only=True)
class Unproven(WithoutNoise):
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

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """There is none."""
        Relation(relation)
        return "none: no theorem speaks of this method"
