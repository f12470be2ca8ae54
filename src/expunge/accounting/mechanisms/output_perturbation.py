"""Clip the trained weights, add noise once."""

from dataclasses import dataclass
from typing import ClassVar

from expunge import _validate
from expunge.accounting import gaussian
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.gaussian_profile import GaussianProfile

__all__ = ["OutputPerturbation"]

_MU_ROUNDING = 2.0**-50
_RETRAINED = Relation.RETRAINED  # a member of an enumeration is slow to reach, and a ledger asks each of its releases


@dataclass(frozen=True, kw_only=True)
class OutputPerturbation(GaussianProfile):
    """c + clip(x - c, C0) + N(0, σ² I): one Gaussian mechanism, μ = 2 C0/σ (centre: C0/σ).

    Args:
        init_clip: C0, the L2 radius of the ball around the centre c; fixed without looking at the trained model.
        noise_std: σ, per coordinate.

    Source: Balle & Wang 2018, arXiv 1805.06530; as a baseline in Koloskova et al. 2025, arXiv 2506.06985.
    """

    name: ClassVar[str] = "output_perturbation"
    proof: ClassVar[str] = "docs/methods/output_perturbation.md#statement"
    theorem: ClassVar[str] = (
        "Exact profile of the Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06530, Theorem 8) at the diameter of the ball."
    )
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.RETAIN_ONLY,
        assume.CONFIGURATION_PUBLIC,
        assume.CENTER_PUBLIC,
        assume.COVERED,
        assume.NOISE_FRESH,
        assume.PSEUDORANDOM,
        assume.NOISE_GAUSSIAN,
        assume.REAL_ARITHMETIC,
        assume.ONE_RELEASE,
    )

    init_clip: float
    noise_std: float

    def __post_init__(self) -> None:
        _validate.positive(init_clip=self.init_clip, noise_std=self.noise_std)

    @property
    def gradient_steps(self) -> int:
        """None."""
        return 0

    @property
    def noise_draws(self) -> int:
        """One."""
        return 1

    @property
    def start_radius(self) -> float:
        """C0."""
        return self.init_clip

    @property
    def output_noise_std(self) -> float:
        """σ."""
        return self.noise_std

    @property
    def surviving_norm(self) -> float:
        """C0."""
        return self.init_clip

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """2 C0/σ, or C0/σ against the centre; rounded up."""
        reach = 2.0 if relation is _RETRAINED or Relation(relation) is _RETRAINED else 1.0
        return reach * self.init_clip / self.noise_std * (1 + _MU_ROUNDING)

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """The same profile rounded down: two models at the ends of a diameter (a radius) attain it."""
        return gaussian.log_delta_lower(epsilon, self.mu(relation) * (1 - 2 * _MU_ROUNDING))

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The same noise around another model, or around the centre, in a sentence."""
        if Relation(relation) is Relation.RETRAINED:
            return (
                "the same clip and noise applied to any other model, for example one trained without the forgotten data"
            )
        return "noise of the same scale around the centre of the ball, without any data"
