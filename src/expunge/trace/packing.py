"""Small tensors of a checkpoint side by side in one: a file spends some hundred bytes on every tensor that it holds."""

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["pack", "unpack"]

_SMALL = 1 << 16  # bytes; of larger ones the copy would cost more than the file saves
_PACKED, _STATE = "expunge.packed/1", "state"


def pack(state: dict[str, Any]) -> dict[str, Any]:
    """A state of dictionaries, lists, tensors and plain values, with its small tensors in one vector of each type."""
    parts: dict[str, list[Tensor]] = {}
    sizes: dict[str, int] = {}

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(held) for key, held in cast("dict[Any, Any]", value).items()}
        if type(value) in (list, tuple):
            return type(value)(put(held) for held in value)
        if not isinstance(value, Tensor) or not _is_small(value):
            return value
        kind = str(value.dtype)
        start = sizes.get(kind, 0)
        parts.setdefault(kind, []).append(value.detach().reshape(-1))
        sizes[kind] = start + value.numel()
        return {_PACKED: (kind, start, tuple(value.shape))}

    found = put(state)
    return {_PACKED: {kind: torch.cat(held) for kind, held in parts.items()}, _STATE: found}


def unpack(content: dict[str, Any]) -> dict[str, Any]:
    """The state of `pack`, or one that was never packed."""
    if _PACKED not in content:
        return content
    vectors: dict[str, Tensor] = content[_PACKED]

    def take(value: Any) -> Any:
        if isinstance(value, dict):
            held = cast("dict[Any, Any]", value)
            if held.keys() == {_PACKED}:
                kind, start, shape = held[_PACKED]
                return vectors[kind][start : start + torch.Size(shape).numel()].view(shape).clone()
            return {key: take(part) for key, part in held.items()}
        return type(value)(take(part) for part in value) if type(value) in (list, tuple) else value

    return take(content[_STATE])


def _is_small(tensor: Tensor) -> bool:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.numel() * tensor.element_size() <= _SMALL
