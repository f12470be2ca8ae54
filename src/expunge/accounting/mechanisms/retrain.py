"""Training again without the forgotten data: exact."""

from dataclasses import dataclass
from typing import ClassVar

from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.exact import Exact

__all__ = ["Retrain"]


@dataclass(frozen=True, kw_only=True)
class Retrain(Exact):
    """Training on the retained data from an initialisation that ignores the forgotten data: ε = δ = 0."""

    name: ClassVar[str] = "retrain"
    proof: ClassVar[str] = "docs/methods/retrain.md#statement"
    theorem: ClassVar[str] = "The output is a function of the retained data and fresh coins alone."
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.RETAIN_ONLY,
        assume.CONFIGURATION_PUBLIC,
        assume.INITIALISATION_PUBLIC,
    )

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The procedure itself."""
        Relation(relation)
        return "the same training without the forgotten data"
