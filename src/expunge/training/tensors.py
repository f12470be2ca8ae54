"""What a model is made of by name: the tensors that its file holds, and nothing else."""

import copy
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from expunge._files import write_new
from expunge._workers import processes
from expunge.certificate.digests import TensorInfo, digest_tensors, weights_tensors
from expunge.errors import ModelRefused
from expunge.parallel.sharding import local, sharded, whole
from expunge.parallel.workers import Workers

__all__ = [
    "copied",
    "digest_bytes",
    "dtype_name",
    "named_buffers",
    "named_modules",
    "named_parameters",
    "plain_name",
    "refuse_other_state",
    "same_bits",
    "save_bytes",
    "save_weights",
    "saved_tensors",
    "tensor_infos",
]

_COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps


def plain_name(name: str) -> str:
    """The name without what `torch.compile` puts before it: a file does not tell whether its model was compiled."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module under every name it has, as torch registers them.

    Not by the model's own `named_modules` and its kin: a class may override them, to show an optimiser a part alone, and what
    they leave out is in the model all the same.
    """
    stack: list[tuple[str, nn.Module, frozenset[int]]] = [("", model, frozenset())]
    while stack:
        prefix, module, above = stack.pop()
        yield prefix, module
        inside = above | {id(module)}  # a module that holds itself is not walked for ever
        stack += [
            (_joined(prefix, key), part, inside)
            for key, part in reversed(list(module._modules.items()))  # pyright: ignore[reportPrivateUsage]
            if part is not None and id(part) not in inside
        ]


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter under every name it has, compiled or not."""
    for prefix, module in named_modules(model):
        for key, parameter in module._parameters.items():  # pyright: ignore[reportPrivateUsage]
            if parameter is not None:
                yield plain_name(_joined(prefix, key)), parameter


def named_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every buffer under every name it has, those that no state dict shows among them."""
    for prefix, module in named_modules(model):
        for key, buffer in module._buffers.items():  # pyright: ignore[reportPrivateUsage]
            if buffer is not None:
                yield plain_name(_joined(prefix, key)), buffer


def _joined(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name: what a file of the model holds, whatever its state dict says.

    Raises:
        ModelRefused: two of them have one name.
    """
    found: dict[str, Tensor] = {}
    for prefix, module in named_modules(model):
        passing: set[str] = module._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage]
        own: list[tuple[str, Tensor | None]] = [
            *module._parameters.items(),  # pyright: ignore[reportPrivateUsage]
            *((n, b) for n, b in module._buffers.items() if n not in passing),  # pyright: ignore[reportPrivateUsage]
        ]
        for key, tensor in own:
            if tensor is None:
                continue
            name = plain_name(_joined(prefix, key))
            if name in found:
                raise ModelRefused(f"two tensors of the model have the name '{name}'")
            found[name] = tensor
    return found


def refuse_other_state(model: nn.Module) -> None:
    """Refuse a model whose state dict is not its parameters and persistent buffers, name by name and bit by bit.

    What `get_extra_state`, a state-dict hook or a `state_dict` of its own adds is reached by no noise and no clip; what
    they hide or change would make file and model two things.

    Raises:
        ModelRefused: the message names the entry.
    """
    own = saved_tensors(model)
    shown: dict[str, object] = {plain_name(name): value for name, value in model.state_dict().items()}
    for name in shown.keys() - own.keys():
        raise ModelRefused(
            f"the state dict shows '{name}', which is neither a parameter nor a buffer of the model (get_extra_state, a "
            "state-dict hook, or a state_dict of its own): no noise would reach it. Keep it out of the state dict, or "
            "register it as a buffer and declare it in public=[...] if it does not depend on the forgotten data"
        )
    for name, tensor in own.items():
        value = shown.get(name)
        if is_lazy(tensor):
            continue
        if not isinstance(value, Tensor) or not same_bits(value, tensor):
            raise ModelRefused(
                f"the state dict does not show '{name}' as it is in the model (a state-dict hook, or a state_dict of its "
                "own): what is released would not be what was certified. Let the state dict show it unchanged"
            )


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in shape, dtype and every bit, NaN among them."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = local(one).detach(), local(other).detach()
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return torch.equal(*(t.cpu().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))


def digest_bytes(*tensors: Tensor) -> str:
    """SHA-256 of the numbers of tensors as they lie in a file, one after the other, hexadecimal; of one as `TensorInfo.digest`.

    Tensors in shards are gathered one by one: every worker calls it.
    """
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(whole(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def tensor_infos(tensors: Mapping[str, Tensor]) -> tuple[TensorInfo, ...]:
    """What a safetensors file of these tensors would hold, by name."""
    return tuple(
        TensorInfo(
            name, _file_dtype(t.dtype), tuple(t.shape), t.numel() * t.element_size(), bytes.fromhex(digest_bytes(t))
        )
        for name, t in tensors.items()
    )


@functools.cache
def _file_dtype(dtype: torch.dtype) -> str:
    """A type's name in a safetensors file, e.g. "F32"."""
    content = safetensors.torch.save({"one": torch.empty(0, dtype=dtype)})
    return str(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["one"]["dtype"])


def save_bytes(model: nn.Module) -> bytes:
    """The model's parameters and persistent buffers in the safetensors format.

    Raises:
        ModelRefused: its state dict is something else.
    """
    refuse_other_state(model)
    return safetensors.torch.save(
        {name: whole(t).detach().cpu().contiguous().clone() for name, t in saved_tensors(model).items()}
    )


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> str:
    """Write a model's weights to a new safetensors file, whole or not at all; returns their digest.

    Of several workers rank 0 writes; of weights in shards every worker calls it.

    Raises:
        ModelRefused: the state dict is not the model's parameters and buffers.
        OutputError: the file exists, the disk is full, or writing is not allowed.
    """
    content = save_bytes(model)
    if sharded(model):
        Workers.here().share(lambda: write_new(path, content))
    elif processes()[0] == 0:  # of replicas each would write the same
        write_new(path, content)
    return digest_tensors(tensor_infos(saved_tensors(model)))


def dtype_name(dtype: torch.dtype) -> str:
    """E.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")


@weights_tensors.register
def _(weights: nn.Module) -> tuple[TensorInfo, ...]:
    refuse_other_state(weights)
    return tensor_infos(saved_tensors(weights))


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model; raises `ModelRefused` where it cannot be copied."""
    if sharded(model):
        raise ModelRefused(
            "a model in shards (fully_shard) cannot be copied: pass copy=False, which changes it in place"
        )
    try:
        return copy.deepcopy(model)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelRefused(f"the model cannot be copied ({error}); with copy=False it is changed itself") from error
