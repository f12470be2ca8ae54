"""What a record states of a recovery: its public settings, as JSON."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any, cast

from torch import nn

from expunge import _validate
from expunge.certificate.digests import weights_digest
from expunge.data import Examples
from expunge.recovery.fine_tuning import FineTuning
from expunge.recovery.protocol import Recovery
from expunge.recovery.training import Recipe

__all__ = ["settings_of", "stated"]


def stated(recovery: Recovery) -> dict[str, Any]:
    """The settings of a recovery for `RunRecord.procedure["recovery"]`.

    Fine-tuning is stated as `{"epochs", "rescale", "recipe"}`; any other class, and any that derives from it, as `{"name",
    "settings"}`. Settings inside of settings have names such as "recipe.momentum" and "layers.0"; a network, which is public
    as all settings are, is stated by the digest of its weights; `Examples` by their number, as "stream.rows": a digest of
    rows would let anybody who knows all but one of them try candidates for the last.

    Raises:
        TypeError: it is no recovery, no frozen dataclass, or a setting is no number, text, bool, None, network or `Examples`.
        ValueError: it has the name of fine-tuning, or a number is not finite.
    """
    if (
        type(recovery) is FineTuning
        and type(recovery.recipe) is Recipe
        and vars(recovery).keys() == _held(recovery).keys()
    ):
        return {"epochs": recovery.epochs, "rescale": recovery.rescale, "recipe": recovery.recipe.to_dict()}
    if not isinstance(recovery, Recovery) or isinstance(recovery, type):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"a recovery has name, reads, batch_size, total and steps, see expunge.recovery.Recovery; {recovery!r:.100} lacks some"
        )
    if not (is_dataclass(recovery) and cast("Any", recovery).__dataclass_params__.frozen):
        raise TypeError(
            f"recovery '{recovery.name}' must be a frozen dataclass: its fields are the settings that the record states"
        )
    _validate.text(**{"the name of a recovery": recovery.name})
    if recovery.name == FineTuning.name:
        raise ValueError(
            f"a recovery needs a name of its own, not {recovery.name!r}: the record would say what was not run"
        )
    return {"name": recovery.name, "settings": settings_of(recovery, f"recovery '{recovery.name}'")}


def settings_of(thing: Any, what: str) -> dict[str, Any]:
    """The fields of a dataclass by name, as JSON; those inside of others as `stated` says.

    Args:
        thing: the dataclass.
        what: it is, for messages.

    Raises:
        TypeError, ValueError: as `stated`.
    """
    settings: dict[str, Any] = {}
    _flatten("", _held(thing), settings, what)
    return settings


def _held(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _flatten(name: str, value: Any, into: dict[str, Any], what: str) -> None:
    if name in into:
        raise ValueError(f"{what}: two settings would be stated as {name}: give one of them another name")
    if is_dataclass(value) and not isinstance(value, type):
        value = _held(value)
    if isinstance(value, tuple | list):
        value = {str(k): part for k, part in enumerate(cast("list[Any]", value))}
    if isinstance(value, Examples):
        value = {"rows": len(value)}
    if isinstance(value, Mapping):
        for key, part in cast("Mapping[Any, Any]", value).items():
            _flatten(f"{name}.{key}" if name else str(key), part, into, what)
    elif isinstance(value, nn.Module):
        into[name] = weights_digest(value)
    elif value is None or isinstance(value, str | bool | int | float):
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{what}: the setting {name}={value} is not finite")
        if type(value) not in (str, bool, int, float, type(None)):
            raise TypeError(f"{what}: the setting {name} is a {type(value).__name__}, no plain number or text")
        into[name] = value
    else:
        raise TypeError(
            f"{what}: the setting {name} is a {type(value).__name__}, and the record states numbers, texts, "
            "bools, None, tuples of them, public networks and Examples"
        )
