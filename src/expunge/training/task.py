"""What a command needs of a user: one Python function that returns a `Task`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from expunge.data import Examples, Request, as_examples
from expunge.data.joins import joined
from expunge.errors import TaskError, TaskNotFound
from expunge.training.loss import Loss
from expunge.training.randomness import mode
from expunge.training.task_module import module_of

__all__ = ["Task", "accuracies", "accuracy", "featured", "labelled", "load_task", "outputs", "resolved"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained model, its data parted into what stays and what goes, and a loss.

    Args:
        model: trained on retained and forgotten data.
        retain: the retained data: `Examples`, tensors `(x, y)`, or a loader of batches.
        forget: the data to forget; used for its commitment and for measuring, never by the mechanism.
        held_out: data that no training saw.
        loss: `loss(model, batch)` returns a scalar tensor.
        make_model: builds a fresh model, for retraining; optional.
        public: patterns of parameters and buffers that do not depend on the forgotten data.
        buffers: "refuse" or "reset", see `unlearn`.
        center: a public checkpoint at the ball's centre; by default zero.
        accuracy: `accuracy(model, batch)` returns one number an example, 1 for a right answer; by default the largest
            of the model's outputs for the batch's first tensor is compared with its second.
        features: a feature map for exact heads, from rows x to shape (n, d); optional.
        provenance: why that map does not depend on data that may be forgotten, in a line; "" where this is not known.
        augment: `augment(batch, generator) -> batch`, for replays: the one that the trace was made with; optional.
    """

    model: nn.Module
    retain: Any
    forget: Any
    held_out: Any
    loss: Loss
    make_model: Callable[[], nn.Module] | None = None
    public: Sequence[str] = ()
    buffers: str = "refuse"
    center: nn.Module | dict[str, Tensor] | None = None
    accuracy: Callable[[nn.Module, Any], Tensor] | None = None
    features: Callable[[Tensor], Tensor] | None = None
    provenance: str = ""
    augment: Callable[[Any, torch.Generator], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TaskError(f"task.model must be a torch.nn.Module, not {type(self.model).__name__}")
        if not callable(self.loss):
            raise TaskError(f"task.loss must be a function loss(model, batch), not {self.loss!r}")
        if self.make_model is not None and (isinstance(self.make_model, nn.Module) or not callable(self.make_model)):
            raise TaskError("task.make_model must be a function that builds a fresh model")
        if self.augment is not None and not callable(self.augment):
            raise TaskError(f"task.augment must be a function augment(batch, generator), not {self.augment!r}")
        for name in ("retain", "forget", "held_out"):
            try:
                as_examples(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise TaskError(f"task.{name}: {error}") from error


def resolved(task: Task, request: Request | None) -> Task:
    """The task with the request's rows as its forget set, and all others as its retain set.

    Raises:
        TaskError: there is no request, or the data are no `Examples`.
        ValueError: an id or owner is unknown, no row is left; or labels or features are asked for, which
            `ConvexHead.unlearn` corrects.
    """
    if request is None:
        if task.forget is None:
            raise TaskError("nothing is to be forgotten: give a request, e.g. Request.rows(ids), or task.forget")
        return task
    if request.kinds & {"labels", "features"}:
        raise ValueError("labels and features are corrected by expunge.ConvexHead.unlearn; here rows and owners leave")
    parts = [as_examples(part) for part in (task.retain, task.forget) if part is not None]
    if any(part is None for part in parts):
        raise TaskError("a request names rows: give the task's data as Examples(..., ids=...), not as a loader")
    rows = joined(*cast("list[Examples]", parts)) if len(parts) > 1 else cast("Examples", parts[0])
    leaving = request.positions(rows)
    staying = sorted(set(range(len(rows))) - set(leaving))
    if not staying:
        raise ValueError("the request leaves no row: there is nothing to train on")
    return replace(task, retain=rows.take(staying), forget=rows.take(leaving))


def labelled(task: Task, part: str) -> Examples:
    """The rows of a part of a task, "retain", "forget" or "held_out", as a head needs them.

    Raises:
        TaskError: they are no `Examples(x, y)` with a label for each row.
    """
    rows = as_examples(getattr(task, part))
    if rows is None or len(rows.tensors) != 2 or rows.tensors[1].dim() != 1 or rows.tensors[1].is_floating_point():
        raise TaskError(f"a head needs task.{part} as Examples(x, y) with a label for each row")
    return rows


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
        raise TaskError("a head needs task.features, a map from rows to features, and task.provenance")
    return torch.cat([task.features(x) for x, *_ in rows.chunks(1024)])


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def accuracy(model: nn.Module, data: Any, of: Callable[[nn.Module, Any], Tensor] | None = None) -> float:
    """The mean of `of(model, batch)` over `data`; by default the share of right labels.

    Raises:
        ValueError: no data.
        TaskError: without `of`, batches that are no (x, y), or outputs of the model that are no scores for y.
    """
    examples = as_examples(data)
    batches: Any = examples.chunks(1024) if isinstance(examples, Examples) else data
    with mode(model, training=False):
        hits = [(_hits if of is None else of)(model, batch).double().reshape(-1).cpu() for batch in batches]
    if not hits:
        raise ValueError("no data to measure accuracy on")
    return float(torch.cat(hits).mean())


def accuracies(task: Task, model: nn.Module) -> dict[str, float]:
    """Of a model on the held-out and the forgotten data of a task; raises as `accuracy` does."""
    return {part: accuracy(model, getattr(task, part), task.accuracy) for part in ("held_out", "forget")}


def load_task(where: str) -> Task:
    """Call the function named by `module:function` or `path/to/file.py:function`.

    Raises:
        TaskNotFound: no such file, module or function.
        TaskError: it returns something else than a `Task`.
    """
    module_name, separator, function_name = where.rpartition(":")
    if not separator or not module_name or not function_name:
        raise TaskNotFound(f"name a task as module:function or file.py:function, not {where!r}")
    function = getattr(module_of(module_name), function_name, None)
    if not callable(function):
        raise TaskNotFound(f"{module_name} has no function {function_name!r}")
    task: object = cast("Callable[[], object]", function)()
    if not isinstance(task, Task):
        raise TaskError(f"{where} must return an expunge.Task, not {type(task).__name__}")
    return task


def _hits(model: nn.Module, batch: Any) -> Tensor:
    remedy = "set task.accuracy, a function accuracy(model, batch) that returns one number an example"
    if (
        not isinstance(batch, (tuple, list))
        or len(batch) < 2
        or not all(isinstance(part, Tensor) for part in batch[:2])
    ):
        raise TaskError(
            f"right labels are counted in batches (x, y) of tensors, not in {type(batch).__name__}; {remedy}"
        )
    device = next(model.parameters()).device
    x, y = (part.to(device) for part in batch[:2])
    scores: object = model(x)
    if not isinstance(scores, Tensor) or scores.shape[:-1] != y.shape:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TaskError(
            f"right labels need scores of shape {(*y.shape, 'classes')} from the model, not {found}; {remedy}"
        )
    return scores.argmax(-1) == y
