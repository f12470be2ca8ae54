"""Noisy fine-tuning with clipped gradients, one block of the weights after another."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import hypot, sqrt
from typing import Any, ClassVar

from expunge import _validate
from expunge.accounting import gaussian, iteration
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.gaussian_profile import GaussianProfile
from expunge.accounting.mechanisms.gradient_clipping import GradientClipping

__all__ = ["BlockwiseGradientClipping"]


@dataclass(frozen=True, kw_only=True)
class BlockwiseGradientClipping(GaussianProfile):
    """Blocks b = 1..B of the weights in turn: clip to C_b, then T noisy steps on this block alone; finished blocks stay.

    The T steps of a block are those of `GradientClipping`, with the gradient of the block clipped to C1. Blocks that have
    had no noise yet still hold the forgotten data, and the gradient may see them or not:

    - `blind`: they are held at the centre while the gradient is computed. Each block is then one more mechanism on top of
      finished blocks that both worlds share, its μ_b that of gradient clipping with C_b.
    - not blind: what they say may push the block differently in the two worlds at every step, even where both are at the
      same point. The drift is paid to the last step: μ_b is the bound at T, with no minimum over prefixes. Only the last
      block has nothing left to see.

    μ² is the sum of the μ_b².

    Args:
        block_sizes: coordinates of each block, in the order of the weights; they add up to all of them.
        block_clips: C_b, the L2 radius of each block's ball around the centre; fixed without looking at the trained model.
        grad_clip: C1, the L2 radius for the block's part of each minibatch gradient.
        learning_rate: η.
        weight_decay: λ ≥ 0, towards the centre; η λ ≤ 1.
        steps: T ≥ 1, for each block.
        noise_std: σ, per coordinate and step, added to the weights of the block.
        blind: whether blocks without noise are hidden from the gradient.

    Source: after Dolgova & Stich 2026, arXiv 2601.05134, with the leak through blocks not yet noised accounted for.
    """

    name: ClassVar[str] = "blockwise_gradient_clipping"
    proof: ClassVar[str] = "docs/methods/blockwise_gradient_clipping.md#statement"
    theorem: ClassVar[str] = (
        "Adaptive composition of Gaussian mechanisms (Dong, Roth & Su 2019, arXiv 1905.02383) over blocks noised in turn "
        "(after Dolgova & Stich 2026, arXiv 2601.05134), each by shifted interpolation (Bok, Su & Altschuler 2024, "
        "arXiv 2403.00278); where the gradient sees blocks without noise, no minimum over prefixes."
    )
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = GradientClipping.assumptions

    block_sizes: tuple[int, ...]
    block_clips: tuple[float, ...]
    grad_clip: float
    learning_rate: float
    weight_decay: float
    steps: int
    noise_std: float
    blind: bool

    def __post_init__(self) -> None:
        for name in ("block_sizes", "block_clips"):
            if isinstance(getattr(self, name), str) or not hasattr(getattr(self, name), "__iter__"):
                raise TypeError(f"{name} must be a sequence, one entry a block, not {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.block_sizes or len(self.block_sizes) != len(self.block_clips):
            raise ValueError(
                f"block_sizes and block_clips must hold one entry for each block, at least one, not "
                f"{len(self.block_sizes)} and {len(self.block_clips)}"
            )
        for size, b in _firsts(self.block_sizes):
            _validate.whole(**{f"block_sizes[{b}]": size})
        for clip, b in _firsts(self.block_clips):
            _validate.positive(**{f"block_clips[{b}]": clip})
        _validate.positive(grad_clip=self.grad_clip, learning_rate=self.learning_rate, noise_std=self.noise_std)
        _validate.non_negative(weight_decay=self.weight_decay)
        _validate.at_most_one(**{"learning_rate * weight_decay": self.decay})
        _validate.whole(steps=self.steps)
        if not isinstance(self.blind, bool):
            raise TypeError(f"blind must be True or False, not {self.blind!r}")

    @property
    def decay(self) -> float:
        """η λ = 1 - ρ."""
        return self.learning_rate * self.weight_decay

    @property
    def gradient_steps(self) -> int:
        """B T."""
        return len(self.block_sizes) * self.steps

    @property
    def noise_draws(self) -> int:
        """B T, each over one block."""
        return self.gradient_steps

    @property
    def start_radius(self) -> float:
        """The radius of the ball around all blocks, sqrt(Σ C_b²)."""
        return hypot(*self.block_clips)

    @property
    def output_noise_std(self) -> float:
        """σ sqrt(Σ_{j<T} ρ^2j), in every block."""
        return self._alone(self.block_clips[0]).output_noise_std

    @property
    def surviving_norm(self) -> float:
        """ρ^T sqrt(Σ C_b²)."""
        return self._alone(self.start_radius).surviving_norm

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """The root of the sum of squares over the blocks, rounded up."""
        return self._center_mu if Relation(relation) is Relation.CENTER else 2 * self._center_mu

    def block_mu(self, relation: Relation = Relation.RETRAINED) -> tuple[float, ...]:
        """μ_b of each block, rounded up."""
        last = len(self.block_clips) - 1
        of = {
            clip: self._alone_mu(clip, relation) if self.blind else self._to_the_end(clip, relation)
            for clip in set(self.block_clips)
        }
        return (*(of[clip] for clip in self.block_clips[:last]), self._alone_mu(self.block_clips[last], relation))

    @cached_property
    def _center_mu(self) -> float:
        """Against the centre; from another model of the ball distance and drift are twice that, and so is every μ_b.

        Kept, as there may be many blocks; doubling is exact in floats.
        """
        return hypot(*self.block_mu(Relation.CENTER)) * (1 + 1e-15)

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """What is attained: by one block alone, or by all blocks that stay Gaussian under the worst loss."""
        widest = max(self.block_clips)
        return max(
            self._alone(widest).log_delta_lower(epsilon, relation),
            gaussian.log_delta_lower(epsilon, self._attained_mu(Relation(relation))),
        )

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The algorithm that the theorem compares the run with, in a sentence."""
        if Relation(relation) is Relation.RETRAINED:
            return (
                "the same noisy steps on the retained data, block by block, started from any other model, "
                "for example one trained without the forgotten data"
            )
        return (
            "noise of the same scale, added and decayed from the centre without any data, block by block, up to the step at "
            "which the block's bound is counted, and from there the same noisy steps on the retained data"
        )

    def _alone(self, clip: float) -> GradientClipping:
        return GradientClipping(
            init_clip=clip,
            grad_clip=self.grad_clip,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            noise_std=self.noise_std,
        )

    def _alone_mu(self, clip: float, relation: Relation) -> float:
        reach = 2.0 if Relation(relation) is Relation.RETRAINED else 1.0
        return iteration.shifted_interpolation(
            distance=reach * clip,
            drift=reach * self.learning_rate * self.grad_clip,
            decay=self.decay,
            noise_std=self.noise_std,
            steps=self.steps,
        )

    def _to_the_end(self, clip: float, relation: Relation) -> float:
        reach = 2.0 if Relation(relation) is Relation.RETRAINED else 1.0
        return iteration.mu_after(
            self.steps,
            distance=reach * clip,
            drift=reach * self.learning_rate * self.grad_clip,
            decay=self.decay,
            noise_std=self.noise_std,
        )

    def _attained_mu(self, relation: Relation) -> float:
        """μ of the blocks whose two laws stay Gaussian when every step pushes the worlds apart.

        Against the centre, and where other blocks tell the worlds apart, that is the bound at T; else one step only.
        """
        pushed = relation is Relation.CENTER or self.steps == 1
        last = len(self.block_clips) - 1
        kept = [
            mu
            for b, (mu, clip) in enumerate(zip(self.block_mu(relation), self.block_clips, strict=True))
            if (pushed and mu >= self._to_the_end(clip, relation) * (1 - 1e-12)) or not (self.blind or b == last)
        ]
        return sqrt(sum(mu * mu for mu in kept)) * (1 - 1e-12)


def _firsts(values: Iterable[Any]) -> Iterable[tuple[Any, int]]:
    """Each different value, of whatever type, and where it comes first: what is said of it holds for all of them."""
    seen: dict[tuple[type, str], tuple[Any, int]] = {}
    for b, value in enumerate(values):
        seen.setdefault((type(value), repr(value)), (value, b))
    return seen.values()
