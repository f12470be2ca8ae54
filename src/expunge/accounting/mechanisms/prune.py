"""Patches on the linear pieces of a ReLU network: on each the model answers another class, and elsewhere it is what it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from expunge import _validate
from expunge.accounting.claims import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.without_law import WithoutNoise

__all__ = ["Prune"]

_PREDICATE = "with the class that the patch names, by a margin of {margin} in scores, and so with no label that the rows to be forgotten had there"
_REGION = (
    "inputs with numbers from {lowest} to {highest} on the linear pieces of the network that its patches ({patches}) name by the signs "
    "of hidden units, each unit at least the patch's slack away from zero"
)


@dataclass(frozen=True, kw_only=True)
class Prune(WithoutNoise):
    """A network with patches: each raises one score on one linear piece of the network, so that this class wins there.

    Nothing is said about laws: the guarantee in (ε, δ) is the empty one, δ = 1, and who looks at the model finds the patches.
    After Li et al. 2025, arXiv 2505.06520. What is proven is proven of the weights: `check` reads them.

    Args:
        layers: of the network, in words: "linear", "relu", "flatten", "conv2d out=8 kernel=3,3 stride=1,1 padding=1,1",
            "avgpool2d kernel=2,2 stride=2,2 padding=0,0".
        input_shape: of one input.
        lowest: the least number of an input.
        highest: the largest.
        patches: how many there are.
        margin: by how much the patch's class wins, in scores.
    """

    name: ClassVar[str] = "prune"
    proof: ClassVar[str] = "docs/methods/prune.md#statement"
    kind: ClassVar[Kind] = Kind.BEHAVIOURAL
    unasked: ClassVar[bool] = True
    signed: ClassVar[tuple[str, ...]] = ("lowest", "highest")
    theorem: ClassVar[str] = (
        "On a piece of the input space where no hidden unit of a ReLU network changes its sign the network is affine; there the "
        "least lead of the patch's class is bounded by weak duality of a linear program (patches after Li et al. 2025, arXiv 2505.06520)."
    )
    proves: ClassVar[str] = (
        f"In real arithmetic the released model answers {_PREDICATE}, at all {_REGION}. Nothing is said of what else the model tells of "
        "the forgotten data: the loss of a patched row is abnormally high, and whoever looks for that finds it."
    )
    covers: ClassVar[str] = "the rows that were patched"
    assumptions: ClassVar[tuple[str, ...]] = (assume.REAL_ARITHMETIC, assume.PIECES_OF_ROWS, assume.BEHAVIOUR_ONLY)

    layers: tuple[str, ...]
    input_shape: tuple[int, ...]
    lowest: float
    highest: float
    patches: int
    margin: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        for layer in self.layers:
            _validate.text(layers=layer)
        for side in self.input_shape:
            _validate.whole(input_shape=side)
        _validate.whole(patches=self.patches)
        _validate.positive(margin=self.margin)
        for name in ("lowest", "highest"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int | float):
                raise TypeError(f"{name} must be a number, not {getattr(self, name)!r}")
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "margin", float(self.margin))
        if not (isfinite(self.lowest) and isfinite(self.highest) and self.lowest < self.highest):
            raise ValueError(
                f"lowest and highest must be finite numbers, the first below, not {self.lowest!r} and {self.highest!r}"
            )
        if not self.layers or not self.input_shape:
            raise ValueError("layers and input_shape must not be empty")

    @property
    def predicate(self) -> str:
        """What holds on the region."""
        return _PREDICATE.format(margin=self.margin)

    @property
    def region(self) -> str:
        """Where it holds."""
        return _REGION.format(lowest=self.lowest, highest=self.highest, patches=self.patches)

    def check(self, tensors: Mapping[str, Any]) -> None:
        """Prove the patches again from the released weights.

        Args:
            tensors: by name, as the weights file has them: "network.…", "signs" (patches, hidden units), "slacks", "shifts" and
                "targets" (patches,), "labels" (patches, classes).

        Raises:
            ValueError: they do not prove what is claimed; the message names the patch.
        """
        from expunge.accounting.patches import prove  # late: linear programs, and who needs none waits for none

        prove(self, tensors)

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """There is none."""
        Relation(relation)
        return "none: the claim is about answers, and compares with no other model"
