"""SalUn: random labels for forgotten rows, learned by the weights alone that their loss moves most."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.training.loss import backward, scalar_loss
from expunge.training.randomness import mode
from expunge.training.scores import label_of, relabelled, scores_of
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.descent import ByDescent

__all__ = ["Saliency"]


@dataclass(frozen=True, kw_only=True)
class Saliency(ByDescent):
    """Train on random labels for F and on R, with the weights alone whose gradient of the loss of F is largest.

    What differs from the published code: no weight decay, which would move the other weights too.

    Args:
        batch_size: examples a batch.
        epochs: passes over both parts.
        learning_rate: of SGD.
        share: of the weights that may move, above 0 and at most 1.
        momentum: of SGD.
    """

    name: ClassVar[str] = "salun"
    source: ClassVar[str] = "Fan et al. 2024, arXiv 2310.12508"

    epochs: int = 5
    learning_rate: float = 0.013
    share: float = 0.5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive(share=self.share)
        if self.share > 1:
            raise ValueError(f"share must be at most 1, not {self.share!r}")

    def total(self, material: Material) -> int:
        """A gradient a batch of F for the choice, then a step a batch of either part."""
        return material.count("forget") + self.epochs * (material.per_epoch("retain") + material.per_epoch("forget"))

    def steps(self, material: Material) -> Iterator[None]:
        """Choose the weights, then train."""
        masks = yield from self._masks(material)
        descent = self.descent(material, masks)
        retained, forgotten = material.batches("retain"), material.batches("forget")
        for _ in range(self.epochs):
            for _ in range(material.per_epoch("forget")):
                descent.step(scalar_loss(material.loss, material.model, _at_random(material.model, next(forgotten))))
                yield
            for _ in range(material.per_epoch("retain")):
                descent.step(scalar_loss(material.loss, material.model, next(retained)))
                yield

    def _masks(self, material: Material) -> Generator[None, None, dict[nn.Parameter, Tensor]]:
        """1 for the share of weights whose summed gradient on F is largest, over all layers."""
        parameters = material.trained()
        for parameter in parameters:
            parameter.grad = None
        with mode(material.model, training=False):
            for batch in material.every("forget"):
                backward(material.loss, material.model, batch)
                yield
        sizes = [torch.zeros_like(p) if p.grad is None else p.grad.abs() for p in parameters]
        whole = torch.cat([size.reshape(-1) for size in sizes])
        least = whole.topk(max(1, round(self.share * len(whole)))).values[-1]
        return {parameter: (size >= least).to(size.dtype) for parameter, size in zip(parameters, sizes, strict=True)}


def _at_random(model: nn.Module, batch: Any) -> Any:
    labels: Tensor = label_of(batch)
    with torch.no_grad():
        classes = scores_of(model, batch).shape[-1]
    return relabelled(batch, torch.randint(classes, labels.shape, device=labels.device, dtype=labels.dtype))
