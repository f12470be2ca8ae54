"""What a command needs of a user: one Python function that returns a `Task`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.data import Examples, Request, as_examples
from expunge.data.content import is_label
from expunge.errors import TaskError, TaskNotFound
from expunge.training.loss import Loss
from expunge.training.randomness import mode
from expunge.training.task_module import module_of

__all__ = ["Task", "accuracies", "accuracy", "answers", "featured", "labelled", "load_task", "measured", "outputs"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained model, the data that it was trained on, and its loss.

    The data come in one of two forms: all of them as `data`, of which a `Request` names what leaves, see `parts`; or parted
    already, as `retain` and `forget`. Tensors become `Examples` here, once: every field of data is `Examples` or a loader.

    Args:
        model: trained on retained and forgotten data.
        data: everything that the model was trained on: `Examples` with ids, of owners or rows.
        retain: the retained data: `Examples`, tensors `(x, y)` or `{name: tensor}`, or a loader of batches.
        forget: the data to forget; used for its commitment and for measuring, never by the mechanism.
        held_out: data that no training saw; without them no accuracy is measured on such data.
        loss: `loss(model, batch)` returns a scalar tensor.
        make_model: builds a fresh model, for retraining; optional.
        public: patterns of parameters and buffers that do not depend on the forgotten data.
        buffers: "refuse" or "reset", see `unlearn`.
        center: a public checkpoint at the ball's centre; by default zero.
        accuracy: `accuracy(model, batch)` returns one number an example, 1 for a right answer; by default the largest
            of the model's outputs for the batch's first tensor is compared with its second, or, where a batch has two
            named fields, for the one with the label, e.g. "labels".
        features: a feature map for heads, from rows x to shape (n, d): a `FeatureMap`, or any function; optional.
        provenance: why that map does not depend on data that may be forgotten, in a line, and all of it; "" says that this is
            not known. By default what the map says of itself, its own `provenance`. See `declared`.
        training_epochs: how many passes over the data the model was trained for; a retraining takes as many. None where this is
            not known.
        augment: `augment(batch, generator) -> batch`, for replays: the one that the trace was made with; optional.

    Raises:
        TaskError: a field is not what it should be, or the data come in both forms or in none.
    """

    model: nn.Module
    loss: Loss
    data: Any = None
    retain: Any = None
    forget: Any = None
    held_out: Any = None
    make_model: Callable[[], nn.Module] | None = None
    public: Sequence[str] = ()
    buffers: str = "refuse"
    center: nn.Module | dict[str, Tensor] | None = None
    accuracy: Callable[[nn.Module, Any], Tensor] | None = None
    features: Callable[[Tensor], Tensor] | None = None
    provenance: str | None = None
    training_epochs: float | None = None
    augment: Callable[[Any, torch.Generator], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TaskError(f"task.model must be a torch.nn.Module, not {type(self.model).__name__}")
        if not callable(self.loss):
            raise TaskError(f"task.loss must be a function loss(model, batch), not {_validate.shown(self.loss)}")
        if self.make_model is not None and (isinstance(self.make_model, nn.Module) or not callable(self.make_model)):
            raise TaskError("task.make_model must be a function that builds a fresh model")
        if self.augment is not None and not callable(self.augment):
            raise TaskError(
                f"task.augment must be a function augment(batch, generator), not {_validate.shown(self.augment)}"
            )
        if self.training_epochs is not None:
            try:
                _validate.positive(training_epochs=self.training_epochs)
            except (TypeError, ValueError) as error:
                raise TaskError(f"task.{error}") from error
        self._check_form()
        for name in ("data", "retain", "forget", "held_out"):
            given = getattr(self, name)
            if given is None:
                continue
            try:
                examples = as_examples(given)
            except (TypeError, ValueError) as error:
                raise TaskError(f"task.{name}: {error}") from error
            if name == "data" and examples is None:
                raise TaskError(
                    f"task.data must be Examples, of which a request can take rows, not {type(given).__name__}: give loaders "
                    "of batches as retain= and forget=, or read a dataset with Examples.of(dataset, ids=...)"
                )
            object.__setattr__(self, name, given if examples is None else examples)

    def _check_form(self) -> None:
        given = [name for name in ("retain", "forget") if getattr(self, name) is not None]
        if self.data is not None and given:
            raise TaskError(f"give task.data, or task.retain and task.forget, not data and {' and '.join(given)}")
        if self.data is None and len(given) < 2:
            missing = [name for name in ("retain", "forget") if name not in given]
            raise TaskError(
                f"task.{' and task.'.join(missing)} must be given: give data=, all that the model was trained on, or retain= and forget="
            )

    @property
    def declared(self) -> str:
        """Why the feature map depends on no row that may be forgotten: what the task says, else what the map says; else "".

        Raises:
            TaskError: the map says something else than a text.
        """
        said = getattr(self.features, "provenance", "") if self.provenance is None else self.provenance
        if not isinstance(said, str):
            raise TaskError(f"the provenance of task.features must be a line of text, not {_validate.shown(said)}")
        return said

    def everything(self) -> Examples:
        """All examples that the model was trained on: `data`, or what is retained and what is to be forgotten.

        Raises:
            TaskError: they are loaders of batches, or cannot be joined.
        """
        if self.data is not None:
            return self.data
        if not isinstance(self.retain, Examples) or not isinstance(self.forget, Examples):
            raise TaskError("a loader of batches has no rows to name: give task.retain and task.forget as Examples")
        try:
            return self.retain + self.forget
        except ValueError as error:
            raise TaskError(f"task.retain and task.forget cannot be one set: {error}") from error

    def parts(self, request: Request | None = None) -> "Task":
        """The task of one request: the same, with what stays as `retain` and what goes as `forget`.

        Args:
            request: names rows or owners to delete; may be left out where the task has `retain` and `forget`.

        Raises:
            TaskError: no request where one is needed, or data of which none can take rows.
            ValueError: the request changes rows in the place of deleting them, leaves none, or names ids and owners that are
                not among the data.
        """
        if request is None:
            if self.data is not None:
                raise TaskError(
                    "task.data holds all that the model was trained on: a request must name what is to be forgotten"
                )
            return self
        if not isinstance(request, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"a request is an expunge.Request, such as Request.rows(ids), not {_validate.shown(request)}"
            )
        if changes := request.kinds & {"labels", "features"}:
            raise ValueError(
                f"a request for {' and '.join(sorted(changes))} changes rows and deletes none: only a ConvexHead carries it out, "
                "ConvexHead.unlearn(rows, request)"
                + ("; features.FeatureAnswer changes rows to train on anew" if "features" in changes else "")
            )
        rows = self.everything()
        gone = request.positions(rows)
        if len(gone) == len(rows):
            raise ValueError(f"the request takes all {len(rows)} rows: nothing would be left to train on")
        stays = torch.ones(len(rows), dtype=torch.bool)
        stays[gone] = False
        return replace(self, data=None, retain=rows.take(stays), forget=rows.take(gone))


def labelled(task: Task, part: str) -> Examples:
    """The rows of a part of a task, "retain", "forget" or "held_out", as a head needs them.

    Raises:
        TaskError: they are no `Examples(x, y)` with a label for each row, or are not given.
    """
    rows = getattr(task, part)
    if not isinstance(rows, Examples) or rows.fields or len(rows.values) != 2 or not _labels(rows.values[1]):
        raise TaskError(f"a head needs task.{part} as Examples(x, y) with a label for each row")
    return rows


def _labels(values: Tensor) -> bool:
    return values.dim() == 1 and not values.is_floating_point()


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def outputs(task: Task, rows: Examples) -> int:
    """The classes of a head: the width of the network's output, which is public.

    Labels would not do: whether a class exists may depend on the forgotten data, and the shape of the weights is released.
    """
    with mode(task.model, training=False):
        return int(task.model(rows.tensors[0][:1]).shape[-1])


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def featured(task: Task, rows: Examples) -> Tensor:
    """The task's features of rows, shape (n, d).

    Raises:
        TaskError: the task names no feature map.
    """
    if task.features is None:
        raise TaskError("a head needs task.features, a map from rows to features with its provenance")
    return torch.cat([task.features(x) for x in rows.tensors[0].split(1024)])


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def accuracy(model: nn.Module, data: Any, of: Callable[[nn.Module, Any], Tensor] | None = None) -> float:
    """The mean of `of(model, batch)` over `data`; by default the share of right labels.

    Raises:
        ValueError: no data.
        TaskError: without `of`, batches that are neither (x, y) nor one field and a label, or outputs of the model that are no scores for y.
    """
    return float(answers(model, data, of).mean())


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def answers(model: nn.Module, data: Any, of: Callable[[nn.Module, Any], Tensor] | None = None) -> Tensor:
    """One number an example, 1 for a right answer, shape (n,), float64; arguments and errors as of `accuracy`."""
    examples = as_examples(data)
    batches: Any = examples.chunks(1024) if isinstance(examples, Examples) else data
    with mode(model, training=False):
        hits = [(_hits if of is None else of)(model, batch).double().reshape(-1).cpu() for batch in batches]
    if not hits:
        raise ValueError("no data to measure accuracy on")
    return torch.cat(hits)


def measured(task: Task) -> tuple[str, ...]:
    """The parts of a task that accuracy is measured on: "held_out" where it is given, and "forget"."""
    return ("forget",) if task.held_out is None else ("held_out", "forget")


def accuracies(task: Task, model: nn.Module) -> dict[str, float]:
    """Of a model on the held-out (where there are any) and the forgotten data of a task; raises as `accuracy` does."""
    return {part: accuracy(model, getattr(task, part), task.accuracy) for part in measured(task)}


def load_task(where: str, request: Request | None = None) -> Task:
    """Call the function named by `module:function` or `path/to/file.py:function`, and part the data of its task.

    Args:
        where: the function.
        request: what is to be forgotten, see `Task.parts`.

    Raises:
        TaskNotFound: no such file, module or function.
        TaskError: it returns something else than a `Task`, or data that no request has parted.
        ValueError: the request does not fit it.
    """
    task = returned_by(where, "a task")
    if not isinstance(task, Task):
        raise TaskError(f"{where} must return an expunge.Task, not {type(task).__name__}")
    return task.parts(request)


def returned_by(where: str, what: str) -> object:
    """Call the function named by `module:function` or `path/to/file.py:function`.

    Args:
        where: the function.
        what: it is to return, in words.

    Raises:
        TaskNotFound: no such file, module or function.
    """
    module_name, separator, function_name = where.rpartition(":")
    if not separator or not module_name or not function_name:
        raise TaskNotFound(f"name {what} as module:function or file.py:function, not {where!r}")
    function = getattr(module_of(module_name), function_name, None)
    if not callable(function):
        raise TaskNotFound(f"{module_name} has no function {function_name!r}")
    return cast("Callable[[], object]", function)()


def _hits(model: nn.Module, batch: Any) -> Tensor:
    remedy = "set task.accuracy, a function accuracy(model, batch) that returns one number an example"
    pair = _pair(batch)
    if pair is None:
        named = isinstance(batch, Mapping)
        found = f"fields {sorted(map(str, cast('Any', batch)))}" if named else type(batch).__name__
        raise TaskError(
            f"right labels are counted in batches (x, y) of tensors, or of one field and a label ('labels', 'y'), not in {found}; "
            f"{remedy}"
        )
    device = next(model.parameters()).device
    x, y = (part.to(device) for part in pair)
    try:
        scores: object = model(x)
    except RuntimeError as error:  # torch's, of shapes and types
        raise TaskError(
            f"the model cannot be run on rows of shape {tuple(x.shape[1:])} and type {x.dtype}: {error}. Give rows as its layers take them; "
            "numpy's real numbers are float64 unless .astype('float32') is said"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape[:-1] != y.shape:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TaskError(
            f"right labels need scores of shape {(*y.shape, 'classes')} from the model, not {found}; {remedy}"
        )
    return scores.argmax(-1) == y


def _pair(batch: Any) -> tuple[Tensor, Tensor] | None:
    """Inputs and labels of a batch; None where it does not say which is which."""
    if isinstance(batch, Mapping):
        fields = cast("Mapping[str, Any]", batch)
        ordered = sorted(fields, key=lambda name: is_label(str(name)))
        if len(ordered) != 2 or [is_label(str(name)) for name in ordered] != [False, True]:
            return None
        batch = tuple(fields[name] for name in ordered)
    if not isinstance(batch, (tuple, list)) or len(cast("Any", batch)) < 2:
        return None
    x, y = cast("Any", batch)[:2]
    return (x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else None
