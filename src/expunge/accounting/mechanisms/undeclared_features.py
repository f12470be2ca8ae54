"""A head on a feature map of unknown origin: nothing is proven, and the certificate says so."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge import _validate
from expunge.accounting.claims import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.without_law import WithoutLaw

__all__ = ["UndeclaredFeatures"]


@dataclass(frozen=True, kw_only=True)
class UndeclaredFeatures(WithoutLaw):
    """What `GridRidge` or `MeasuredResidual` is where the feature map may have been made from the forgotten data.

    The head alone has unlearned; the map below it may remember. The guarantee is the empty one, δ = 1.

    Args:
        head: which head was run: "measured_residual", or "exact_ridge", as the first certificates called an exact one.
        noise_std: σ, per coordinate, of its noise; 0 where it has none.
    """

    name: ClassVar[str] = "undeclared_features"
    proof: ClassVar[str] = "docs/methods/tangent_features.md#statement"
    kind: ClassVar[Kind] = Kind.NONE
    theorem: ClassVar[str] = (
        "None: the head follows from the retained rows and their features, the features from what is not known."
    )
    why: ClassVar[str] = "An assumption on which the proof rests was not declared"
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (assume.FEATURES_UNDECLARED,)

    head: Literal["exact_ridge", "measured_residual"]
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        if self.head not in ("exact_ridge", "measured_residual"):
            raise ValueError(f"head must be 'exact_ridge' or 'measured_residual', not {self.head!r}")
        _validate.non_negative(noise_std=self.noise_std)

    @property
    def noise_draws(self) -> int:
        """One, or none."""
        return int(self.noise_std > 0)

    @property
    def output_noise_std(self) -> float:
        """σ."""
        return self.noise_std

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """There is none."""
        Relation(relation)
        return "none: where the feature map comes from was not declared"
