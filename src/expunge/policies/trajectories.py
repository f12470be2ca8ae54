"""A demonstrator as one row, for methods that clip and count by rows."""

import torch
from torch import Tensor

from expunge.data import Examples
from expunge.policies.energies import PADDING

__all__ = ["by_demonstrator"]


def by_demonstrator(examples: Examples) -> Examples:
    """One row a demonstrator: all its steps, padded to the most that any has.

    `cloning` takes them, each row as the mean over its steps. So a method that clips the gradient of every row clips that of a
    demonstrator, and a group of one row is a demonstrator: `PrivateTraining(group_size=1)`.

    Args:
        examples: (states, actions), a step a row, with groups, as `demonstrations` makes them.

    Returns:
        States of shape (demonstrators, steps, ...), padded by zeros, and actions of shape (demonstrators, steps), padded by
        `PADDING`; ids and groups are the demonstrators.

    Raises:
        ValueError: no groups.
        TypeError: tensors by name, or another number of them.
    """
    if examples.groups is None:
        raise ValueError("the demonstrations name no demonstrators: Examples(..., groups=...)")
    if len(examples.tensors) != 2:
        raise TypeError(f"demonstrations are Examples(states, actions), not {len(examples.tensors)} tensors")
    states, actions = examples.tensors
    places: dict[str, list[int]] = {}
    for row, name in enumerate(examples.groups):
        places.setdefault(name, []).append(row)
    rows = [torch.tensor(held) for held in places.values()]
    return Examples(_padded(states, rows, 0), _padded(actions, rows, PADDING), ids=places, groups=places)


def _padded(values: Tensor, rows: list[Tensor], padding: int) -> Tensor:
    parts = [values[where.to(values.device)] for where in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=padding)
