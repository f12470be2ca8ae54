"""Tensors that ride along with a model where no state dict shows them.

Whoever holds the module holds them, and no noise reaches them: features of the training set in an attribute, a list or
an object, an optimiser, a cache, the closure of a hook. The search follows whatever Python's own collector of garbage
follows; what it cannot look into (an iterator, a scripted module) it names too. Not followed: the globals of functions, and
weak references.
"""

import enum
import gc
import io
import itertools
import logging
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Number
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from expunge._origins import is_library_class, is_library_function
from expunge.parallel.sharding import is_sharded
from expunge.training.tensors import named_buffers, named_modules, named_parameters, plain_name

__all__ = ["Known", "attributes", "held_in", "hidden_state"]

# Where torch keeps what it registers, hooks and modes; hooks are looked into apart.
_MACHINERY = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}

_HOOKS = tuple(name for name in sorted(vars(nn.Module())) if name.endswith("_hooks"))
_OF_SHARDS = ("_local_tensor", "_spec")  # where a DTensor keeps its shard
_STORAGES = (torch.UntypedStorage, torch.TypedStorage)
_LEAVES = (
    str, Number, type(None), np.number, np.bool_, enum.Enum, type, types.ModuleType, weakref.ref, logging.Logger,
    torch.Generator, torch.dtype, torch.device, torch.layout, torch.memory_format, itertools.count,
)  # fmt: skip
# More than these are data and not settings. Large networks hold some thousand whole numbers: shapes, graphs, tables of sizes.
_NUMBERS, _WORDS, _CHARACTERS = 128, 4096, 2**22


@dataclass(slots=True)
class _Amount:
    """What was seen that is no object: real numbers, whole ones in words of 64 bits, characters of texts."""

    numbers: int = 0
    words: int = 0
    characters: int = 0

    def add(self, item: object) -> None:
        if isinstance(item, str):
            self.characters += len(item)
        elif isinstance(item, Integral):
            self.words += 1 + int(item).bit_length() // 64
        elif isinstance(item, Number):
            self.numbers += 1

    def too_much(self) -> str | None:
        if self.numbers > _NUMBERS:
            return f"{self.numbers:,} numbers"
        if self.words > _WORDS:
            return f"whole numbers of {8 * self.words:,} bytes"
        return f"texts of {self.characters:,} characters" if self.characters > _CHARACTERS else None


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
        numbers: whether more than 128 real numbers in one attribute count as data, or 32 kB of whole ones that no text stands
            for, or 4 million characters.
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
            if is_sharded(tensor) and key in _OF_SHARDS:
                continue
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
            library = is_library_class(cls)
            for key, value in vars(cls).items():
                if key == "__doc__" or (
                    library and isinstance(value, types.FunctionType) and is_library_function(value)
                ):
                    continue  # of a library's class only what somebody else hung there, and what is no function
                yield key, value


def held_in(value: object, known: Known, *, numbers: bool = True) -> str | None:
    """What an attribute holds, itself or anywhere inside, that the model does not register; None where nothing."""
    seen, stack, amount = set[int](), [value], _Amount()
    kept: list[object] = []  # what was made on the way, so that ids stay theirs
    while stack:
        item = stack.pop()
        amount.add(item)
        if isinstance(item, _LEAVES) or id(item) in seen or item in known or _shards(item):
            continue
        seen.add(id(item))
        kept.append(item)
        found = _data(item)
        if found is not None:
            return found
        stack.extend(_inside(item))
    return amount.too_much() if numbers else None


def _shards(item: object) -> bool:
    """Whether it is `fully_shard`'s own, which holds the parameters, and what it gathered of them; no file has it."""
    return type(item).__module__.startswith("torch.distributed.fsdp._fully_shard.")


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


def _inside(item: object) -> list[object]:
    """What an object holds: whatever the collector of garbage would visit, but for a function's surroundings."""
    if type(item) is dict:
        return [held for pair in cast("dict[object, object]", item).items() for held in _of_pair(*pair)]
    held = gc.get_referents(item)
    if isinstance(item, types.FunctionType):
        around = (id(item.__globals__), id(item.__builtins__))
        return [part for part in held if id(part) not in around]
    return held


def _of_pair(key: object, value: object) -> tuple[object, ...]:
    """Both, but for a number that a text stands for: a vocabulary has as many as it has words."""
    if isinstance(key, str) and isinstance(value, int) and value.bit_length() <= 64:
        return (key,)
    if isinstance(value, str) and isinstance(key, int) and key.bit_length() <= 64:
        return (value,)
    return key, value


def _compiled(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch._dynamo")
