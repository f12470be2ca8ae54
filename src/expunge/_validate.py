"""One wording for all errors about numbers: `positive(noise_std=0.0)` raises `ValueError: noise_std must be ...`."""

import math
import reprlib
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The least float above 0: the least value of a schedule that must be positive.
LEAST = math.ulp(0.0)

__all__ = [
    "LEAST",
    "at_most_one",
    "non_negative",
    "open_unit_interval",
    "positive",
    "schedules",
    "shown",
    "text",
    "whole",
]

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
_MOST = 120  # characters


def shown(value: object) -> str:
    """A value as messages show it, in one short line: of an array or a module what it is, and not what it holds."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    line = " ".join(_SHOWN.repr(value).split())
    return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."


def _finite(name: str, value: object, must: str) -> float:
    # A plain float first: to ask an abstract class takes longer than all else, and schedules have hundreds of thousands.
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name} must be {must}, not {shown(value)} of type {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be {must}, not {number}")
    return number


def positive(**fields: object) -> None:
    """Raise unless every field is a finite number above 0."""
    for name, value in fields.items():
        if _finite(name, value, "a finite number above 0") <= 0:
            raise ValueError(f"{name} must be a finite number above 0, not {shown(value)}")


def non_negative(**fields: object) -> None:
    """Raise unless every field is a finite number, 0 or above."""
    for name, value in fields.items():
        if _finite(name, value, "a finite number, 0 or above") < 0:
            raise ValueError(f"{name} must be a finite number, 0 or above, not {shown(value)}")


def open_unit_interval(**fields: object) -> None:
    """Raise unless every field lies strictly between 0 and 1."""
    for name, value in fields.items():
        if not 0 < _finite(name, value, "a number strictly between 0 and 1") < 1:
            raise ValueError(f"{name} must be a number strictly between 0 and 1, not {shown(value)}")


def whole(least: int = 1, **fields: object) -> None:
    """Raise unless every field is a whole number of at least `least`."""
    for name, value in fields.items():
        if type(value) is not int and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise TypeError(f"{name} must be a whole number, not {shown(value)} of type {type(value).__name__}")
        if int(value) < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {shown(value)}")


def plain_numbers(settings: object) -> None:
    """Turn numpy's numbers in the fields of a frozen dataclass into Python's, which JSON can hold and nothing rounds again."""
    for name, value in vars(settings).items():
        if hasattr(value, "item") and type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            object.__setattr__(settings, name, value.item())


def text(**fields: object) -> None:
    """Raise unless every field is a line of text that says something."""
    for name, value in fields.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a line of text, not {shown(value)} of type {type(value).__name__}")
        if not value or value != value.strip() or not value.isprintable():
            raise ValueError(f"{name} must be one line of text, without spaces around it, not {shown(value)}")


def at_most_one(**products: float) -> None:
    """Raise unless every product is at most 1, e.g. `at_most_one(**{"learning_rate * weight_decay": eta * lam})`."""
    for name, value in products.items():
        if value > 1:
            raise ValueError(f"{name} must be at most 1 (the step would overshoot the centre), not {shown(value)}")


def schedules(**fields: tuple[object, float, float | None]) -> "dict[str, NDArray[np.float64]]":
    """The schedules as arrays of shape (T,), T ≥ 1, all of one length.

    Args:
        fields: name=(values, least, most); most=None allows infinity.

    Raises:
        TypeError: not a sequence of numbers.
        ValueError: empty, of unequal lengths, NaN, or out of range; the message names schedule, step and value.
    """
    import numpy as np  # late: whoever verifies a certificate without schedules need not wait for it

    arrays: dict[str, NDArray[np.float64]] = {}
    for name, (values, least, most) in fields.items():
        raw = np.asarray(values)
        if raw.dtype.kind not in "iuf":
            raise TypeError(f"{name} must be a sequence of numbers, one a step, not {shown(values)}")
        if raw.ndim != 1 or raw.size == 0:
            raise ValueError(f"{name} must hold one number for each step, at least one, not shape {raw.shape}")
        array = np.asarray(raw, dtype=np.float64)
        top = math.inf if most is None else min(most, float(np.finfo(float).max))
        if not (array.min() >= least and array.max() <= top):  # NaN fails both
            wrong = int(np.flatnonzero(~((array >= least) & (array <= top)))[0])
            floor = "above 0" if 0 < least < 1e-300 else f"at least {least:g}"
            ceiling = "" if most is None else " and finite" if most == math.inf else f" and at most {most:g}"
            raise ValueError(f"{name}[{wrong}] must be {floor}{ceiling}, not {array[wrong]}")
        arrays[name] = array
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"schedules must have the same length, one number a step, not {lengths}")
    return arrays
