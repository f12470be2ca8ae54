"""JSON as it is meant: keys are unique, numbers are numbers."""

import json
from typing import Any

__all__ = ["strict"]


def strict(text: str) -> object:
    """What a JSON text holds; in time that grows with its length alone.

    Raises:
        ValueError: no whole JSON, a key given twice, or NaN and the like.
        RecursionError: nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"a key is repeated: {twice!r:.80}")
    return held


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
