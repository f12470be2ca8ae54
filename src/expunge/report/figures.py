"""What a job measured, from its `summary.json`: a claim of whoever ran it, which no certificate proves."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any, cast

from expunge._json import strict
from expunge.errors import OutputError

__all__ = ["Figures"]

_MOST_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of one run; what was not is None.

    Args:
        accuracy: by model ("original", "released") and part ("held_out", "forget"), each in [0, 1].
        seconds: of the unlearning, recovery included.
        started: when it began, ISO 8601.
    """

    accuracy: Mapping[str, Mapping[str, float]]
    seconds: float | None = None
    started: str | None = None

    @property
    def internal(self) -> bool:
        """Whether they tell of the trained model or the forgotten data, of which the release tells little or nothing."""
        return "original" in self.accuracy or any("forget" in parts for parts in self.accuracy.values())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, certificate: str) -> "Figures":
        """Read a `summary.json`; see `of`.

        Raises:
            OutputError: it cannot be read, is none, or tells of another certificate.
        """
        try:
            with Path(path).open("rb") as file:
                read = file.read(_MOST_BYTES + 1)
            content = strict(read.decode()) if len(read) <= _MOST_BYTES else None
        except OSError as error:
            raise OutputError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise OutputError(f"{os.fspath(path)} is not whole JSON (truncated?): {error}") from error
        if not isinstance(content, dict):
            raise OutputError(f"{os.fspath(path)} is not a summary.json, as unlearn makes it")
        return cls.of(cast("dict[str, Any]", content), certificate=certificate, where=os.fspath(path))

    @classmethod
    def of(cls, plain: Mapping[str, Any], *, certificate: str, where: str = "summary") -> "Figures":
        """The figures of a summary, as a job returns it.

        Args:
            plain: its fields; those that say nothing to a reader of the page are passed over.
            certificate: content digest of the one that it must belong to.
            where: it came from, for messages.

        Raises:
            OutputError: it tells of another certificate, or a field is out of range.
        """
        if plain.get("certificate") != certificate:
            raise OutputError(f"{where} tells of {plain.get('certificate')!r:.90}, not of this certificate")
        held: Any = plain.get("accuracy", {})
        if not isinstance(held, Mapping):
            raise OutputError(f"{where}: accuracy must be an object, not {held!r:.80}")
        accuracy = {
            model: {
                part: _number(f"{where}: accuracy.{model}.{part}", parts[part], most=1.0)
                for part in ("held_out", "forget")
                if part in parts
            }
            for model, parts in cast("Mapping[str, Any]", held).items()
            if model in ("original", "released") and isinstance(parts, Mapping)
        }
        seconds, started = plain.get("seconds"), plain.get("started")
        return cls(
            accuracy=accuracy,
            seconds=None if seconds is None else _number(f"{where}: seconds", seconds),
            started=None if started is None else _moment(f"{where}: started", started),
        )


def _number(name: str, value: object, most: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not 0 <= value <= most:
        raise OutputError(f"{name} must be a finite number from 0 to {most:g}, not {value!r:.80}")
    return float(value)


def _moment(name: str, value: object) -> str:
    try:
        return datetime.fromisoformat(cast("str", value)).isoformat(timespec="seconds")
    except (TypeError, ValueError):
        raise OutputError(f"{name} must be a moment such as '2026-11-24T10:33:18+00:00', not {value!r:.80}") from None
