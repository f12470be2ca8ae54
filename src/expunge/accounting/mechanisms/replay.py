"""A traced training, replayed without the forgotten records from before their first use: exact."""

from dataclasses import dataclass
from typing import ClassVar

from expunge import _validate
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.exact import Exact

__all__ = ["Replay"]


@dataclass(frozen=True, kw_only=True)
class Replay(Exact):
    """A training whose every step is a function of the records that a keyed hash assigns to it: ε = δ = 0.

    Up to the first use of a forgotten record the training is that without it; from there it is run again. The coins are
    those of the training, so the forget set must not be chosen from its release (Gupta et al. 2021, arXiv 2106.04378).

    Args:
        shards: how many models were trained on disjoint shards (SISA); 1 for a single model.

    Source: Bourtoule et al. 2021, arXiv 1912.03817.
    """

    name: ClassVar[str] = "replay"
    proof: ClassVar[str] = "docs/methods/replay.md#statement"
    theorem: ClassVar[str] = (
        "Each step is a function of the records assigned to it by a keyed hash of their own names; until the first use of "
        "a forgotten record the training equals the one without it, and from there it is repeated without it."
    )
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.CONFIGURATION_PUBLIC,
        assume.INITIALISATION_PUBLIC,
        assume.FORGET_SET_FIXED,
        assume.KEYED_TRACE,
        assume.KERNELS_REPEAT,
    )

    shards: int = 1

    def __post_init__(self) -> None:
        _validate.whole(shards=self.shards)

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The procedure itself."""
        Relation(relation)
        return "the same traced training without the forgotten data"
