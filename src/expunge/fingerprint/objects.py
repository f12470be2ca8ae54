"""Objects of all other kinds: by attributes, or by what pickle would keep of them."""

import copyreg
import enum
import functools
import pickle
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, cast

from expunge._origins import is_library_class, label
from expunge.fingerprint import volatile
from expunge.fingerprint.code import take_class
from expunge.fingerprint.walk import Walk

__all__ = ["take_coins", "take_constant", "take_enum", "take_object", "take_reference", "take_view"]


def take_enum(walk: Walk, value: enum.Enum) -> None:
    """A member of an enumeration, and its class."""
    take_class(walk, type(value))
    walk.say(str(value.name))
    walk.inside("value", value.value)


def take_coins(walk: Walk, value: object) -> None:
    """A generator: refused, unless it is one of those that are seeded before every step."""
    if any(value is known for known in volatile.SEEDED):
        return walk.say("a global generator")
    return walk.refuse(
        value, "a generator of coins with a state of its own; draw from torch's, numpy's or random's functions"
    )


def take_reference(walk: Walk, value: "weakref.ref[Any]") -> None:
    """A weak reference: what it refers to."""
    walk.visit(value())


def take_constant(walk: Walk, value: object) -> None:
    """A dtype, a device or the like, which is its name."""
    walk.say(type(value).__name__, str(value))


def take_view(walk: Walk, value: "types.MappingProxyType[Any, Any]") -> None:
    """A read-only dictionary."""
    walk.content(dict(value))


def take_object(walk: Walk, value: object) -> None:
    """By attributes and slots where the class is the user's; a library's object by what pickle would keep of it."""
    kind = type(value)
    if kind in (dict, list, set):
        return walk.content(value)
    take_class(walk, kind)
    if is_library_class(kind):
        return _take_reduced(walk, value)
    base = next((base for base in (dict, list, tuple, set, frozenset) if isinstance(value, base)), None)
    if base is not None:
        walk.content(value)
    plain = next((base for base in (int, float, complex, str, bytes) if isinstance(value, base)), None)
    if plain is not None:
        walk.say(repr(plain(cast("Any", value))))
    slots = {name: getattr(value, name) for name in _slots(kind) if hasattr(value, name)}
    return walk.attributes(slots | getattr(value, "__dict__", {}))


def _take_reduced(walk: Walk, value: object) -> None:
    if isinstance(value, Iterator):
        return walk.refuse(value, "somewhere between its start and its end")
    try:
        known = cast("dict[type, Any]", copyreg.dispatch_table).get(type(value))
        reduced: Any = value.__reduce_ex__(4) if known is None else known(value)
    except (TypeError, AttributeError, ValueError, RuntimeError, OSError, pickle.PicklingError):
        _look_at_hung(walk, value)
        return walk.refuse(value, "something that cannot be looked into")
    if isinstance(reduced, str):
        return walk.say("name", label(value), reduced)
    function, arguments, *rest = reduced
    walk.visit(function)
    walk.visit(tuple(arguments))
    for part in rest[:1]:
        walk.visit(part)
    for part in rest[1:3]:  # items of lists and dictionaries come as iterators
        walk.visit(None if part is None else list(part))
    return _look_at_hung(walk, value)


def _look_at_hung(walk: Walk, value: object) -> None:
    """Whatever somebody hung on a library's object, where pickle may leave it out."""
    if not isinstance(
        value, functools.partial
    ):  # tells of it itself; asking would give it an empty one, and another digest
        walk.aside(getattr(value, "__dict__", None))


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__:
        own: object = vars(base).get("__slots__", ())
        names = [own] if isinstance(own, str) else list(cast("Iterable[str]", own))
        found += [
            f"_{base.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n for n in names
        ]
    return [name for name in found if name not in ("__dict__", "__weakref__")]
