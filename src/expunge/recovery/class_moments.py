"""Means of features by class, and the one covariance that all classes share: what CAFA aligns features with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.errors import ModelRefused

__all__ = ["Alignment", "ClassMoments", "alignment_loss"]


@dataclass(frozen=True)
class Alignment:
    """Class means in coordinates in which the shared covariance is the identity.

    Attributes:
        classes: those that were seen, (k,), rising.
        means: theirs, (k, width), whitened.
        whitening: W with W Wᵀ the inverse covariance, (width, width).
    """

    classes: Tensor
    means: Tensor
    whitening: Tensor


class ClassMoments:
    """Counts and sums of features by class, and the sum of their outer products, in float64, batch by batch."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def see(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Add a batch.

        Args:
            features: (b, width).
            labels: (b,), below `classes`.
            classes: the width of the model's scores.

        Raises:
            ValueError: a label that the model has no score for.
        """
        if labels.dim() != 1 or bool(((labels < 0) | (labels >= classes)).any()):
            raise ValueError(
                f"labels must be whole numbers from 0 to {classes - 1}, one a row, as the model has scores"
            )
        x = features.detach().double()
        member = torch.nn.functional.one_hot(labels.to(x.device), classes).double()
        self._add("counts", member.sum(0))
        self._add("sums", member.T @ x)
        self._add("squares", x.T @ x)

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def covariance(self) -> Tensor:
        """Within classes, over all rows, (width, width)."""
        counts, sums, squares = (self._sums[name] for name in ("counts", "sums", "squares"))
        between = sums.T @ (sums / counts.clamp(min=1)[:, None])
        return (squares - between) / counts.sum()

    def alignment(self, shrinkage: float) -> Alignment:
        """What features are aligned with.

        Args:
            shrinkage: the share of the covariance that is replaced by its mean variance times the identity.

        Raises:
            ValueError: the rows hold one class alone.
            ModelRefused: the covariance has no inverse.
        """
        counts, sums = self._sums["counts"], self._sums["sums"]
        classes = counts.nonzero()[:, 0]
        if len(classes) < 2:
            raise ValueError("the retained rows hold one class alone: there are no others to tell features from")
        own = self.covariance()
        identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
        shrunk = (1 - shrinkage) * own + shrinkage * own.diagonal().mean() * identity
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        if int(failed):
            raise ModelRefused(
                "the covariance of the features has no inverse (a feature that is constant, or fewer rows than features): "
                "give shrinkage above 0, or another classifier="
            )
        whitening = torch.linalg.solve_triangular(factor, identity, upper=False).T
        return Alignment(classes, (sums[classes] / counts[classes][:, None]) @ whitening, whitening)

    def state_dict(self) -> dict[str, Tensor]:
        """All that was seen."""
        return dict(self._sums)

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Go on from a state."""
        self._sums = {name: value.clone() for name, value in state_dict.items()}


def alignment_loss(features: Tensor, scores: Tensor, to: Alignment) -> Tensor:
    """Mean log(D_intra / D_inter): squared Mahalanobis distances to the mean of the predicted class, and to all others, summed.

    The predicted class is the largest score among the classes that have a mean.

    Args:
        features: (b, width).
        scores: (b, classes).
        to: the means and the covariance.
    """
    means, whitening = to.means.to(features.dtype), to.whitening.to(features.dtype)
    differences = (features @ whitening)[:, None, :] - means
    distances = differences.square().sum(2)
    predicted = scores.detach()[:, to.classes].argmax(1, keepdim=True)
    intra = distances.gather(1, predicted)[:, 0]
    inter = distances.scatter(1, predicted, 0.0).sum(1)
    return (intra.log() - inter.log()).mean()
