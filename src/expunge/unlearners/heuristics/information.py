"""A penalty on what predictions tell of the forget set, as far as that is more than the labels tell."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge import _validate
from expunge.training.loss import NO_GRADIENT, scalar_loss
from expunge.training.scores import label_of, scores_of
from expunge.unlearners.heuristics.base import Heuristic, Material

__all__ = ["InformationPenalty", "batch_information"]


@dataclass(frozen=True, kw_only=True)
class InformationPenalty(Heuristic):
    """Train on R with Adam, and make γ [I(Ŷ; Z) - I_ref]₊ smaller, where Z says whether a row is of R or of R and F.

    I is that of the mean predictions of a batch of each part. I_ref is the same number of the batch's labels: a model that
    never saw F still tells a forget set of one class from the rest, and must not be punished for it. Where I is at most
    I_ref the step is that of fine-tuning.

    Args:
        batch_size: retained examples a batch.
        forget_size: forgotten examples a batch, at most.
        epochs: passes over the forgotten rows.
        learning_rate: of Adam.
        gamma: γ.
        from_labels: whether I_ref is that of each batch's labels. Without, and with `reference` 0, it is the published objective.
        reference: I_ref in nats, where it is not that of the labels.
    """

    name: ClassVar[str] = "information"
    source: ClassVar[str] = "Xu & Strohmer 2025, arXiv 2502.05684"

    forget_size: int = 16
    epochs: int = 20
    learning_rate: float = 1e-3
    gamma: float = 1.5
    from_labels: bool = True
    reference: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.whole(forget_size=self.forget_size, epochs=self.epochs)
        _validate.positive(learning_rate=self.learning_rate)
        _validate.non_negative(gamma=self.gamma, reference=self.reference)
        if self.from_labels and self.reference:
            raise ValueError(f"reference={self.reference!r} would do nothing: say from_labels=False")

    def total(self, material: Material) -> int:
        """A step a batch of forgotten data."""
        return self.epochs * self._forgotten(material).per_epoch("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """One batch of either part a step."""
        optimizer = torch.optim.Adam(material.trained(), lr=self.learning_rate)
        retained, forgotten = material.batches("retain"), self._forgotten(material).batches("forget")
        for _ in range(self.total(material)):
            batch, gone = next(retained), next(forgotten)
            objective = scalar_loss(material.loss, material.model, batch)
            if not objective.requires_grad:
                raise TypeError(NO_GRADIENT)
            excess = self._excess(material.model, batch, gone)
            if float(excess.detach()) > 0:  # not clamped: below the reference there is nothing that could touch a bit
                objective = objective + self.gamma * excess
            optimizer.zero_grad()
            objective.backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            yield

    def _forgotten(self, material: Material) -> Material:
        return replace(material, batch_size=self.forget_size)

    def _excess(self, model: nn.Module, batch: Any, gone: Any) -> Tensor:
        """I(Ŷ; Z) - I_ref of a batch of retained rows and one of forgotten rows, in nats, float64."""
        scores = [scores_of(model, rows) for rows in (batch, gone)]
        for part in scores:
            if part.dim() != 2:
                raise TypeError(f"{self.name} needs scores of shape (b, classes), not {tuple(part.shape)}")
        found = batch_information(*(part.double().softmax(1) for part in scores))
        if not self.from_labels:
            return found - self.reference
        kept, lost = (F.one_hot(label_of(rows).long(), scores[0].shape[1]).double() for rows in (batch, gone))
        return found - batch_information(kept, lost)


def batch_information(retained: Tensor, forgotten: Tensor) -> Tensor:
    """I(Ŷ; Z) in nats of mean predictions: Z = 1 for each retained row, and Z = 0 for each of all rows.

    Retained rows count once on either side, as in the published code, so that it is at most log 2, and 0 exactly where both
    parts are predicted alike in the mean.

    Args:
        retained: probabilities of retained rows, shape (b, classes).
        forgotten: of forgotten rows, shape (c, classes).
    """
    only, gone = retained.mean(0), forgotten.mean(0)
    share = len(forgotten) / (len(retained) + len(forgotten))
    both = only + share * (gone - only)
    weight = len(retained) / (2 * len(retained) + len(forgotten))
    mixed = both + weight * (only - both)
    return weight * _divergence(only, mixed) + (1 - weight) * _divergence(both, mixed)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p, q); the gradient of a probability that underflows is 0 and not infinite."""
    least = torch.finfo(p.dtype).tiny
    return (p * (p.clamp(min=least).log() - q.clamp(min=least).log())).sum()
