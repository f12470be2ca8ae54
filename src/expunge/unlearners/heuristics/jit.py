"""JiT: the model is made flat around the forgotten rows, and nothing else is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.training.scores import inputs_of, scores_of
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.descent import ByDescent

__all__ = ["JustInTime", "steepness"]


@dataclass(frozen=True, kw_only=True)
class JustInTime(ByDescent):
    """Make |f(x) - f(x + ξ)|/|ξ| small for the forgotten rows x and noise ξ, in passes of plain SGD.

    Args:
        batch_size: examples a batch.
        epochs: passes over the forgotten rows.
        learning_rate: of SGD.
        momentum: of SGD.
        noise: standard deviation of ξ, per number of the input.
        perturbations: of each row.
        detached: whether f(x + ξ) is held fixed, as in the published code. Its gradient then has no part that makes a linear
            f flatter, and feels curvature alone; otherwise a linear f shrinks, whatever the rows are.
    """

    name: ClassVar[str] = "jit"
    reads: ClassVar[str] = "forgotten data"
    source: ClassVar[str] = "Foster et al. 2024, arXiv 2402.01401"

    epochs: int = 1
    learning_rate: float = 3e-3
    noise: float = 0.5
    perturbations: int = 25
    detached: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.whole(perturbations=self.perturbations)
        _validate.positive(noise=self.noise)

    def total(self, material: Material) -> int:
        """A step a batch of forgotten rows."""
        return self.epochs * material.per_epoch("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """One batch a step; a noisy input stays in the range of its batch.

        Raises:
            TypeError: the input is not one tensor of real numbers.
        """
        descent, batches = self.descent(material), material.batches("forget")
        for _ in range(self.total(material)):
            x = _real_input(next(batches))
            low, high = x.min(), x.max()
            losses: list[Tensor] = []
            for _ in range(self.perturbations):
                moved = (x + self.noise * torch.randn_like(x)).clamp(low, high)
                losses.append(steepness(material.model, x, moved, detached=self.detached))
            descent.step(torch.stack(losses).mean())
            yield


def steepness(model: nn.Module, x: Tensor, moved: Tensor, *, detached: bool) -> Tensor:
    """The mean over rows of |f(x) - f(moved)|/|x - moved|; rows that were not moved count as 0."""
    with torch.set_grad_enabled(not detached and torch.is_grad_enabled()):
        there = scores_of(model, moved)
    rise = torch.linalg.vector_norm((scores_of(model, x) - there).reshape(len(x), -1), dim=1)
    run = torch.linalg.vector_norm((x - moved).reshape(len(x), -1), dim=1)
    return torch.where(run > 0, rise / run.clamp(min=torch.finfo(run.dtype).tiny), 0.0).mean()


def _real_input(batch: Any) -> Tensor:
    x = inputs_of(batch)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = f"the fields {sorted(x)}" if isinstance(x, dict) else str(x.dtype)
        raise TypeError(f"jit perturbs an input of real numbers, and the model takes {found}")
    return x
