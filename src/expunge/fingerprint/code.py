"""Functions, methods, classes, and what their code names outside of itself."""

import functools
import importlib
import os
import types
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket

from expunge._origins import is_library_class, is_library_function, is_library_module, label
from expunge.fingerprint import volatile
from expunge.fingerprint.names import Named, named
from expunge.fingerprint.walk import PLAIN, Walk

__all__ = [
    "DESCRIPTORS", "NAMED", "WRAPPER", "take_class", "take_code", "take_descriptor", "take_function", "take_method",
    "take_module", "take_name", "take_wrapper",
]  # fmt: skip

DESCRIPTORS = (property, staticmethod, classmethod, functools.cached_property)
NAMED = (
    types.BuiltinMethodType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.ClassMethodDescriptorType, np.ufunc, OpOverload, OpOverloadPacket,
)  # fmt: skip
WRAPPER = type(functools.lru_cache(lambda: None))
_LOOKED_INTO = (
    types.ModuleType, types.FunctionType, types.MethodType, type, functools.partial, WRAPPER, nn.Module, torch.Tensor, np.ndarray,
    torch.dtype, *NAMED,
)  # fmt: skip
# Of a class: what Python writes there, and says nothing of what the class does.
_NOT_CODE = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__conditional_annotations__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__",
    "__firstlineno__", "__module__", "__orig_bases__", "__parameters__", "__qualname__", "__static_attributes__",
    "__type_params__", "__weakref__", "_abc_impl",
})  # fmt: skip
_MODULES_OWN = frozenset({"__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__path__", "__spec__"})
_READS_ENVIRONMENT = (os.getenv, os.getenvb) if hasattr(os, "getenvb") else (os.getenv,)
_MISSING = object()


def take_function(walk: Walk, value: types.FunctionType) -> None:
    """A function: of a library its name and what it wraps, else its code, all that it holds, and all that it names."""
    if value in _READS_ENVIRONMENT:
        walk.say("environment", repr(sorted(os.environ.items())))
    names, held = value.__code__.co_freevars, (_content_of(cell) for cell in value.__closure__ or ())
    cells: dict[str, Any] = dict(zip(names, held, strict=True))
    if is_library_function(value):
        walk.say("library", label(value), value.__code__.co_qualname)
        compiled, single = vars(value).get("_torchdynamo_orig_callable"), vars(value).get("registry")
        if compiled is not None:  # by torch.compile, whose own state says nothing
            return walk.visit(compiled)
        if single is not None and "_clear_cache" in vars(
            value
        ):  # of functools.singledispatch, whose cache says nothing
            return walk.visit(list(single.items()))
        own = {name: held for name, held in vars(value).items() if name != "__dynamo_disable"}  # from its first call on
        return walk.attributes(own | cells)  # a decorator holds the function that it wraps
    take_code(walk, value.__code__)
    walk.inside("its defaults", [value.__defaults__, value.__kwdefaults__])
    walk.attributes(cells)
    walk.attributes(vars(value))
    for use in named(value.__code__):
        _use(walk, use, value.__globals__)
    return None


def take_code(walk: Walk, code: types.CodeType) -> None:
    """Bytecode and constants; neither names of files nor numbers of lines."""
    walk.say("code", code.co_code.hex(), code.co_exceptiontable.hex())
    walk.say(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags)))
    walk.say(repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)))
    for constant in code.co_consts:
        walk.visit(constant)


def _use(walk: Walk, use: Named, space: dict[str, Any]) -> None:
    """A global, a built-in, or an import, and what is taken of it on the spot."""
    walk.path.append(use.name)
    if use.imported:
        found: object = _imported(use, space)
    else:
        found = space[use.name] if use.name in space else _built_in(use.name, space)
    walk.say("name", use.name)
    _follow(walk, found, list(use.attributes), use)
    if found is globals and use.name not in space:
        _everything(walk, space)
    walk.path.pop()


