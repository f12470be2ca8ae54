"""PRUNE: patches on linear pieces of a ReLU network, so that forgotten rows get another label; what they do is proven."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge import _validate
from expunge._progress import track
from expunge._workers import refuse_workers
from expunge.accounting import Budget, Prune, Relation
from expunge.accounting.patches import lead
from expunge.accounting.polytopes import Box, Piece, pieces
from expunge.data import Examples
from expunge.data.coverage import coverage_of
from expunge.errors import ModelRefused, TaskError, WeightsMismatch
from expunge.training.patched import Patched, chain, described, walk
from expunge.training.task import Task
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.unlearners.costs import Costs
from expunge.unlearners.heuristics.base import Heuristic, Material
from expunge.unlearners.protocol import Quote
from expunge.unlearners.recalled import OF_TRAINING, Procedure, Recalled
from expunge.unlearners.working import Run

__all__ = ["Patching"]


@dataclass(frozen=True, kw_only=True)
class Patching(Heuristic):
    """Raise, on the linear piece of the network where a forgotten row lies, the score of another class until it wins on all of the piece.

    Rows that get another label already are left alone, and so are pieces on which forgotten rows have every label there is; rows
    of one piece share a patch. The class is the one that comes next at
    the rows. Its shift is the smallest there is: where the class is furthest behind, every patch must make up as much.
    A patch opens inside the piece, over half of the way from its border to the nearest row, so that no two patches meet and the
    network is what it was outside; the published patches open outside of the border.

    Args:
        batch_size: rows that are looked at together.
        lowest: the least number of an input; with `highest` the box on which the claim holds.
        highest: the largest.
        margin: by how much the class wins.
    """

    name: ClassVar[str] = "prune"
    reads: ClassVar[str] = "forgotten data"
    source: ClassVar[str] = "Li et al. 2025, arXiv 2505.06520"
    weights_alone: ClassVar[bool] = False

    lowest: float = 0.0
    highest: float = 1.0
    margin: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive(margin=self.margin)
        if not self.lowest < self.highest:
            raise ValueError(f"lowest={self.lowest!r} must be below highest={self.highest!r}")

    def total(self, material: Material) -> int:
        """At most a patch a forgotten row."""
        return len(material.forget)

    def steps(self, material: Material) -> Iterator[None]:
        """None on the weights: `forget` adds to them."""
        raise TypeError("patches change no weights, and have no steps")

    @classmethod
    def recalled(cls, mechanism: Any, procedure: Procedure) -> Recalled | None:
        """The patching that a record says was run."""
        if not isinstance(mechanism, Prune):
            return None
        box = {name: getattr(mechanism, name) for name in ("lowest", "highest", "margin")}
        return Recalled(unlearner=cls(**box), reads=OF_TRAINING)

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """What it proves is no law, so that it meets no budget."""
        try:
            chain(task.model)
        except ModelRefused as error:
            return Quote(unlearner=self.name, applies=False, why=str(error), reads=self.reads)
        return Quote(
            unlearner=self.name, applies=False, reads=self.reads, steps=len(_rows(task)[1]),
            why="proves no law, and meets no budget: its patches change answers alone, which is proven, and a membership attack finds the patched rows",
        )  # fmt: skip

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> Any:
        """Patches as many as there are pieces with forgotten rows."""
        found = self._pieces(chain(copy.deepcopy(task.model).eval()), _rows(task))
        return self._claimed(task, chain(task.model), len(found))

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Patch a copy of the task's model.

        Raises:
            ModelRefused: a layer that patches cannot take.
            TaskError: the forgotten rows are no inputs with labels, lie outside of the box or on the border of a piece, or there is
                none that the model answers as it was taught; or rows of every piece have every label there is.
        """
        refuse_workers("Patching")
        coverage = coverage_of(task.retain, task.forget)
        rows = _rows(task)
        network = chain(copy.deepcopy(task.model).eval())
        found = self._pieces(network, rows)
        claimed = self._claimed(task, network, len(found))
        weights = {name: tensor.detach().cpu().double().numpy() for name, tensor in network.state_dict().items()}
        signs = np.array([one.signs for one in found], dtype=np.float64)
        slacks = [one.slack for one in found]
        box = Box(self.lowest, self.highest, int(np.prod(claimed.input_shape)))
        told = pieces(claimed.layers, claimed.input_shape, weights, signs, slacks, box)
        classes, targets = 0, list[int]()
        shifts: list[float] = []
        for one, piece in track(zip(found, _fitting(told), strict=True), total=len(found), label="unlearn: prune"):
            classes = len(piece.scores.rows)
            left = [c for c in range(classes) if c not in one.labels]
            targets.append(left[int(np.argmax(one.scores[left]))])
            shifts.append(_up(self.margin * (1 + 1e-9) - min(lead(piece, targets[-1]), 0.0)))
        labels = torch.zeros(len(found), classes)
        for k, one in enumerate(found):
            labels[k, list(one.labels)] = 1.0
        model = Patched(
            network, signs=torch.tensor(signs), slacks=torch.tensor(slacks), shifts=torch.tensor(shifts, dtype=torch.float64),
            targets=torch.tensor(targets), labels=labels,
        )  # fmt: skip
        if run.on_epoch is not None:
            run.on_epoch(0, model)
        record = noiseless_record(claimed, model, coverage=coverage)
        held, of = sum(one.rows for one in found), len(rows[1])
        others = (
            "" if held == of else "; the others got another label before, or lie on a piece with rows of every label"
        )
        told_of = (
            f"{len(found)} patch{'es' * (len(found) > 1)} for {held} of {of} forgotten rows{others}. A membership attack that looks for "
            "abnormally high losses finds the patched rows.",
        )
        return Unlearned(model, replace(record, procedure={"unlearner": self.stated}), told=told_of)

    def opened(self, task: Task, weights: Path) -> nn.Module:
        """The patched network of a weights file.

        Raises:
            WeightsMismatch: its network is not that of the task's model.
        """
        held = load_file(weights)
        empty = {
            name: torch.zeros_like(held[name])
            for name in ("signs", "slacks", "shifts", "targets", "labels")
            if name in held
        }
        try:
            model = Patched(chain(copy.deepcopy(task.model).eval()), **empty)
            model.load_state_dict(held)
        except (RuntimeError, TypeError) as error:
            raise WeightsMismatch(f"{weights} is no patched network of the task's model: {error}") from error
        return model

    def _claimed(self, task: Task, network: nn.Sequential, patches: int) -> Prune:
        shape = tuple(_rows(task)[0].shape[1:])
        return Prune(
            layers=tuple(described(layer) for layer in network), input_shape=shape, lowest=self.lowest, highest=self.highest,
            patches=patches, margin=self.margin,
        )  # fmt: skip

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def _pieces(self, network: nn.Sequential, rows: tuple[Tensor, Tensor]) -> list["_Place"]:
        """The linear pieces on which forgotten rows lie that get the label that they were taught."""
        x, y = rows
        if bool(((x < self.lowest) | (x > self.highest)).any()):
            raise TaskError(
                f"forgotten rows lie outside of the box from lowest={self.lowest:g} to highest={self.highest:g}, on which patches are proven: "
                f"their numbers go from {float(x.min()):g} to {float(x.max()):g}"
            )
        found: dict[bytes, _Place] = {}
        for part, labels in zip(x.split(self.batch_size), y.split(self.batch_size), strict=True):
            units: list[Tensor] = []
            scores = walk(network, part.to(next(network.parameters()).dtype), units)
            if not units:
                raise ModelRefused("patches need a hidden layer with ReLU: without one the network has a single piece")
            hidden = torch.cat([u.flatten(1) for u in units], dim=1).cpu().double().numpy()
            right = (scores.argmax(1) == labels).cpu().tolist()
            every = scores.cpu().double().numpy()
            for values, label, answered, given in zip(hidden, labels.tolist(), right, every, strict=True):
                signs = np.sign(values)
                place = found.setdefault(signs.astype(np.int8).tobytes(), _Place(signs))
                place.labels.add(label)
                if answered:
                    place.rows += 1
                    place.scores = place.scores + given
                    place.nearest = min(place.nearest, float(np.abs(values).min()))
        right = [place for place in found.values() if place.nearest < inf]
        if not right:
            raise TaskError("the model gives no forgotten row the label that it was taught: there is nothing to patch")
        patched = [place for place in right if len(place.labels) < len(place.scores)]
        if not patched:
            raise TaskError(
                "forgotten rows of one linear piece have every label there is: no class is left for a patch"
            )
        if any(not place.slack > 0 for place in patched):
            raise TaskError(
                "a forgotten row lies on the border of a linear piece of the network, where no patch can be put"
            )
        return patched


@dataclass
class _Place:
    """A linear piece and the rows on it: signs of hidden units, the least distance to a sign's change, sums of scores, labels."""

    signs: Any
    rows: int = 0
    nearest: float = inf
    scores: Any = 0.0
    labels: set[int] = field(default_factory=set[int])

    @property
    def slack(self) -> float:
        """How far inside the patch is open: half of the way, downwards in float32."""
        return float(np.nextafter(np.float32(self.nearest / 2), np.float32(0)))


def _fitting(told: Iterator[Piece]) -> Iterator[Piece]:
    """Pieces, or why there can be none."""
    try:
        yield from told
    except ValueError as error:
        raise ModelRefused(f"patches cannot take this network: {error}") from error


def _rows(task: Task) -> tuple[Tensor, Tensor]:
    rows = task.forget
    if (
        not isinstance(rows, Examples)
        or rows.fields
        or len(rows.tensors) != 2
        or not rows.tensors[0].is_floating_point()
    ):
        raise TaskError("patches are put where rows lie: task.forget must be Examples of real inputs and labels")
    x, y = rows.tensors
    return x, y


def _up(value: float) -> float:
    """To float32, upwards."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))
