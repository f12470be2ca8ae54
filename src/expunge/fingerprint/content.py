"""Tensors, arrays and networks, by what they hold."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expunge._origins import label
from expunge.fingerprint.code import take_class
from expunge.fingerprint.walk import Walk

__all__ = ["take_array", "take_network", "take_tensor"]


def take_tensor(walk: Walk, value: Tensor) -> None:
    """Type, place, hooks and every number; of a network's own tensors not the numbers."""
    walk.say(label(type(value)), str(value.dtype), str(tuple(value.shape)), value.device.type)
    walk.say(str(value.layout), str(value.requires_grad))
    if id(value) not in walk.own:
        _numbers(walk, value.detach())
    hooks: dict[str, Any] = {
        name: getattr(value, name, None) or {} for name in ("_backward_hooks", "_post_accumulate_grad_hooks")
    }
    own = {name: held for name, held in vars(value).items() if name != "grad_sample"}  # of Opacus, between steps
    walk.attributes(own | {name: list(held.values()) for name, held in hooks.items() if held})


def _numbers(walk: Walk, value: Tensor) -> None:
    if value.layout == torch.sparse_coo:
        whole = value.coalesce()
        _numbers(walk, whole.indices())
        _numbers(walk, whole.values())
    elif value.layout != torch.strided:
        _numbers(walk, value.to_dense())
    elif value.is_quantized or value.is_meta:
        walk.refuse(value, "a tensor without plain numbers")
    else:
        walk.say(str(value.stride()))  # the order in memory decides the last bits of a product
        flat = value.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        walk.hash(flat.view(torch.uint8).numpy().data if flat.numel() else b"")


def take_array(walk: Walk, value: "np.ndarray[Any, Any] | np.generic") -> None:
    """Type, shape and every number of an array or of a number of numpy."""
    walk.say(label(type(value)), str(value.dtype.descr if value.dtype.fields else value.dtype.str), str(value.shape))
    if value.dtype.hasobject:
        walk.content(np.asarray(value).reshape(-1).tolist())
    else:
        walk.say(str(value.strides))
        walk.hash(np.ascontiguousarray(value).tobytes())
    walk.attributes(getattr(value, "__dict__", {}))


def take_network(walk: Walk, value: nn.Module) -> None:
    """A module: its class, attributes, hooks, and the modules in it."""
    if isinstance(value, torch.jit.ScriptModule):
        return walk.refuse(value, "compiled, and shows none of its code")
    take_class(walk, type(value))
    if type(value).__module__ == "torch._dynamo.eval_frame":  # by torch.compile, whose own state says nothing
        return walk.inside("_orig_mod", vars(value)["_modules"]["_orig_mod"])
    held = {name: part for name, part in vars(value).items() if name != "training" or id(value) not in walk.own}
    return walk.attributes(_with_plain_hooks(held))


def _with_plain_hooks(held: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a module; hooks are numbered by their order, not by a count over the whole process."""
    hooks = {
        name: part
        for name, part in held.items()
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
    }
    numbers = {key: place for place, key in enumerate(sorted({key for part in hooks.values() for key in part}))}
    return held | {name: [(numbers[key], hook) for key, hook in part.items()] for name, part in hooks.items()}
