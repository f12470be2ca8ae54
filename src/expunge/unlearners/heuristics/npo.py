"""Negative preference optimisation: forgotten rows are made less likely than the trained model has them, up to a bound."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge import _validate
from expunge.training.loss import scalar_loss
from expunge.training.scores import label_of, scores_of
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.descent import ByDescent

__all__ = ["NegativePreference", "log_likelihoods", "preference_loss"]

_IGNORED = -100  # a label that does not count, as torch's cross-entropy has it


@dataclass(frozen=True, kw_only=True)
class NegativePreference(ByDescent):
    """Make -(2/β) log σ(-β log(π/π_trained)) on F smaller, and λ L_R with it.

    For β near 0 it is gradient ascent; for larger ones a row that has become unlikely is let alone, so that the objective is
    bounded below where that of gradient ascent is not.

    Args:
        batch_size: examples a batch, of either part.
        epochs: passes over the forgotten rows.
        learning_rate: of SGD.
        beta: β.
        retention: λ; with 0 the retained rows are not read.
        momentum: of SGD.
        next_token: where the model gives scores for every position of a text: whether a position's scores are of the next
            label (as in Hugging Face's language models, whose labels are their inputs), or of its own.
    """

    name: ClassVar[str] = "negative_preference"
    source: ClassVar[str] = "Zhang et al. 2024, arXiv 2404.05868"

    beta: float = 0.1
    retention: float = 0.0
    next_token: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive(beta=self.beta)
        _validate.non_negative(retention=self.retention)

    def total(self, material: Material) -> int:
        """A step a batch of forgotten data."""
        return self.epochs * material.per_epoch("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """One batch a step, of either part where both are read."""
        teacher = material.teacher()
        descent = self.descent(material)
        retained, forgotten = material.batches("retain"), material.batches("forget")
        for _ in range(self.total(material)):
            batch = next(forgotten)
            with torch.no_grad():
                before = self._likelihoods(teacher, batch)
            objective = preference_loss(self._likelihoods(material.model, batch) - before, beta=self.beta)
            if self.retention:
                objective = objective + self.retention * scalar_loss(material.loss, material.model, next(retained))
            descent.step(objective)
            yield

    def _likelihoods(self, model: nn.Module, batch: Any) -> Tensor:
        return log_likelihoods(scores_of(model, batch), label_of(batch), next_token=self.next_token)


def preference_loss(ratios: Tensor, *, beta: float) -> Tensor:
    """The mean of -(2/β) log σ(-β r) over log ratios r = log(π/π_trained), shape (b,)."""
    return -2 / beta * F.logsigmoid(-beta * ratios).mean()


def log_likelihoods(scores: Tensor, labels: Tensor, *, next_token: bool) -> Tensor:
    """Log-likelihood of each row's labels, shape (b,): the sum over positions where there are several.

    Args:
        scores: shape (b, classes), or (b, positions, classes).
        labels: shape (b,), or (b, positions); -100 is left out.
        next_token: of several positions, whether scores are of the next label.

    Raises:
        TypeError: shapes that do not belong together.
    """
    if scores.shape[:-1] != labels.shape or labels.dim() not in (1, 2):
        raise TypeError(f"scores of shape {tuple(scores.shape)} are none of labels of shape {tuple(labels.shape)}")
    if labels.dim() == 1:
        scores, labels = scores[:, None], labels[:, None]
    elif next_token:
        scores, labels = scores[:, :-1], labels[:, 1:]
    counted = labels != _IGNORED
    found = F.log_softmax(scores, dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (found * counted).sum(dim=1)
