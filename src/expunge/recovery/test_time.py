"""Adaptation at test time to a stream of rows without labels, whose distribution moved: statistics, entropy, alignment.

What is adapted are the normalisation layers alone. The stream is a setting of the recovery, and its labels, where it has some,
are not read. Nothing here comes from the model before unlearning: class means and covariance are those of the retained rows
under the released weights, so that the certificate stays.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase  # pyright: ignore[reportPrivateUsage]

from expunge import _validate
from expunge.data import Batches, Examples
from expunge.errors import ModelRefused, NonFinite
from expunge.recovery.class_moments import ClassMoments, alignment_loss
from expunge.recovery.penultimate import class_scores, classifying_layer, features_and_scores
from expunge.recovery.progress import Progress
from expunge.recovery.rescale import NORMS
from expunge.training.loss import Loss
from expunge.training.randomness import mode
from expunge.training.scores import label_of
from expunge.training.statistics import keeps_statistics, reset_, running_norms
from expunge.training.tensors import named_modules

__all__ = ["AdaBn", "Cafa", "OnStream", "Tent"]

Step = Callable[[Any], Tensor]  # of a batch of the stream: adapts, and gives the scores from before


@dataclass(frozen=True, kw_only=True)
class OnStream(ABC):
    """One pass over a stream, batch by batch: what the recoveries at test time share.

    Each batch is normalised by its own statistics, and the running ones become their plain averages over the stream. All
    other layers are in evaluation mode, so that there is no chance in it. Frozen and public layers stay as they are.

    Args:
        stream: the rows to adapt to, in the order in which they come; labels among them are not read.
        batch_size: rows of a batch, at most: the stream is cut into batches that are equal, to one row.
    """

    name: ClassVar[str]
    reads: ClassVar[str] = "unlabelled rows of a stream"
    reads_retained: ClassVar[bool] = False

    stream: Examples = field(repr=False)
    batch_size: int = 128

    def __post_init__(self) -> None:
        _validate.whole(batch_size=self.batch_size)
        if not isinstance(self.stream, Examples):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"stream must be Examples, e.g. Examples(x), not {_validate.shown(self.stream)}")

    def total(self, per_epoch: int) -> int:
        """A step for every batch of the stream, behind one for every batch of retained rows where these are measured."""
        return self._cut + (per_epoch if self.reads_retained else 0)

    def steps(self, model: nn.Module, batches: Iterator[Any], loss: Loss, progress: Progress) -> Iterator[int]:
        """Adapt to each batch of the stream in turn. The loss, which reads labels, is not called.

        Raises:
            ModelRefused: there is no layer to adapt, or a batch of one row meets BatchNorm.
            NonFinite: what is made smaller is not finite.
        """
        del loss
        for step, _ in self._through(model, batches, progress):
            yield step

    def predictions(self, model: nn.Module, retain: Any = None, *, public: Collection[str] = ()) -> Iterator[Tensor]:
        """Adapt a model in place, and give its scores of each batch of the stream on the way.

        The scores of a batch come from the pass that the model then adapts by: with weights that earlier batches made. At
        the end the model is the one that `recover` makes, bit for bit; where retained rows are read, if both read the same
        ones in one order (an epoch leaves out less than a batch).

        Args:
            model: from `unlearn` or `recover`.
            retain: the retained data, where the recovery reads them.
            public: as in `unlearn`.

        Yields:
            (b, classes), without a gradient.

        Raises:
            ModelRefused, NonFinite: see `steps`.
            TypeError: `retain` is missing.
        """
        rows = retain if self.reads_retained else self.stream
        per_epoch = Batches(rows, batch_size=self.batch_size, seed=0).per_epoch
        total = self.total(per_epoch)
        progress = Progress(model, rows, batch_size=self.batch_size, seed=0, total=total, public=public)
        kept, through = keeps_statistics(model, public), self._through(model, progress.batches, progress)
        while True:
            with mode(model, training=True):
                for norm in kept:
                    norm.eval()
                done = next(through, None)
            if done is None:
                return
            if done[1] is not None:
                yield done[1]

    @abstractmethod
    def _prepared(self, model: nn.Module, progress: Progress) -> tuple[Step | None, Step]:
        """What a step does with a batch of retained rows, where it reads any, and what with one of the stream."""

    @property
    def _cut(self) -> int:
        return -(-len(self.stream) // self.batch_size)

    def _through(
        self, model: nn.Module, batches: Iterator[Any], progress: Progress
    ) -> Iterator[tuple[int, Tensor | None]]:
        """The numbers of the steps; with the scores of a batch where it is one of the stream."""
        running = [norm for norm in running_norms(model) if norm.training]
        parts = torch.arange(len(self.stream)).tensor_split(self._cut)
        _refuse_single_rows(model, parts)
        measure, adapt = self._prepared(model, progress)
        measured = progress.total - len(parts)
        for step in progress:
            scores, seen = None, step - measured
            with mode(model, training=False):
                if measure is not None and seen < 1:
                    measure(next(batches))
                else:
                    with _averaging(running, seen):
                        scores = adapt(self.stream.batch(parts[seen - 1])).detach()
            yield step, scores


@dataclass(frozen=True, kw_only=True)
class AdaBn(OnStream):
    """Estimate the running statistics of normalisation layers again, on the stream; no weight changes.

    Source: adaptive batch normalisation, Li et al. 2016, arXiv 1603.04779. What the others are to be compared with.
    """

    name: ClassVar[str] = "ada_bn"

    def _prepared(self, model: nn.Module, progress: Progress) -> tuple[Step | None, Step]:
        del progress
        if not any(norm.training for norm in running_norms(model)):
            raise ModelRefused(
                f"recovery '{self.name}' estimates running statistics again, and the model has no normalisation layer with "
                "statistics that are neither public nor frozen (BatchNorm)"
            )

        def adapt(batch: Any) -> Tensor:
            with torch.no_grad():
                return class_scores(model, batch)

        return None, adapt


@dataclass(frozen=True, kw_only=True)
class Tent(OnStream):
    """Make the entropy of the predictions small, by the affine parameters of normalisation layers; statistics as `AdaBn`.

    Source: Wang et al. 2021, arXiv 2006.10726.

    Args:
        stream: as in `OnStream`.
        batch_size: as in `OnStream`.
        learning_rate: of Adam, constant.
    """

    name: ClassVar[str] = "tent"

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive(learning_rate=self.learning_rate)

    def _prepared(self, model: nn.Module, progress: Progress) -> tuple[Step | None, Step]:
        affine = _Affine(model, self.learning_rate, self.name)
        progress.keep(optimizer=affine.optimizer)

        def adapt(batch: Any) -> Tensor:
            with torch.enable_grad():
                scores = class_scores(model, batch)
                logs = scores.log_softmax(1)
                affine.descend(-(logs.exp() * logs).sum(1).mean())
            return scores

        return None, adapt


@dataclass(frozen=True, kw_only=True)
class Cafa(OnStream):
    """Bring features near to the mean of their predicted class, and away from the others'; statistics as `AdaBn`.

    Means of classes and the one covariance within them are first measured on the retained rows, one pass of them, under the
    released model in evaluation mode. Then the mean of log(D_intra / D_inter) is made small by the affine parameters of
    normalisation layers: squared Mahalanobis distances to the mean of the predicted class, and to all others, summed.
    Classes without a retained row have no mean and are not predicted. Source: Jung et al. 2023, arXiv 2206.00205.

    Args:
        stream: as in `OnStream`.
        batch_size: of the stream and of the retained rows.
        learning_rate: of Adam, constant.
        shrinkage: the share of the covariance that is replaced by its mean variance times the identity, from 0 to 1.
        classifier: the layer whose inputs are the features; by default the last `nn.Linear`.
    """

    name: ClassVar[str] = "cafa"
    reads: ClassVar[str] = "retained rows, unlabelled rows of a stream"
    reads_retained: ClassVar[bool] = True

    learning_rate: float = 1e-3
    shrinkage: float = 0.1
    classifier: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive(learning_rate=self.learning_rate)
        _validate.non_negative(shrinkage=self.shrinkage)
        if self.shrinkage > 1:
            raise ValueError(f"shrinkage is a share, from 0 to 1, not {self.shrinkage:g}")

    def _prepared(self, model: nn.Module, progress: Progress) -> tuple[Step | None, Step]:
        affine, moments = _Affine(model, self.learning_rate, self.name), ClassMoments()
        layer = classifying_layer(model, self.classifier)
        progress.keep(optimizer=affine.optimizer, moments=moments)
        aligned = cache(lambda: moments.alignment(self.shrinkage))  # once all rows were seen

        def measure(batch: Any) -> Tensor:
            with torch.no_grad():
                features, scores = features_and_scores(model, layer, batch)
            moments.see(features, label_of(batch), scores.shape[1])
            return scores

        def adapt(batch: Any) -> Tensor:
            with torch.enable_grad():
                features, scores = features_and_scores(model, layer, batch)
                affine.descend(alignment_loss(features, scores, aligned()))
            return scores

        return measure, adapt


class _Affine:
    """The weights and biases of the normalisation layers that are trained, and their optimiser."""

    def __init__(self, model: nn.Module, learning_rate: float, name: str) -> None:
        norms = {id(layer): layer for _, layer in named_modules(model) if isinstance(layer, NORMS)}
        self._own = [p for norm in norms.values() for p in norm.parameters(recurse=False) if p.requires_grad]
        if not self._own:
            raise ModelRefused(
                f"recovery '{name}' changes the affine parameters of normalisation layers alone, and the model has none that "
                "are trained: no BatchNorm, GroupNorm, LayerNorm, InstanceNorm or RMSNorm with weights"
            )
        self.optimizer = torch.optim.Adam(self._own, lr=learning_rate)

    def descend(self, value: Tensor) -> None:
        """One step."""
        if not bool(torch.isfinite(value)):
            raise NonFinite(
                f"what is made smaller on the stream is {float(value)}: lower the learning rate, or look for the rows "
                "that cause it"
            )
        for p, gradient in zip(self._own, torch.autograd.grad(value, self._own, allow_unused=True), strict=True):
            p.grad = gradient
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType]


@contextlib.contextmanager
def _averaging(norms: Sequence[_NormBase], seen: int) -> Generator[None]:
    """Normalise by the batch, and make it one of so many that the running statistics are the plain average of."""
    before = [norm.momentum for norm in norms]
    for norm in norms:
        if seen == 1:
            reset_([norm])
        norm.train()
        norm.momentum = 1 / seen
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.eval()
            norm.momentum = momentum


def _refuse_single_rows(model: nn.Module, parts: Sequence[Tensor]) -> None:
    if min(map(len, parts)) > 1:
        return
    for name, layer in named_modules(model):
        if isinstance(layer, _BatchNorm) and layer.training:
            raise ModelRefused(
                f"'{name}' is BatchNorm, which takes its statistics from a batch, and a batch of the stream has one row: it "
                "would normalise the row to zero. Give a larger batch_size, or a longer stream"
            )
