"""The one contract between expunge and a user's model: `loss(model, batch)` is a scalar to be made smaller."""

import cmath
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.errors import NonFinite

__all__ = ["NO_GRADIENT", "Loss", "backward", "check_loss", "scalar_loss"]

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]

NO_GRADIENT = (
    "loss(model, batch) returned a number without a gradient: it must come from the model's outputs by differentiable "
    "operations, without torch.no_grad, .detach(), .item() or argmax, and be returned as a tensor"
)


def check_loss(loss: object) -> None:
    """Raise `TypeError` where a loss is no function."""
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, batch) -> scalar tensor, not {_validate.shown(loss)}")


def scalar_loss(loss: Loss, model: nn.Module, batch: Any) -> Tensor:
    """`loss(model, batch)`, checked to be one finite number.

    Raises:
        TypeError: not a scalar tensor.
        NonFinite: NaN or infinite.
    """
    value: object = loss(model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = (
            f"one of shape {tuple(value.shape)}: take its mean" if isinstance(value, Tensor) else _validate.shown(value)
        )
        raise TypeError(f"loss(model, batch) must return a scalar tensor, not {found}")
    if not cmath.isfinite(number := value.item()):  # a number at once: `torch.isfinite` takes as long as a small layer
        raise NonFinite(f"the loss is {number}: lower the learning rate, or look for the batch that causes it")
    return value


def backward(loss: Loss, model: nn.Module, batch: Any) -> None:
    """Add the gradient of `loss(model, batch)` to the parameters' `.grad`, under `torch.no_grad` too.

    Raises:
        TypeError: not a scalar tensor, or one that has no gradient.
        NonFinite: NaN or infinite.
    """
    with torch.enable_grad():
        value = scalar_loss(loss, model, batch)
        if not value.requires_grad:
            raise TypeError(NO_GRADIENT)
        value.backward()  # pyright: ignore[reportUnknownMemberType]
