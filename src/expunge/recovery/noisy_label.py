"""Self-training on the model's own labels, which are taken as noisy ones: recovery that reads no label.

The released model gives every retained row a label, which soft k-means on its features cleans. In each epoch the rows of
smallest loss in each pseudo-class count as clean and are trained on; on the others the model is to agree with an average of
itself. Teacher and labels begin with the released weights, so that the certificate stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge import _validate
from expunge.errors import NonFinite
from expunge.recovery.penultimate import class_scores, classifying_layer, features_and_scores
from expunge.recovery.progress import Progress
from expunge.recovery.training import Recipe, Training
from expunge.training.loss import Loss
from expunge.training.randomness import mode
from expunge.training.scores import inputs_of
from expunge.training.tensors import copied

__all__ = ["SelfTraining", "Teacher", "smallest_of_each", "soft_kmeans"]

_NONE = -1  # the label of a row that has none


@dataclass(frozen=True, kw_only=True)
class SelfTraining:
    """Train on retained rows without their labels: on clean pseudo-labels, and elsewhere towards an averaged teacher.

    One pass of the retained rows, in evaluation mode, gives features, scores and from them pseudo-labels (`soft_kmeans`).
    Then a training of so many epochs: cross-entropy on the rows whose labels count as clean, and cross-entropy to the
    teacher's probabilities on the others. Clean is the given share of each pseudo-class whose losses, as last seen, are the
    smallest. Rows that the first pass left out, fewer than a batch, have no label and are never clean.
    Source: self-supervised noisy label learning, Chen et al. 2021, arXiv 2102.11614.

    Args:
        epochs: passes of the training.
        recipe: its optimiser and schedule.
        clean: the share of each pseudo-class that counts as clean, above 0, at most 1.
        rounds: of soft k-means; 0 assigns rows to centroids that the model's own probabilities make.
        temperature: of its memberships; the lower, the harder.
        consistency: the weight of the agreement with the teacher.
        decay: of the teacher, from 0 to below 1: it becomes decay · teacher + (1 - decay) · model after every step.
        input_noise: standard deviation of normal noise on the inputs that are real numbers; the teacher sees none.
        classifier: the layer whose inputs are the features; by default the last `nn.Linear`.
    """

    name: ClassVar[str] = "self_training"
    reads: ClassVar[str] = "retained rows without their labels"

    epochs: int = 5
    recipe: Recipe = field(default_factory=Recipe)
    clean: float = 0.5
    rounds: int = 2
    temperature: float = 0.1
    consistency: float = 1.0
    decay: float = 0.99
    input_noise: float = 0.1
    classifier: str = ""

    def __post_init__(self) -> None:
        _validate.whole(epochs=self.epochs)
        _validate.positive(clean=self.clean, temperature=self.temperature)
        _validate.non_negative(consistency=self.consistency, decay=self.decay, input_noise=self.input_noise)
        if self.clean > 1:
            raise ValueError(f"clean is a share, above 0 and at most 1, not {self.clean:g}")
        if self.decay >= 1:
            raise ValueError(f"decay must be below 1, not {self.decay:g}: the teacher would never learn")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"rounds must be a whole number, 0 or above, not {_validate.shown(self.rounds)}")

    @property
    def batch_size(self) -> int:
        """Of the recipe."""
        return self.recipe.batch_size

    def total(self, per_epoch: int) -> int:
        """The steps of the pass that labels, and of so many epochs."""
        return (1 + self.epochs) * per_epoch

    def steps(self, model: nn.Module, batches: Iterator[Any], loss: Loss, progress: Progress) -> Iterator[int]:
        """Label, then train. The loss, which reads labels, is not called.

        Raises:
            TypeError: the retained rows are no `Examples`: a row must be known again.
            ModelRefused: the model gives no scores of classes, or has no layer that classifies.
            NonFinite: a loss is NaN or infinite.
        """
        del loss
        if progress.retained is None:
            raise TypeError(f"recovery '{self.name}' must know a row again: give the retained rows as Examples(x, y)")
        per_epoch = progress.total // (1 + self.epochs)
        layer = classifying_layer(model, self.classifier)
        training = Training(model, self.recipe, steps=self.epochs * per_epoch)
        teacher, table = Teacher(model, self.decay), _Table(progress.retained)
        progress.keep(optimizer=training.optimizer, schedule=training.schedule, teacher=teacher, table=table)
        for step in progress:
            batch = next(batches)
            assert progress.rows is not None
            if step <= per_epoch:
                with mode(model, training=False), torch.no_grad():
                    table.see(progress.rows, *features_and_scores(model, layer, batch))
                if step == per_epoch:
                    table.label(self.rounds, self.temperature)
            else:
                if step % per_epoch == 1 or per_epoch == 1:
                    table.split(self.clean)
                self._train(training, teacher, table, progress.rows, inputs_of(batch))
            yield step

    def _train(
        self, training: Training, teacher: "Teacher", table: "_Table", rows: Tensor, inputs: Tensor | dict[str, Tensor]
    ) -> None:
        with torch.enable_grad():
            scores = class_scores(training.model, self._noised(inputs))
            clean, labels = table.clean[rows].to(scores.device), table.labels[rows].to(scores.device)
            value = scores.new_zeros(())
            if bool(clean.any()):
                value = value + int(clean.sum()) / len(clean) * F.cross_entropy(scores[clean], labels[clean])
            if not bool(clean.all()):
                agreed = F.cross_entropy(scores[~clean], teacher.probabilities(inputs)[~clean])
                value = value + int((~clean).sum()) / len(clean) * self.consistency * agreed
        if not bool(torch.isfinite(value)):
            raise NonFinite(
                f"the loss is {float(value)}: lower the learning rate, or look for the batch that causes it"
            )
        training.optimizer.zero_grad()
        value.backward()  # pyright: ignore[reportUnknownMemberType]
        training.update()
        training.schedule.step()
        teacher.follow(training.model)
        table.note(rows, scores.detach())

    def _noised(self, inputs: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        if self.input_noise == 0:
            return inputs
        if isinstance(inputs, dict):
            return {name: _with_noise(t, self.input_noise) for name, t in inputs.items()}
        return _with_noise(inputs, self.input_noise)


class Teacher:
    """The average of a model over its steps: teacher ← decay · teacher + (1 - decay) · model, from the model as it is now.

    Parameters and buffers of real numbers are averaged, others copied. It runs in evaluation mode.

    Args:
        model: whose copy it begins as.
        decay: from 0 to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self._decay = copied(model).eval().requires_grad_(False), decay

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def follow(self, model: nn.Module) -> None:
        """Take the weights of a step into the average."""
        pairs = zip(
            (*self.model.parameters(), *self.model.buffers()), (*model.parameters(), *model.buffers()), strict=True
        )
        for own, other in pairs:
            if own.is_floating_point():
                own.lerp_(other, 1 - self._decay)
            else:
                own.copy_(other)

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def probabilities(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        """Of classes, (b, classes)."""
        return class_scores(self.model, inputs).softmax(1)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return self.model.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from a state."""
        self.model.load_state_dict(state_dict)


class _Table:
    """What is known of each retained row: features and scores while it is labelled, then its label, last loss, and whether it is clean."""

    def __init__(self, rows: int) -> None:
        self.labels = torch.full((rows,), _NONE)
        self.losses = torch.zeros(rows)
        self.clean = torch.zeros(rows, dtype=torch.bool)
        self._features, self._scores = torch.zeros(0), torch.zeros(0)
        self._seen = torch.zeros(rows, dtype=torch.bool)

    def see(self, rows: Tensor, features: Tensor, scores: Tensor) -> None:
        """Features, (b, width), and scores, (b, classes), under the released model."""
        if not self._features.numel():
            self._features = torch.zeros(len(self._seen), features.shape[1])
            self._scores = torch.zeros(len(self._seen), scores.shape[1])
        self._features[rows] = features.detach().float().cpu()
        self._scores[rows] = scores.detach().float().cpu()
        self._seen[rows] = True

    def label(self, rounds: int, temperature: float) -> None:
        """Give every row that was seen a label, and forget features and scores."""
        scores = self._scores[self._seen]
        self.labels[self._seen] = soft_kmeans(
            self._features[self._seen], scores.softmax(1), rounds=rounds, temperature=temperature
        )
        self.note(self._seen.nonzero()[:, 0], scores)
        self._features, self._scores = torch.zeros(0), torch.zeros(0)

    def note(self, rows: Tensor, scores: Tensor) -> None:
        """The losses of rows under their labels."""
        labels = self.labels[rows].clamp(min=0)
        self.losses[rows] = F.cross_entropy(scores.float().cpu(), labels, reduction="none")

    def split(self, share: float) -> None:
        """Begin an epoch."""
        self.clean = smallest_of_each(self.losses, self.labels, share)

    def state_dict(self) -> dict[str, Tensor]:
        """All of it."""
        return {
            "labels": self.labels, "losses": self.losses, "clean": self.clean, "features": self._features, "scores": self._scores,
            "seen": self._seen,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Go on from a state."""
        held = {name: value.clone() for name, value in state_dict.items()}
        self.labels, self.losses, self.clean = held["labels"], held["losses"], held["clean"]
        self._features, self._scores, self._seen = held["features"], held["scores"], held["seen"]


def soft_kmeans(features: Tensor, probabilities: Tensor, *, rounds: int, temperature: float) -> Tensor:
    """Labels of rows: the nearest centroid of a class, in angle; centroids are means weighted by memberships.

    Memberships are the model's probabilities at first, then the softmax of cosines over the temperature.

    Args:
        features: (n, width).
        probabilities: (n, classes), of the model.
        rounds: how often centroids are made anew from memberships of their own.
        temperature: above 0.

    Returns:
        Labels, (n,), below the number of classes.
    """
    unit, members = F.normalize(features.double()), probabilities.double()
    cosines = _cosines(unit, members)
    for _ in range(rounds):
        cosines = _cosines(unit, (cosines / temperature).softmax(1))
    return cosines.argmax(1)


def _cosines(unit: Tensor, members: Tensor) -> Tensor:
    """Of rows with the centroids of their memberships, (n, classes)."""
    return unit @ F.normalize(members.T @ unit).T


def smallest_of_each(losses: Tensor, labels: Tensor, share: float) -> Tensor:
    """Whether a row is among those of smallest loss in its class: share · n, rounded and at least one, of every class of n rows.

    Args:
        losses: (n,).
        labels: (n,); rows with a negative one are in no class.
        share: above 0, at most 1.

    Returns:
        (n,), of bools.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels[labels >= 0].unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        best = losses[rows].argsort(stable=True)[: max(1, round(share * len(rows)))]
        chosen[rows[best]] = True
    return chosen


def _with_noise(values: Tensor, std: float) -> Tensor:
    return values + std * torch.randn_like(values) if values.is_floating_point() else values
