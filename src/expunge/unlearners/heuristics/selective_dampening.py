"""Selective synaptic dampening: weights that matter much more to forgotten rows than to all are made smaller, in one go."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expunge import _validate
from expunge.training.loss import backward
from expunge.unlearners.heuristics.base import Heuristic, Material

__all__ = ["SelectiveDampening"]


@dataclass(frozen=True, kw_only=True)
class SelectiveDampening(Heuristic):
    """Dampen each weight whose importance to F exceeds α times that to all data, by min(λ I_D/I_F, 1).

    Importance is the mean over batches of the squared gradient of the loss in evaluation mode: the diagonal of the Fisher
    information for batches of one example, and an approximation of it for larger ones, as the published code has it.

    Args:
        batch_size: examples a batch.
        alpha: α.
        dampening: λ.
    """

    name: ClassVar[str] = "selective_dampening"
    source: ClassVar[str] = "Foster et al. 2024, arXiv 2308.07707"

    alpha: float = 10.0
    dampening: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive(alpha=self.alpha, dampening=self.dampening)

    def total(self, material: Material) -> int:
        """A gradient a batch, those of F twice: they are part of all data."""
        return material.count("retain") + 2 * material.count("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """Two importances, then the weights."""
        material.model.eval()
        importances: list[list[Tensor]] = []
        for parts in (("forget",), ("forget", "retain")):
            squares, count = [torch.zeros_like(p) for p in material.trained()], 0
            for part in parts:
                for batch in material.every(part):
                    self._add(material, batch, squares)
                    count += 1
                    yield
            importances.append([square / count for square in squares])
        with torch.no_grad():
            for parameter, forgotten, everything in zip(material.trained(), *importances, strict=True):
                parameter *= self.factor(forgotten, everything)

    def factor(self, forgotten: Tensor, everything: Tensor) -> Tensor:
        """What weights of these importances are multiplied by: 1 where they are not selected."""
        dampened = (self.dampening * everything / forgotten).clamp(max=1.0)
        return torch.where(forgotten > self.alpha * everything, dampened, torch.ones_like(dampened))

    def _add(self, material: Material, batch: object, squares: list[Tensor]) -> None:
        parameters = material.trained()
        for parameter in parameters:
            parameter.grad = None
        backward(material.loss, material.model, batch)
        for parameter, square in zip(parameters, squares, strict=True):
            if parameter.grad is not None:
                square += parameter.grad.square()
