"""A model's trainable weights as one flat vector.

Clipping, noise and digests are then one operation each, and nothing that was learned can be forgotten on the way: a
model with anything else that may carry data is refused, unless the caller says what it is.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.parameter import UninitializedParameter

from expunge._files import write_new
from expunge.errors import ModelRefused, NonFinite, RunError
from expunge.loss import Loss, backward
from expunge.record import digest_safetensors, weights_digest

__all__ = ["FlatWeights", "batch_norms", "clip_", "dtype_name", "save_bytes", "save_weights"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
# The clip aims this fraction inside its radius, so that rounding of the norm and the product cannot leave the ball.
_INSIDE = 1 - 1e-6


def clip_(x: Tensor, radius: float) -> Tensor:
    """Scale `x` of shape (..., d) in place so that each row has an L2 norm of at most `radius`.

    The norm is accumulated in float64: in float32 it drifts by percents over hundreds of millions of weights.

    Raises:
        NonFinite: a row holds NaN or infinity, which no clip bounds.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float64)
    if not bool(torch.isfinite(norm).all()):
        raise NonFinite("NaN or infinity where a vector is clipped: in the gradient, the weights, or the start")
    outside = norm > radius * _INSIDE
    if bool(outside.any()):
        x.mul_(torch.where(outside, radius * _INSIDE / norm, 1.0).to(x.dtype))
    return x


class FlatWeights:
    """Every trainable parameter of a model in one contiguous buffer, relative to a centre.

    `theta` is the iterate of the theory, float64, of shape (d,): the weights minus the centre. Where the model is float64
    and the centre is zero its parameters are views of `theta`, and nothing is ever copied. Otherwise `write` fills the
    model's own buffer from `theta`, so that the rounding of the model's type never enters the iteration.

    Args:
        model: any module; its parameters are re-laid into one buffer and stay usable.
        public: patterns (`fnmatch`, e.g. "backbone.*") of parameters and buffers that do not depend on the forgotten
            data: left alone, not covered.
        center: a state dict (or module) of a public checkpoint; by default the centre is zero.
        reset_buffers: accept BatchNorm, whose running statistics are then reset.

    Raises:
        ModelRefused: the proof could not cover something; the message names the remedy.
        NonFinite: the weights hold NaN or infinity.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        public: Sequence[str] = (),
        center: nn.Module | dict[str, Tensor] | None = None,
        reset_buffers: bool = False,
    ) -> None:
        self.model = model
        self.public = _public_names(model, public)
        _refuse_hidden_state(model, self.public, reset_buffers=reset_buffers)
        covered = _covered(model, self.public)
        first = covered[0][1]
        self.names = [name for name, _ in covered]
        self.sizes = [parameter.numel() for _, parameter in covered]
        self._parameters = [parameter for _, parameter in covered]
        self.dtype, self.device = first.dtype, first.device
        with torch.no_grad():
            flat = torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters])
            if not bool(torch.isfinite(flat).all()):
                raise NonFinite("the model's weights hold NaN or infinity; there is nothing to unlearn from")
            self._center = None if center is None else self._flatten_center(center, torch.float64)
            shared = first.dtype == torch.float64 and self._center is None
            self.theta = flat if shared else flat.to(torch.float64, copy=True)
            if self._center is not None:
                self.theta.sub_(self._center)
            self._inner = flat
        self._grad = torch.zeros_like(flat)
        self._grads = [g.view_as(p) for g, p in zip(self._grad.split(self.sizes), self._parameters, strict=True)]
        for parameter, part in zip(self._parameters, flat.split(self.sizes), strict=True):
            parameter.data = part.view_as(parameter)

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """(name, size) of every covered parameter, in order."""
        return tuple(zip(self.names, self.sizes, strict=True))

    @property
    def center_digest(self) -> str:
        """The digest of the covered part of the public checkpoint, or `zero`."""
        if self._center is None:
            return "zero"
        center = self._center.cpu()
        of_the_model = center if self.dtype == torch.float64 else center.float()  # as in every certificate before
        return digest_safetensors(safetensors.torch.save({"center": of_the_model}))

    def write(self) -> None:
        """Bring the model's parameters to `theta` (nothing to do where they are its views)."""
        if self._inner is self.theta:
            return
        self._inner.copy_(self.theta if self._center is None else self.theta + self._center)

    def gradient(self, loss: Loss) -> Callable[[Tensor, Any], Tensor]:
        """The function (theta, batch) -> gradient of shape (d,), float32 or float64, that the executors drive.

        Raises (when called):
            NonFinite: the loss is NaN or infinite.
            TypeError: the loss is not a scalar tensor.
            RunError: the loss or the model replaced parameters or gradients that the buffer holds.
        """

        def gradient(theta: Tensor, batch: Any) -> Tensor:
            assert theta is self.theta
            self.write()
            self._grad.zero_()
            for parameter, view in zip(self._parameters, self._grads, strict=True):
                parameter.grad = view
            backward(loss, self.model, batch)
            if any(p.grad is not g for p, g in zip(self._parameters, self._grads, strict=True)):
                raise RunError("the loss replaced a parameter's gradient; leave .grad and zero_grad to expunge")
            # A clip in bfloat16 would miss its radius by percents; in float32 it stays inside (`_INSIDE`).
            return self._grad.float() if self._grad.dtype == torch.bfloat16 else self._grad

        return gradient

    def release(self) -> None:
        """Write the final weights, drop the gradients, and give every parameter storage of its own again."""
        self.write()
        for parameter in self._parameters:
            parameter.grad = None
            parameter.data = parameter.data.clone()

    def _flatten_center(self, center: nn.Module | dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        state: dict[str, Tensor] = center.state_dict() if isinstance(center, nn.Module) else center
        parts: list[Tensor] = []
        for name, parameter in zip(self.names, self._parameters, strict=True):
            if name not in state or state[name].shape != parameter.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise ModelRefused(f"center: '{name}' must have shape {tuple(parameter.shape)}, found {found}")
            parts.append(state[name].detach().reshape(-1).to(self.device, dtype))
        flat = torch.cat(parts)
        if not bool(torch.isfinite(flat).all()):
            raise NonFinite("the centre holds NaN or infinity")
        return flat


def batch_norms(model: nn.Module) -> Iterator[_NormBase]:
    """The modules whose running statistics `reset_buffers` covers."""
    for module in model.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            yield module


def save_bytes(model: nn.Module) -> bytes:
    """The model's state dict in the safetensors format."""
    return safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()})


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> str:
    """Write a model's weights to a new safetensors file, whole or not at all; returns their digest.

    Raises:
        OutputError: the file exists, the disk is full, or writing is not allowed.
    """
    content = save_bytes(model)
    write_new(path, content)
    return digest_safetensors(content)


