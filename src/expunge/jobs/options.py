"""What `calibrate` needs of a noisy mechanism, without torch: its options, and the least noise that meets a budget."""

from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from typing import Any

from expunge.accounting import MECHANISMS, Budget, Kind, Mechanism, Relation, calibrate
from expunge.unlearners.options import OPTIONS, option

__all__ = ["FAMILIES", "Noisy", "calibrated", "refuse_extreme"]

_NOISE = "noise_std"  # what is calibrated


def _is_family(mechanism: Any) -> bool:
    """Whether all fields but the noise are options, which fit on a command line; the others are for the library."""
    kinds = {f.name: f.type for f in fields(mechanism)}
    has_noise = mechanism.kind is Kind.EPSILON_DELTA and kinds.pop(_NOISE, None) is float
    return has_noise and all(name in OPTIONS and kind is OPTIONS[name].kind for name, kind in kinds.items())


FAMILIES: Mapping[str, Any] = {name: m for name, m in MECHANISMS.items() if _is_family(m)}
_SMALLEST, _LARGEST = 1e-100, 1e100
_OWN = tuple(name for name in OPTIONS if any(name in {f.name for f in fields(m)} for m in FAMILIES.values()))

Noisy: Any = make_dataclass(
    "Noisy", [(name, OPTIONS[name].kind, option(name)) for name in _OWN], frozen=True, kw_only=True
)
"""Options of the noisy mechanisms; each takes those that are its fields."""


def refuse_extreme(**given: object) -> None:
    """Raise `ValueError` where a number is none, or so large or small that sums and squares of it leave floating point."""
    for name, value in given.items():
        if isinstance(value, float) and not (value == 0.0 or _SMALLEST <= abs(value) <= _LARGEST):
            raise ValueError(
                f"{name} must lie between {_SMALLEST:g} and {_LARGEST:g}, where floating point can be relied on, not {value!r}"
            )


def calibrated(name: str, given: Mapping[str, Any], budget: Budget, relation: Relation) -> Mechanism:
    """The mechanism of this name with the least noise that meets a budget.

    Args:
        name: one of `FAMILIES`.
        given: options that were given; the others have their defaults.
        budget: to be met.
        relation: the reading under which it must hold.

    Raises:
        ValueError: another name, an option that it takes none of, or one that is out of its range.
        BudgetUnreachable: no noise meets the budget.
    """
    if name in MECHANISMS and MECHANISMS[name].kind is Kind.EXACT:
        raise ValueError(f"{name} is exact: it meets every budget and has nothing to calibrate")
    if name not in FAMILIES:
        library = " (from Python: expunge.calibrate)" if name in MECHANISMS else ""
        raise ValueError(f"mechanism must be one of {', '.join(FAMILIES)}, not {name!r}{library}")
    family = FAMILIES[name]
    known = {f.name for f in fields(family)}
    foreign = [f"--{one.replace('_', '-')}" for one in given if one not in known]
    if foreign:
        raise ValueError(f"mechanism {name!r} takes no {', no '.join(foreign)}, which was given and would do nothing")
    refuse_extreme(**given)
    used = {one: OPTIONS[one].default for one in _OWN if one in known} | dict(given)
    return calibrate(lambda s: family(**used, **{_NOISE: s}), budget, relation=relation)
