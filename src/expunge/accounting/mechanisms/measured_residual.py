"""A strongly convex objective, minimised on the retained rows to a measured residual, and a little noise."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from expunge import _validate
from expunge.accounting import gaussian
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.gaussian_profile import GaussianProfile

__all__ = ["MeasuredResidual"]

_MU_ROUNDING = 2.0**-50


@dataclass(frozen=True, kw_only=True)
class MeasuredResidual(GaussianProfile):
    """w with |∇F_R(w)| ≤ β, released as w + N(0, σ² I): μ = β/(λ σ) against the exact minimiser with the same noise.

    F_R, the objective over the retained rows, is λ-strongly convex, so |w - w*_R| ≤ |∇F_R(w)|/λ wherever w came from.

    Args:
        residual: β > 0, fixed in advance; the measured norm, with its rounding error, lies below it.
        strong_convexity: λ > 0, of the objective that is minimised.
        noise_std: σ, per coordinate.
        provenance: why the feature map does not depend on the forgotten data, in a few words; where that is not known
            the mechanism is `UndeclaredFeatures`.

    Source: strong convexity and the Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06530); in this use Guo et al.
        2020, arXiv 1911.03030; Neel et al. 2021, arXiv 2007.02923.
    """

    name: ClassVar[str] = "measured_residual"
    proof: ClassVar[str] = "docs/methods/measured_residual.md#statement"
    theorem: ClassVar[str] = (
        "A strongly convex objective's minimiser lies within residual/strong_convexity of any point with that gradient "
        "norm; exact profile of the Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06530) at that distance."
    )
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.FEATURES_PUBLIC,
        assume.OBJECTIVE_PUBLIC,
        assume.RESIDUAL_MEASURED,
        assume.NOISE_FRESH,
        assume.PSEUDORANDOM,
        assume.NOISE_GAUSSIAN,
        assume.REAL_ARITHMETIC,
        assume.ONE_RELEASE,
    )

    residual: float
    strong_convexity: float
    noise_std: float
    provenance: str

    def __post_init__(self) -> None:
        _validate.positive(residual=self.residual, strong_convexity=self.strong_convexity, noise_std=self.noise_std)
        _validate.text(provenance=self.provenance)

    @property
    def gradient_steps(self) -> int:
        """None that the proof counts: the residual is measured, however it was reached."""
        return 0

    @property
    def noise_draws(self) -> int:
        """One."""
        return 1

    @property
    def start_radius(self) -> float:
        """Unbounded: the residual is measured at the end."""
        return inf

    @property
    def output_noise_std(self) -> float:
        """σ."""
        return self.noise_std

    @property
    def surviving_norm(self) -> float:
        """β/λ, the largest distance from the exact minimiser."""
        return self.residual / self.strong_convexity

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """β/(λ σ), rounded up."""
        Relation(relation)
        return self.residual / self.strong_convexity / self.noise_std * (1 + _MU_ROUNDING)

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """The same profile rounded down: on a quadratic objective a point at the full distance attains it."""
        return gaussian.log_delta_lower(epsilon, self.mu(relation) * (1 - 2 * _MU_ROUNDING))

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The exact minimiser with the same noise: what retraining without limits of arithmetic would release."""
        Relation(relation)
        return (
            "the release of the exact minimiser of the same objective over the retained rows, with the same feature map and "
            "noise of the same scale"
        )
