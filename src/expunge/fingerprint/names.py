"""What a function's bytecode names outside of itself: globals, what it takes of them, and imports."""

import dis
import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Named", "named"]

_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_BETWEEN = ("CACHE", "PRECALL", "PUSH_NULL", "NOP", "COPY_FREE_VARS", "RESUME", "EXTENDED_ARG")


@dataclass(frozen=True, order=True)
class Named:
    """One use of a name.

    Args:
        name: a global or built-in; of an import the module, dots and all.
        attributes: what is taken of it on the spot, one after another, e.g. ("nn", "functional") of `torch`.
        called_empty: whether the outcome is called without an argument.
        imported: whether the function imports it itself.
        level: of a relative import.
    """

    name: str
    attributes: tuple[str, ...] = ()
    called_empty: bool = False
    imported: bool = False
    level: int = 0


@functools.lru_cache(maxsize=4096)
def named(code: types.CodeType) -> tuple[Named, ...]:
    """All uses in a function and those inside it, sorted, each once."""
    return tuple(sorted(set(_uses(code))))


def _uses(code: types.CodeType) -> Iterator[Named]:
    steps = [step for step in dis.get_instructions(code) if step.opname not in _BETWEEN]
    for place, step in enumerate(steps):
        if "GLOBAL" in step.opname or step.opname == "LOAD_NAME":
            taken, end = _chain(steps, place + 1)
            empty = end < len(steps) and steps[end].opname == "CALL" and steps[end].arg == 0
            yield Named(str(step.argval), taken, called_empty=empty)
        elif step.opname == "IMPORT_NAME":
            # Before it: the level and the names after `import`, both constants.
            level, wanted = steps[place - 2].argval, steps[place - 1].argval
            for one in wanted or ("",):
                yield Named(str(step.argval), (one,) if one else (), imported=True, level=int(level))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _uses(constant)


def _chain(steps: list[dis.Instruction], place: int) -> tuple[tuple[str, ...], int]:
    """The attributes that are loaded one after another from `place` on, and where they end."""
    found: list[str] = []
    while place < len(steps) and steps[place].opname in _ATTRIBUTES:
        found.append(str(steps[place].argval))
        place += 1
    return tuple(found), place
