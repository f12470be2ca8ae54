"""Which rows show whether a loss or a model mixes the examples of a batch, and by how much it does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.data import Examples

__all__ = ["MIXED", "apart", "telling_rows"]

MIXED = (
    "the gradients of examples in one batch are not those of each example alone. The loss must be the mean over the batch "
    "of a term for each example (no sum, no weighted mean, no penalty on the weights), no layer may mix examples, and "
    "every parameter must be used by its own layer"
)
_MOST = 24


def telling_rows(examples: Examples) -> list[int]:
    """Rows that differ as much as rows of these data can, shape: at most about 24 for each tensor.

    Of every tensor with one whole number a row (labels) one row for each value, or values spread over their range; of
    every other one the rows of least and largest sum. Then rows spread over the whole.
    """
    found: list[int] = []
    for tensor in reversed(examples.values):  # labels come last, as a rule
        flat = tensor.detach().reshape(len(tensor), -1)
        if flat.shape[1] == 1 and not flat.is_floating_point() and not flat.is_complex():
            values = flat[:, 0].unique()
            chosen = values[_spread(len(values), _MOST)]
            found += [int((flat[:, 0] == value).nonzero()[0, 0]) for value in chosen]
        elif flat.shape[1] and not flat.is_complex():
            sums = flat.double().sum(dim=1)
            found += [int(sums.argmin()), int(sums.argmax())]
    return list(dict.fromkeys(found + _spread(len(examples), 8)))


def _spread(count: int, most: int) -> list[int]:
    """At most so many of 0 to count - 1, evenly, the ends among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def apart(together: Tensor, alone: Sequence[Tensor], *, relative: float, absolute: float) -> bool:
    """Whether gradients in one batch, shape (k, d), are others than those of each example alone, k of shape (d,)."""
    single = torch.stack(list(alone)).double()
    gap = torch.linalg.vector_norm(together.double() - single, dim=1)
    return bool((gap > relative * torch.linalg.vector_norm(single, dim=1) + absolute).any())
