"""Noisy fine-tuning with clipped gradients (Koloskova et al. 2025, Algorithm 1)."""

from dataclasses import dataclass
from math import exp, expm1, log1p, sqrt
from typing import ClassVar

from expunge import _validate
from expunge.accounting import iteration
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.gaussian_profile import GaussianProfile

__all__ = ["GradientClipping", "certifier"]


def certifier(relation: Relation) -> str:
    """The algorithm that the theorem compares the run with, for constant and varying schedules alike."""
    if Relation(relation) is Relation.RETRAINED:
        return (
            "the same noisy steps on the retained data, started from any other model, "
            "for example one trained without the forgotten data"
        )
    return (
        "noise of the same scale, added and decayed from the centre of the ball without any data up to the step at which "
        "the bound is least, and from there the same noisy steps on the retained data"
    )


@dataclass(frozen=True, kw_only=True)
class GradientClipping(GaussianProfile):
    """x_0 = c + clip(x - c, C0), then T steps of x ← x - η (clip(g, C1) + λ (x - c)) + N(0, σ² I) on the retained data.

    g is a minibatch gradient taken as a whole, of any loss and any architecture. The μ is that of shifted interpolation
    with D = 2 C0, s = 2 η C1 (against the centre: C0 and η C1) and ρ = 1 - η λ, the least over all prefixes.

    Args:
        init_clip: C0, the L2 radius of the ball around the centre c; fixed without looking at the trained model.
        grad_clip: C1, the L2 radius for each minibatch gradient.
        learning_rate: η.
        weight_decay: λ ≥ 0, towards the centre; η λ ≤ 1.
        steps: T ≥ 1.
        noise_std: σ, per coordinate and step, added to the weights (not multiplied by η).

    Source: Koloskova et al. 2025, arXiv 2506.06985; Bok, Su & Altschuler 2024, arXiv 2403.00278.
    """

    name: ClassVar[str] = "gradient_clipping"
    proof: ClassVar[str] = "docs/methods/gradient_clipping.md#statement"
    theorem: ClassVar[str] = (
        "Shifted interpolation (Bok, Su & Altschuler 2024, arXiv 2403.00278) of noisy fine-tuning with clipped gradients "
        "(Koloskova et al. 2025, arXiv 2506.06985), minimum over prefixes, exact Gaussian profile."
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
    grad_clip: float
    learning_rate: float
    weight_decay: float
    steps: int
    noise_std: float

    def __post_init__(self) -> None:
        _validate.positive(
            init_clip=self.init_clip,
            grad_clip=self.grad_clip,
            learning_rate=self.learning_rate,
            noise_std=self.noise_std,
        )
        _validate.non_negative(weight_decay=self.weight_decay)
        _validate.at_most_one(**{"learning_rate * weight_decay": self.decay})
        _validate.whole(steps=self.steps)

    @property
    def decay(self) -> float:
        """η λ = 1 - ρ."""
        return self.learning_rate * self.weight_decay

    @property
    def kept_each_step(self) -> float:
        """ρ: where the gradient is 0 every step is θ ← ρ θ + noise, so that the output is Gaussian. Audits use it."""
        return 1 - self.decay

    @property
    def gradient_steps(self) -> int:
        """T."""
        return self.steps

    @property
    def noise_draws(self) -> int:
        """T."""
        return self.steps

    @property
    def start_radius(self) -> float:
        """C0."""
        return self.init_clip

    @property
    def output_noise_std(self) -> float:
        """σ sqrt(Σ_{j<T} ρ^2j)."""
        if self.decay == 0:
            return self.noise_std * sqrt(self.steps)
        if self.decay == 1:
            return self.noise_std
        squares = -expm1(2 * self.steps * log1p(-self.decay)) / (self.decay * (2 - self.decay))
        return self.noise_std * sqrt(squares)

    @property
    def surviving_norm(self) -> float:
        """ρ^T C0."""
        return 0.0 if self.decay == 1 else exp(self.steps * log1p(-self.decay)) * self.init_clip

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """Shifted interpolation, the minimum over prefixes, rounded up."""
        reach = 2.0 if Relation(relation) is Relation.RETRAINED else 1.0
        return iteration.shifted_interpolation(
            distance=reach * self.init_clip,
            drift=reach * self.learning_rate * self.grad_clip,
            decay=self.decay,
            noise_std=self.noise_std,
            steps=self.steps,
        )

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """What the adversary of `adversary` attains on a line; against the centre that follows the same certifier."""
        import numpy as np  # late, as the adversary: what is proven needs no arrays

        from expunge.accounting import adversary

        attained = (
            adversary.log_delta_retrained if Relation(relation) is Relation.RETRAINED else adversary.log_delta_center
        )
        return attained(
            epsilon=epsilon,
            radius=self.init_clip,
            push=np.full(self.steps, self.learning_rate * self.grad_clip),
            decay=np.full(self.steps, self.decay),
            noise_std=np.full(self.steps, self.noise_std),
        )

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The algorithm that the theorem compares the run with, in a sentence."""
        return certifier(relation)