def _follow(walk: Walk, value: object, attributes: list[str], use: Named) -> None:
    """Follow attributes through modules to what they lead to."""
    if not isinstance(value, types.ModuleType):
        why = volatile.reason(value) or (volatile.reason_unseeded(value) if use.called_empty else None)
        return walk.visit(value) if why is None else walk.refuse(value, why)
    library = is_library_module(value)
    walk.say("module", label(value))
    if not attributes:  # handed on as a whole
        return None if library else _everything(walk, vars(value))
    name = attributes[0]
    held: object = vars(value).get(name, _MISSING)
    if held is _MISSING and not library:
        held = getattr(value, name, _MISSING)
    walk.say(name)
    if held is os.environ:
        return walk.say("environment", repr(sorted(os.environ.items())))
    if held is not _MISSING and library and not _counts(held):
        # Of a class of its own, like numpy's dispatched functions: its name, since another may have been put in its place.
        walk.say(label(type(held)), label(held) if callable(held) else "")
    elif held is not _MISSING:
        walk.path.append(name)
        _follow(walk, held, attributes[1:], use)
        walk.path.pop()
    return None


def _everything(walk: Walk, space: dict[str, Any]) -> None:
    """All that a module of the user's holds."""
    if not walk.again(space):
        walk.attributes({name: held for name, held in space.items() if name not in _MODULES_OWN})


def take_module(walk: Walk, value: types.ModuleType) -> None:
    """A module that an object or a closure holds."""
    walk.say("module", label(value))
    if not is_library_module(value):
        _everything(walk, vars(value))


def take_class(walk: Walk, kind: type) -> None:
    """A class and its bases; of a library's the name, and methods that somebody else put there."""
    why = volatile.reason(kind)
    if why is not None:
        return walk.refuse(kind, why)
    for base in kind.__mro__:
        if walk.again(base):
            continue
        library = is_library_class(base)
        walk.say("class", label(base) if library else base.__qualname__)
        held = {name: part for name, part in vars(base).items() if name not in _NOT_CODE}
        if library:
            held = {name: part for name, part in held.items() if _is_users_function(part)}
        walk.path.append(base.__qualname__)
        walk.attributes(held)
        walk.path.pop()
    return take_class(walk, type(kind)) if not is_library_class(type(kind)) else None


def take_method(walk: Walk, value: types.MethodType) -> None:
    """A function and the object that it is bound to."""
    walk.visit(value.__func__)
    walk.inside("__self__", value.__self__)


def take_name(walk: Walk, value: object) -> None:
    """Of something written in C, and the object it is bound to."""
    walk.say(type(value).__name__, label(value), str(value) if isinstance(value, OpOverload | OpOverloadPacket) else "")
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        walk.inside("__self__", owner)


def take_descriptor(walk: Walk, value: object) -> None:
    """A property, a static method or the like: the functions inside."""
    held = {name: getattr(value, name, None) for name in ("__func__", "fget", "fset", "fdel", "func", "attrname")}
    walk.say(type(value).__name__)
    walk.attributes({name: part for name, part in held.items() if part is not None})


def take_wrapper(walk: Walk, value: object) -> None:
    """What `functools.cache` makes: the function inside, not what it remembers."""
    walk.say(type(value).__name__)
    walk.attributes(vars(value))


def _counts(value: object) -> bool:
    """Whether something found in a library's module is looked into: somebody else may have put it, or a part of it, there."""
    return (
        isinstance(value, _LOOKED_INTO)
        or type(value) in PLAIN
        or volatile.reason(value) is not None
        or volatile.reason_unseeded(value) is not None
        or not is_library_class(type(value))
    )


def _is_users_function(value: object) -> bool:
    return isinstance(value, types.FunctionType) and not is_library_function(value)


def _content_of(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet: a function that refers to itself
        return None


def _built_in(name: str, space: dict[str, Any]) -> object:
    held = space.get("__builtins__", {})
    return (vars(held) if isinstance(held, types.ModuleType) else held).get(name)


def _imported(use: Named, space: dict[str, Any]) -> object:
    """The module that a function imports itself; as it would, this loads it."""
    try:
        return importlib.import_module("." * use.level + use.name, space.get("__package__") or None)
    except ImportError:
        return None  # the function will say so itself
