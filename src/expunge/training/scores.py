"""Inputs, labels and scores of a batch, whatever its form."""

from typing import Any

from torch import Tensor, nn

from expunge.data.content import is_label
from expunge.data.examples import Batch

__all__ = ["inputs_of", "label_of", "relabelled", "scores_of"]


def inputs_of(batch: Batch | Tensor) -> Tensor | dict[str, Tensor]:
    """What a model is called with: one tensor, or several by name.

    Raises:
        TypeError: all fields are labels.
    """
    if isinstance(batch, Tensor):
        return batch
    if not isinstance(batch, dict):
        return batch[0]
    named = {name: tensor for name, tensor in batch.items() if not is_label(name)}
    if not named:
        raise TypeError(f"the fields {sorted(batch)} are labels: there is no input to predict from")
    return named if len(named) > 1 else next(iter(named.values()))


def scores_of(model: nn.Module, batch: Batch | Tensor) -> Tensor:
    """The model's scores for a batch, e.g. of shape (b, classes).

    Raises:
        TypeError: the model returns neither a tensor nor something that has one as `logits`.
    """
    inputs = inputs_of(batch)
    found: Any = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    scores = found if isinstance(found, Tensor) else getattr(found, "logits", None)
    if not isinstance(scores, Tensor):
        raise TypeError(
            f"the model returns no tensor of scores, but {type(found).__name__}: call it as the task's loss does"
        )
    return scores


def label_of(batch: Batch) -> Tensor:
    """The labels of a batch, shape (b,): its second tensor, or the one field whose name says so.

    Raises:
        TypeError: there is none, or more than one, or it holds real numbers.
    """
    name = _where(batch)
    labels = batch[name]  # pyright: ignore
    if labels.is_floating_point():
        raise TypeError(f"labels must be whole numbers, and the field {name!r} holds {labels.dtype}")
    return labels


def relabelled(batch: Batch, labels: Tensor) -> Batch:
    """The batch with other labels."""
    name = _where(batch)
    if isinstance(batch, dict):
        return {**batch, str(name): labels}
    return tuple(labels if k == name else part for k, part in enumerate(batch))


def _where(batch: Batch) -> int | str:
    if isinstance(batch, dict):
        named = [name for name in batch if is_label(name)]
        if len(named) != 1:
            raise TypeError(f"a batch must have one field of labels ('labels', 'y'), not {named} of {sorted(batch)}")
        return named[0]
    if len(batch) < 2:
        raise TypeError("a batch must hold labels as its second tensor: Examples(x, y)")
    return 1
