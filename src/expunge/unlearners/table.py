"""The closed table of ways to unlearn: plan, run, audit, compare and the command line are made from it."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, get_type_hints

from expunge.accounting import Mechanism
from expunge.unlearners.blockwise_gradient_clipping import BlockwiseGradientClipping
from expunge.unlearners.dp_training import PrivateTraining
from expunge.unlearners.gradient_clipping import GradientClipping
from expunge.unlearners.grid_ridge import ExactHead
from expunge.unlearners.heuristics import BEHAVIOURAL, HEURISTICS, Heuristic
from expunge.unlearners.measured_residual import NoisyHead
from expunge.unlearners.model_clipping import ModelClipping
from expunge.unlearners.options import options_of
from expunge.unlearners.output_perturbation import OutputPerturbation
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.recalled import Procedure, Recalled
from expunge.unlearners.replay import Replaying
from expunge.unlearners.retrain import Retraining
from expunge.unlearners.scheduled_gradient_clipping import ScheduledGradientClipping

__all__ = ["RENAMED", "UNLEARNERS", "heuristic", "made", "options", "recalled", "repeated"]

_log = logging.getLogger("expunge")

UNLEARNERS: MappingProxyType[str, Any] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            GradientClipping,
            ScheduledGradientClipping,
            BlockwiseGradientClipping,
            ModelClipping,
            OutputPerturbation,
            Retraining,
            ExactHead,
            NoisyHead,
            Replaying,
            PrivateTraining,
        )
    }
)

_HEURISTICS: dict[str, type[Heuristic]] = {kind.name: kind for kind in (*HEURISTICS, *BEHAVIOURAL)}

RENAMED: MappingProxyType[str, str] = MappingProxyType({"exact_ridge": ExactHead.name})
"""Names of earlier versions, by which `made` still finds an unlearner."""


def made(name: str, given: dict[str, Any]) -> Unlearner:
    """The unlearner of a name, with options.

    Args:
        name: of the table; one of an earlier version is taken with a warning.
        given: options by name; those that it does not take are refused.

    Raises:
        ValueError: an unknown name, or an option that it takes none of or whose value is out of range.
    """
    if name in RENAMED:
        _log.warning("the unlearner %r of earlier versions is now called %r, and was taken", name, RENAMED[name])
        name = RENAMED[name]
    if name in _HEURISTICS:
        if given:
            raise ValueError(
                f"unlearner {name!r} takes no {_typed(next(iter(given)))}, which was given and would do nothing; its own options are "
                f"{', '.join(_kinds(_HEURISTICS[name]))}: --set NAME=VALUE"
            )
        return heuristic(name)
    if name not in UNLEARNERS:
        raise ValueError(f"unlearner must be one of {', '.join((*UNLEARNERS, *_HEURISTICS))}, not {name!r}")
    kind = UNLEARNERS[name]
    foreign = [one for one in given if one not in options_of(kind)]
    if foreign:
        takers = [other for other, one in UNLEARNERS.items() if foreign[0] in options_of(one)]
        raise ValueError(
            f"unlearner {name!r} takes no {_typed(foreign[0])}, which was given and would do nothing; "
            f"{', '.join(takers)} {'takes' if len(takers) == 1 else 'take'} it"
            + "".join(f"; nor {_typed(other)}" for other in foreign[1:])
        )
    return kind(**given)


def heuristic(name: str, settings: Iterable[str] = ()) -> Heuristic:
    """The heuristic of a name.

    Args:
        name: of `expunge.unlearners.heuristics`.
        settings: its options as they are typed, e.g. "epochs=2".

    Raises:
        ValueError: an unknown name, or an option that it has none of, or whose value is no such number or out of range.
    """
    if name not in _HEURISTICS:
        raise ValueError(f"{name!r} is no heuristic: {', '.join(_HEURISTICS)}")
    kinds, given = _kinds(_HEURISTICS[name]), dict[str, Any]()
    for setting in settings:
        one, equals, value = setting.partition("=")
        if not equals or one not in kinds:
            raise ValueError(f"{name!r} takes no {setting!r}: give NAME=VALUE, NAME one of {', '.join(kinds)}")
        if one in given:
            raise ValueError(f"{one} of {name!r} is given twice")
        given[one] = _read(name, one, kinds[one], value)
    return _HEURISTICS[name](**given)


def repeated(stated: Mapping[str, Any]) -> Heuristic:
    """The heuristic of `Heuristic.stated`.

    Raises:
        ValueError: there is none of that name, or its settings are others in this version.
    """
    name = stated["name"]
    if name not in _HEURISTICS:
        raise ValueError(f"the record names {name!r}, which is no heuristic of this version: {', '.join(_HEURISTICS)}")
    try:
        return _HEURISTICS[name](**stated["settings"])
    except TypeError as error:
        raise ValueError(f"the settings of {name!r} in the record are not those of this version: {error}") from error


def _kinds(kind: type[Heuristic]) -> dict[str, Any]:
    """The types of a heuristic's options, by name."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _read(heuristic: str, name: str, kind: type[Any], value: str) -> Any:
    if kind is bool and value in ("true", "false"):
        return value == "true"
    try:
        return kind({}[value] if kind is bool else value)
    except (KeyError, ValueError) as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{name} of {heuristic!r} must be {wanted}, not {value!r}") from error


def options(name: str) -> dict[str, Any]:
    """The options of an unlearner of the table, with their defaults."""
    return options_of(UNLEARNERS[name])


def recalled(mechanism: Mechanism, procedure: Procedure) -> Recalled:
    """The unlearner that runs a certificate's mechanism.

    Args:
        mechanism: of the closed table.
        procedure: what is known of the run beside it.

    Raises:
        TypeError: no unlearner of the table runs it.
    """
    for kind in (*UNLEARNERS.values(), *_HEURISTICS.values()):
        found: Recalled | None = kind.recalled(mechanism, procedure)
        if found is not None:
            return found
    raise TypeError(f"no unlearner runs {mechanism!r}; known: {', '.join(UNLEARNERS)}")


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
