"""Comparison files of earlier versions, read as those of this one.

Their rows were called lanes. Nothing in them said which one is a retraining, and before `null_of` nothing said of which one
a null start is the control: their names did, which were always these.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["as_now"]

_RETRAINING = "retrain"
_CONTROLLED = {"null_start": "gradient_clipping"}


def as_now(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a comparison file under their present names."""
    if "lanes" not in plain:
        return dict(plain)
    rows = [
        {"fresh": row["name"] == _RETRAINING, "null_of": _CONTROLLED.get(row["name"])} | row for row in plain["lanes"]
    ]
    return {name: value for name, value in plain.items() if name != "lanes"} | {"curves": rows}
