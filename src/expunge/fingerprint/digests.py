"""The digest of a user's code and of all that it holds, the same in every process.

Functions are followed into bytecode, defaults, closures, attributes and every global that their code names; objects into
attributes, slots and class; containers, arrays, tensors and networks into their content. Libraries are named with their
version. What has a state that no digest sees (open files, generators of coins, iterators) is refused.
"""

import contextlib
import types
import weakref
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expunge.errors import ModelRefused
from expunge.fingerprint import code, content, objects, volatile
from expunge.fingerprint.walk import Walk

__all__ = ["code_digest", "model_digest", "refuse_iterators", "tensors_held"]

# The first that fits. Anything else is an object.
_KINDS: tuple[tuple[Any, Callable[[Walk, Any], None]], ...] = (
    (type, code.take_class),
    (types.CodeType, code.take_code),
    (Enum, objects.take_enum),
    (np.ndarray | np.generic, content.take_array),
    (Tensor, content.take_tensor),
    (nn.Module, content.take_network),
    (types.FunctionType, code.take_function),
    (types.MethodType, code.take_method),
    (code.NAMED, code.take_name),
    (code.DESCRIPTORS, code.take_descriptor),
    (code.WRAPPER, code.take_wrapper),
    (types.ModuleType, code.take_module),
    (volatile.COINS, objects.take_coins),
    ((torch.dtype, torch.device, torch.layout, torch.memory_format), objects.take_constant),
    (weakref.ref, objects.take_reference),
    (types.MappingProxyType, objects.take_view),
    (object, objects.take_object),
)

# Of torch: hooks that run in every module.
_HOOKS_EVERYWHERE = (
    "_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks",
)  # fmt: skip


def code_digest(code: object, *, name: str = "code", strict: bool = True) -> str:
    """The digest of a function, a network or any other object, 64 hexadecimal digits.

    Args:
        code: what is to be known again.
        name: what errors call it.
        strict: refuse what cannot be looked into; otherwise its type alone counts.

    Raises:
        ModelRefused: it holds something with a state that no digest sees; the message says where.
    """
    return _digest(code, name, strict=strict, own=())


def model_digest(model: nn.Module, *, name: str = "model", strict: bool = True) -> str:
    """The digest of a network's code, attributes and hooks; of its own weights and buffers dtype and shape alone.

    Whether its modules are in training mode does not count. Raises as `code_digest`.
    """
    everywhere = [list(getattr(nn.modules.module, hooks).values()) for hooks in _HOOKS_EVERYWHERE]
    own = (*model.modules(), *model.parameters(), *model.buffers())
    return _digest([model, everywhere], name, strict=strict, own=own)


def tensors_held(code: object) -> list[Tensor]:
    """The tensors that can be reached from a function or another object, those of networks among them.

    Arrays of numbers count as the tensors that share their memory, or as copies where they cannot be written to.

    Raises:
        ModelRefused: something is nested too deeply to be looked into.
    """
    found: list[Tensor] = []

    def keep(_walk: Walk, tensor: Tensor) -> None:
        found.append(tensor)

    def keep_array(walk: Walk, array: "np.ndarray[Any, Any]") -> None:
        if array.dtype.hasobject:
            content.take_array(walk, array)
        shared = array.flags.writeable and min(array.strides, default=0) >= 0
        with contextlib.suppress(TypeError, ValueError):  # texts, dates, objects, other orders of bytes
            found.append(torch.from_numpy(array if shared else array.copy()))

    def keep_script(_walk: Walk, module: Any) -> None:
        found.extend((*module.parameters(), *module.buffers()))

    kinds = ((Tensor, keep), (np.ndarray, keep_array), (torch.jit.ScriptModule, keep_script), *_KINDS)
    _walked(Walk(kinds, "code", strict=False, own=()), code)
    return found


def refuse_iterators(code: object, *, name: str) -> None:
    """Raise where an iterator is reached from an object: what it holds cannot be looked into, and may be anything.

    Args:
        code: a function or another object.
        name: what errors call it.

    Raises:
        ModelRefused: there is one, or something is nested too deeply to be looked into.
    """

    def refuse(walk: Walk, value: object) -> None:
        raise ModelRefused(
            f"{' → '.join(walk.path)} ({type(value).__name__}) is somewhere between its start and its end, and what it holds cannot be "
            "looked into: make it inside the function from what it is given"
        )

    kinds = ((Tensor, content.take_tensor), (Iterator, refuse), *_KINDS)
    _walked(Walk(kinds, name, strict=False, own=()), code)


def _digest(value: object, name: str, *, strict: bool, own: tuple[object, ...]) -> str:
    return _walked(Walk(_KINDS, name, strict=strict, own=own), value).hexdigest()


def _walked(walk: Walk, value: object) -> Walk:
    name = walk.path[0]
    try:
        walk.visit(value)
    except RecursionError:
        deep = True
    else:
        deep = False
    if deep:  # outside of the handler, whose context is a thousand frames
        raise ModelRefused(
            f"{name} holds something that is nested too deeply to be looked into: make it inside the function"
        )
    return walk
