"""Noisy fine-tuning with clipped weights (Koloskova et al. 2025, Algorithm 2)."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from expunge import _validate
from expunge.accounting import contraction, gaussian
from expunge.accounting.claims import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.output_perturbation import OutputPerturbation
from expunge.accounting.protocol import Mechanism

__all__ = ["ModelClipping"]

_MU_ROUNDING = 2.0**-50


@dataclass(frozen=True, kw_only=True)
class ModelClipping:
    """T steps of x ← c + clip(x - c - η (g + λ (x - c)), C2) + N(0, σ² I) on the retained data.

    No gradient clip is needed: whatever a step did, the clip puts any two chains within 2 C2 before the noise. The
    profile is that of the contraction recursion at r = 2 C2/σ.

    Args:
        model_clip: C2, the L2 radius of the ball around the centre c; fixed without looking at the trained model.
        learning_rate: η; it does not enter the guarantee.
        weight_decay: λ ≥ 0, towards the centre; η λ ≤ 1; it does not enter the guarantee.
        steps: T ≥ 1.
        noise_std: σ, per coordinate and step, added after the clip.

    Source: Koloskova et al. 2025, arXiv 2506.06985; Balle et al. 2019, arXiv 1905.12264; Asoodeh et al. 2020.
    """

    name: ClassVar[str] = "model_clipping"
    proof: ClassVar[str] = "docs/methods/model_clipping.md#statement"
    kind: ClassVar[Kind] = Kind.EPSILON_DELTA
    theorem: ClassVar[str] = (
        "Contraction of hockey-stick divergence (Balle et al. 2019, arXiv 1905.12264; Asoodeh et al. 2020) along noisy "
        "fine-tuning with clipped weights (Koloskova et al. 2025, arXiv 2506.06985)."
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

    model_clip: float
    learning_rate: float
    weight_decay: float = 0.0
    steps: int
    noise_std: float

    def __post_init__(self) -> None:
        _validate.positive(model_clip=self.model_clip, learning_rate=self.learning_rate, noise_std=self.noise_std)
        _validate.non_negative(weight_decay=self.weight_decay)
        _validate.at_most_one(**{"learning_rate * weight_decay": self.decay})
        _validate.whole(steps=self.steps)

    @property
    def decay(self) -> float:
        """η λ."""
        return self.learning_rate * self.weight_decay

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
        """Unbounded: the first step ends with a clip."""
        return inf

    @property
    def output_noise_std(self) -> float:
        """σ: the last clip bounds all earlier noise."""
        return self.noise_std

    @property
    def surviving_norm(self) -> float:
        """C2: the last clip bounds everything before it."""
        return self.model_clip

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """The last step alone: 2 C2/σ, or C2/σ against the centre; rounded up. Its profile lies above `log_delta`."""
        reach = 2.0 if Relation(relation) is Relation.RETRAINED else 1.0
        return reach * self.model_clip / self.noise_std * (1 + _MU_ROUNDING)

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """The contraction recursion; against the centre the last step alone where that is smaller."""
        recursion = contraction.log_delta_after(self.steps, epsilon=epsilon, shift=self.mu(Relation.RETRAINED))
        if Relation(relation) is Relation.RETRAINED:
            return recursion
        return min(recursion, gaussian.log_delta_upper(epsilon, self.mu(Relation.CENTER)))

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """What the adversary of `contraction` attains: the recursion rounded down; the centre likewise."""
        shift, from_center = (self.mu(r) * (1 - 2 * _MU_ROUNDING) for r in Relation)
        recursion = contraction.log_delta_attained(self.steps, epsilon=epsilon, shift=shift)
        if Relation(relation) is Relation.RETRAINED:
            return recursion
        return min(recursion, gaussian.log_delta_lower(epsilon, from_center))

    def readings(self, relation: Relation = Relation.RETRAINED) -> tuple[tuple[Mechanism, Relation], ...]:
        """Against the centre two: the same steps started there, which is another start in the ball, or noise around it."""
        same_steps: tuple[Mechanism, Relation] = (self, Relation.RETRAINED)
        if Relation(relation) is Relation.RETRAINED:
            return (same_steps,)
        noise_alone = OutputPerturbation(init_clip=self.model_clip, noise_std=self.noise_std)
        return same_steps, (noise_alone, Relation.CENTER)

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The same steps from another start, or noise around the centre, in a sentence."""
        if Relation(relation) is Relation.RETRAINED:
            return (
                "the same noisy steps on the retained data, started from any other model, "
                "for example one trained without the forgotten data"
            )
        return (
            "the same noisy steps on the retained data, started at the centre of the ball, or noise of the same scale around "
            "the centre without any data, whichever of the two proves more"
        )
