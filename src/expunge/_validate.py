"""One wording for all errors about numbers: `positive(noise_std=0.0)` raises `ValueError: noise_std must be ...`."""

import math
from numbers import Integral, Real

__all__ = ["at_most_one", "non_negative", "open_unit_interval", "positive", "whole"]


def _finite(name: str, value: object, must: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {must}, not {value!r} of type {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be {must}, not {number}")
    return number


def positive(**fields: object) -> None:
    """Raise unless every field is a finite number above 0."""
    for name, value in fields.items():
        if _finite(name, value, "a finite number above 0") <= 0:
            raise ValueError(f"{name} must be a finite number above 0, not {value!r}")


def non_negative(**fields: object) -> None:
    """Raise unless every field is a finite number, 0 or above."""
    for name, value in fields.items():
        if _finite(name, value, "a finite number, 0 or above") < 0:
            raise ValueError(f"{name} must be a finite number, 0 or above, not {value!r}")


def open_unit_interval(**fields: object) -> None:
    """Raise unless every field lies strictly between 0 and 1."""
    for name, value in fields.items():
        if not 0 < _finite(name, value, "a number strictly between 0 and 1") < 1:
            raise ValueError(f"{name} must be a number strictly between 0 and 1, not {value!r}")


def whole(least: int = 1, **fields: object) -> None:
    """Raise unless every field is a whole number of at least `least`."""
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, not {value!r} of type {type(value).__name__}")
        if int(value) < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def at_most_one(**products: float) -> None:
    """Raise unless every product is at most 1, e.g. `at_most_one(**{"learning_rate * weight_decay": eta * lam})`."""
    for name, value in products.items():
        if value > 1:
            raise ValueError(f"{name} must be at most 1 (the step would overshoot the centre), not {value!r}")
