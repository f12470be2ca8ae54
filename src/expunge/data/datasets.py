"""A dataset read once, item by item, into tensors."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

__all__ = ["read"]


def read(dataset: Any) -> tuple[Tensor, ...] | dict[str, Tensor]:
    """Every item of a dataset in tensors whose first axis counts them: by position, or by name where items are mappings.

    Numbers become tensors as in a `DataLoader`: Python's floats in float64, whole numbers in int64.

    Raises:
        ValueError: no item, or one whose fields, shapes or types are not those of the first.
        TypeError: no length or no items, or an item that holds something else than tensors, arrays and numbers.
    """
    if isinstance(dataset, (str, bytes, Tensor, np.ndarray, Mapping)) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    ):
        raise TypeError(
            f"dataset must have a length and items, as a torch.utils.data.Dataset, not {type(dataset).__name__}"
        )
    if len(dataset) == 0:
        raise ValueError("the dataset is empty")
    items = list[Any]()
    first: dict[str | int, str] = {}
    for number in range(len(dataset)):
        item = dataset[number]
        form = {key: _form(number, key, value) for key, value in _parts(item)}
        if number == 0:
            first = form
        if form.keys() != first.keys():
            raise ValueError(f"item {number} holds {_listed(form)}, item 0 holds {_listed(first)}: they must be alike")
        for key, found in form.items():
            if found != first[key]:
                raise ValueError(
                    f"{_named(key)} of item {number} is {found}, that of item 0 is {first[key]}: items must be alike; "
                    "pad or crop them to one shape, or leave ids out and pass a DataLoader"
                )
        items.append(item)
    if isinstance(items[0], Mapping):
        return {str(key): _stacked([item[key] for item in items]) for key in first}
    return tuple(_stacked([dict(_parts(item))[key] for item in items]) for key in first)


def _parts(item: Any) -> list[tuple[str | int, Any]]:
    if isinstance(item, Mapping):
        return list(cast("Mapping[str, Any]", item).items())
    return list(enumerate(cast("Sequence[Any]", item))) if isinstance(item, (tuple, list)) else [(0, item)]


def _form(number: int, key: str | int, value: Any) -> str:
    """Type and shape, in words."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, (np.ndarray, np.generic)) and cast("Any", value).dtype.kind in "biuf":
        return f"{cast('Any', value).dtype} of shape {cast('Any', value).shape}"
    if isinstance(value, (bool, int, float)):
        return type(value).__name__
    raise TypeError(
        f"{_named(key)} of item {number} must be a tensor, an array or a number, not {type(value).__name__}"
    )


def _stacked(values: list[Any]) -> Tensor:
    return torch.tensor(values) if isinstance(values[0], bool) else default_collate(values)


def _named(key: str | int) -> str:
    return f"part {key}" if isinstance(key, int) else repr(key)


def _listed(form: Mapping[str | int, str]) -> str:
    return ", ".join(map(_named, form))
