"""Tensors that ride along with a model where no state dict shows them.

Whoever holds the module holds them, and no noise reaches them: features of the training set in an attribute, a list or
an object, an optimiser, the closure of a hook. The search looks wherever Python can look; what it cannot look into
(an iterator, a scripted module) it names too. Not followed: the globals of functions, and weak references.
"""

import enum
import functools
import io
import itertools
import logging
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from expunge.training.tensors import named_buffers, named_modules, named_parameters, plain_name

__all__ = ["Known", "attributes", "held_in", "hidden_state"]

# Where torch keeps what it registers, hooks and modes; hooks are looked into apart.
_MACHINERY = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}

_HOOKS = tuple(name for name in sorted(vars(nn.Module())) if name.endswith("_hooks"))
_STORAGES = (torch.UntypedStorage, torch.TypedStorage)
_LEAVES = (
    str, int, float, complex, type(None), np.generic, enum.Enum, type, types.ModuleType, weakref.ref, logging.Logger,
    torch.Generator, torch.dtype, torch.device, torch.layout, torch.memory_format, itertools.count,
)  # fmt: skip
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_SLOT = types.MemberDescriptorType
_FLOATS = 128  # more numbers than these are data, not settings


class Known:
    """The tensors and modules that a model registers: the ones that its attributes may hold too."""

    def __init__(self, model: nn.Module) -> None:
        tensors = (*named_parameters(model), *named_buffers(model))
        held: list[object] = [part for _, part in (*tensors, *named_modules(model))]
        self._held = held  # so that no other object can get one of these ids
        self._ids = {id(item) for item in held}

    def __contains__(self, item: object) -> bool:
        return id(item) in self._ids


def attributes(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes, without torch's machinery."""
    if _compiled(module):
        return {}  # a wrapper of torch's own; what it wraps is a module of its own
    return {key: value for key, value in vars(module).items() if key not in _MACHINERY}


def hidden_state(model: nn.Module, *, numbers: bool = True) -> str | None:
    """Where a model holds data that no state dict shows, and of what kind, e.g. "'encoder.bank' holds a tensor"; or None.

    Args:
        model: the model.
        numbers: whether more than 128 floats in one attribute count as data.
    """
    known = Known(model)
    for prefix, module in named_modules(model):
        if isinstance(module, torch.jit.ScriptModule):
            return f"'{prefix or type(module).__name__}' is a scripted module, whose constants cannot be looked into"
        for key, value in _everything(module):
            found = held_in(value, known, numbers=numbers)
            if found is not None:
                return f"'{plain_name(f'{prefix}.{key}' if prefix else key)}' holds {found}"
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        for key, value in vars(tensor).items():
            found = held_in(value, known, numbers=numbers)
            if found is not None:
                return f"'{plain_name(name)}.{key}' holds {found}"
    return None


def _everything(module: nn.Module) -> Iterator[tuple[str, object]]:
    yield from attributes(module).items()
    if _compiled(module):
        return
    for name in _HOOKS:
        yield name, vars(module).get(name)
    for cls in type(module).__mro__:
        if not cls.__module__.startswith("torch.") and cls is not object:
            for key, value in vars(cls).items():
                if not key.startswith("__") and not callable(value) and not hasattr(type(value), "__get__"):
                    yield key, value


def held_in(value: object, known: Known, *, numbers: bool = True) -> str | None:
    """What an attribute holds, itself or anywhere inside, that the model does not register; None where nothing."""
    seen, stack, floats = set[int](), [value], 0
    kept: list[object] = []  # what was made on the way, so that ids stay theirs
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            floats += 1
        if isinstance(item, _LEAVES) or id(item) in seen or item in known:
            continue
        seen.add(id(item))
        kept.append(item)
        found = _data(item)
        if found is not None:
            return found
        stack.extend(_inside(item))
    return f"{floats:,} numbers" if numbers and floats > _FLOATS else None


def _data(item: object) -> str | None:
    """What an object is, if it is data or may hide some."""
    if isinstance(item, Tensor):
        return None if _empty(item) else "a tensor"
    if isinstance(item, nn.Module):
        return "a module"
    if isinstance(item, _STORAGES):
        return "a tensor's storage"
    if hasattr(type(item), "__array__") or hasattr(type(item), "__dataframe__"):
        return f"an array ({type(item).__name__})"
    if isinstance(item, (io.IOBase, Iterator)):
        return f"a {type(item).__name__}, which cannot be looked into"
    try:
        return "bytes" if memoryview(cast("Any", item)).nbytes else None
    except TypeError:
        return None


def _empty(tensor: Tensor) -> bool:
    return type(tensor) is not nn.UninitializedParameter and tensor.numel() == 0


def _inside(item: object) -> Iterable[object]:
    """What an object holds."""
    if isinstance(item, types.MethodType):
        return (item.__self__, item.__func__)
    if isinstance(item, types.BuiltinFunctionType):
        return (item.__self__,)
    if isinstance(item, functools.partial):
        partial = cast("functools.partial[Any]", item)
        return (partial.func, partial.args, partial.keywords, vars(partial))
    if isinstance(item, types.FunctionType):
        return (*_cells(item), item.__defaults__, item.__kwdefaults__, vars(item))
    found: list[object] = []
    if isinstance(item, dict):
        found += [*cast("dict[Any, object]", item).keys(), *cast("dict[Any, object]", item).values()]
    elif isinstance(item, types.MappingProxyType):
        found.append(dict(cast("Mapping[Any, object]", item)))
    elif isinstance(item, (list, tuple, set, frozenset, deque, *_VIEWS)):
        found += cast("Iterable[object]", item)
    found += getattr(item, "__dict__", {}).values()
    for cls in type(item).__mro__:
        found += (getattr(item, name, None) for name, slot in vars(cls).items() if isinstance(slot, _SLOT))
    return found


def _cells(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _compiled(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch._dynamo")