def dtype_name(dtype: torch.dtype) -> str:
    """E.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")


@weights_digest.register
def _(weights: nn.Module) -> str:
    return digest_safetensors(save_bytes(weights))


def _public_names(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise TypeError(f"public must be a sequence of patterns, not the string {patterns!r}")
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ModelRefused(f"public: the pattern {pattern!r} matches no parameter or buffer")
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _refuse_hidden_state(model: nn.Module, public: tuple[str, ...], *, reset_buffers: bool) -> None:
    covered_norms = (
        {id(b) for norm in batch_norms(model) for b in norm.buffers(recurse=False)} if reset_buffers else set[int]()
    )
    for name, buffer in model.named_buffers():
        if name not in public and id(buffer) not in covered_norms:
            raise ModelRefused(
                f"buffer '{name}' may carry data that the noise does not reach. For BatchNorm pass buffers='reset' (its "
                "statistics are reset and estimated again on the retained data); for a constant that does not depend on "
                f"the forgotten data pass public=['{name}']"
            )
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            if not key.startswith("_") and _hides_tensors(value):
                raise ModelRefused(
                    f"'{prefix}.{key}' holds a tensor or module that no state dict shows: register it as a parameter, "
                    "or as a buffer declared in public=[...] if it does not depend on the forgotten data"
                )


def _hides_tensors(value: object) -> bool:
    """Whether an attribute is, or holds in a list, tuple or dict, tensors or modules that torch does not register."""
    if isinstance(value, dict):
        return any(_hides_tensors(item) for item in cast("dict[Any, object]", value).values())
    if isinstance(value, (list, tuple)):
        return any(_hides_tensors(item) for item in cast("list[object]", value))
    return isinstance(value, (Tensor, nn.Module)) and not isinstance(value, nn.Parameter)


def _covered(model: nn.Module, public: tuple[str, ...]) -> list[tuple[str, nn.Parameter]]:
    """The parameters that the noise must reach, after every check."""
    _refuse_tied(model)
    covered = [(name, parameter) for name, parameter in model.named_parameters() if name not in public]
    if not covered:
        raise ModelRefused("the model has no trainable parameter outside public=[...]")
    for name, parameter in covered:
        if isinstance(parameter, UninitializedParameter):
            raise ModelRefused(f"parameter '{name}' is not initialised yet: run one batch through the model first")
        if not parameter.requires_grad:
            raise ModelRefused(
                f"parameter '{name}' is frozen, so the noise would not reach it. If it was trained on the data, set "
                f"requires_grad=True; if it does not depend on the forgotten data, pass public=['{name}']"
            )
        if parameter.dtype not in _DTYPES:
            raise ModelRefused(
                f"parameter '{name}' is {dtype_name(parameter.dtype)}; convert with model.float(), .bfloat16() or .double()"
            )
        if parameter.dtype != covered[0][1].dtype or parameter.device != covered[0][1].device:
            raise ModelRefused(
                f"parameter '{name}' is {dtype_name(parameter.dtype)} on {parameter.device}, but '{covered[0][0]}' is "
                f"{dtype_name(covered[0][1].dtype)} on {covered[0][1].device}: use one dtype and one device"
            )
    return covered


def _refuse_tied(model: nn.Module) -> None:
    spans: list[tuple[int, int, int, str]] = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not isinstance(parameter, UninitializedParameter) and parameter.numel():
            start = int(parameter.storage_offset())
            spans.append((parameter.untyped_storage().data_ptr(), start, start + _span(parameter), name))
    spans.sort()
    for (storage, _, end, name), (other_storage, other_start, _, other) in pairwise(spans):
        if storage == other_storage and other_start < end:
            raise ModelRefused(
                f"'{name}' and '{other}' share their weights (tied): give each its own copy, "
                "e.g. module.weight = torch.nn.Parameter(module.weight.detach().clone())"
            )


def _span(tensor: Tensor) -> int:
    """How much storage a strided tensor reaches over."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
