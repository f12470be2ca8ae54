"""Noisy fine-tuning with clipped gradients whose learning rate and noise vary from step to step."""

from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import TYPE_CHECKING, ClassVar

from expunge import _validate
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.gaussian_profile import GaussianProfile
from expunge.accounting.mechanisms.gradient_clipping import GradientClipping, certifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from expunge.accounting.schedules import Path

__all__ = ["ScheduledGradientClipping"]


@dataclass(frozen=True, kw_only=True)
class ScheduledGradientClipping(GaussianProfile):
    """x_0 = c + clip(x - c, C0), then x ← x - η_t (clip(g, C1) + λ (x - c)) + N(0, σ_t² I) for t = 1..T on the retained data.

    As `GradientClipping`, with one learning rate and one noise a step. The μ is that of shifted interpolation for any
    schedule: the least, over the steps, of the noiseless distance over the accumulated noise.

    Args:
        init_clip: C0, the L2 radius of the ball around the centre c; fixed without looking at the trained model.
        grad_clip: C1, the L2 radius for each minibatch gradient.
        learning_rate: η_t, one a step; any sequence, kept as a tuple.
        weight_decay: λ ≥ 0, towards the centre; η_t λ ≤ 1.
        noise_std: σ_t, per coordinate, one a step, added to the weights (not multiplied by η_t); kept as a tuple.

    Raises:
        TypeError, ValueError: unequal lengths, a value out of range or NaN; the message names the schedule and the step.

    Source: Koloskova et al. 2025, arXiv 2506.06985; Bok, Su & Altschuler 2024, arXiv 2403.00278.
    """

    name: ClassVar[str] = "scheduled_gradient_clipping"
    proof: ClassVar[str] = "docs/methods/scheduled_gradient_clipping.md#statement"
    theorem: ClassVar[str] = (
        "Shifted interpolation (Bok, Su & Altschuler 2024, arXiv 2403.00278) of noisy fine-tuning with clipped gradients "
        "(Koloskova et al. 2025, arXiv 2506.06985), any schedule, minimum over prefixes, exact Gaussian profile."
    )
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = GradientClipping.assumptions

    init_clip: float
    grad_clip: float
    learning_rate: tuple[float, ...]
    weight_decay: float
    noise_std: tuple[float, ...]

    def __post_init__(self) -> None:
        _validate.positive(init_clip=self.init_clip, grad_clip=self.grad_clip)
        _validate.non_negative(weight_decay=self.weight_decay)
        schedules = _validate.schedules(
            learning_rate=(self.learning_rate, _validate.LEAST, inf),
            noise_std=(self.noise_std, _validate.LEAST, inf),
        )
        for name, schedule in schedules.items():  # tuples of floats, so that equal schedules are equal mechanisms
            object.__setattr__(self, name, tuple(schedule.tolist()))
        largest = max(range(self.steps), key=self.learning_rate.__getitem__)
        _validate.at_most_one(
            **{f"learning_rate[{largest}] * weight_decay": self.learning_rate[largest] * self.weight_decay}
        )

    @property
    def steps(self) -> int:
        """T, the length of the schedules."""
        return len(self.noise_std)

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
        """The square root of Σ_t (Π_{j>t} ρ_j)² σ_t²."""
        return float(self._path.noise_std[-1])

    @property
    def surviving_norm(self) -> float:
        """Π_t ρ_t C0."""
        return prod(1 - decay for decay in self._decay) * self.init_clip

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """Shifted interpolation, the minimum over prefixes, rounded up."""
        return float(self.prefix_mu(relation).min())

    def prefix_mu(self, relation: Relation = Relation.RETRAINED) -> "NDArray[np.float64]":
        """The bound for stopping after 1 ... T steps, shape (T,), rounded up."""
        reach = 2.0 if Relation(relation) is Relation.RETRAINED else 1.0
        return reach * self._path.mu

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
            push=np.asarray(self._push),
            decay=np.asarray(self._decay),
            noise_std=np.asarray(self.noise_std),
        )

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The certifier of `GradientClipping`, in a sentence."""
        return certifier(relation)

    @cached_property
    def _path(self) -> "Path":
        """Against the centre; the distance from another model of the ball is twice that at every step."""
        from expunge.accounting.schedules import path  # late: arrays

        return path(distance=self.init_clip, drift=self._push, decay=self._decay, noise_std=self.noise_std)

    @property
    def _push(self) -> tuple[float, ...]:
        return tuple(rate * self.grad_clip for rate in self.learning_rate)

    @property
    def _decay(self) -> tuple[float, ...]:
        return tuple(rate * self.weight_decay for rate in self.learning_rate)
