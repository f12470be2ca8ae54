"""The public checkpoint at the ball's centre."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from expunge.errors import ModelRefused, NonFinite
from expunge.parallel.sharding import whole
from expunge.training.tensors import plain_name

__all__ = ["flat_center"]


def flat_center(
    center: nn.Module | dict[str, Tensor],
    names: Sequence[str],
    shapes: Sequence[torch.Size],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """The covered part of a public checkpoint as one vector, shape (d,).

    Raises:
        ModelRefused: a name is missing, or has another shape.
        NonFinite: it holds NaN or infinity.
    """
    given: dict[str, Tensor] = center.state_dict() if isinstance(center, nn.Module) else center
    state = {plain_name(name): tensor for name, tensor in given.items()}
    parts: list[Tensor] = []
    for name, shape in zip(names, shapes, strict=True):
        if name not in state or state[name].shape != shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            raise ModelRefused(f"center: '{name}' must have shape {tuple(shape)}, found {found}")
        parts.append(whole(state[name]).detach().reshape(-1).to(device, dtype))
    flat = torch.cat(parts)
    if not bool(torch.isfinite(flat).all()):
        raise NonFinite("the centre holds NaN or infinity")
    return flat
