"""Whom and what a page is about, as far as its certificate does not say it."""

from dataclasses import dataclass
from datetime import date, datetime

from expunge import _validate

__all__ = ["Subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the caller tells of a request; every field may be left empty.

    Args:
        organisation: that answers for the model.
        model: its name and version.
        reference: of the request, e.g. a file number; no name of a person.
        received: the day on which the request came in, as "2026-11-24".

    Raises:
        ValueError, TypeError: a field is no line of text, or `received` no day.
    """

    organisation: str = ""
    model: str = ""
    reference: str = ""
    received: str = ""

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value != ""}
        _validate.text(**given)
        if self.received:
            _day(self.received)

    def waited(self, until: str) -> str:
        """The days from the request until a moment, in words; empty where the request has no day.

        Args:
            until: as ISO 8601.

        Raises:
            ValueError: the request came in after that moment.
        """
        if not self.received:
            return ""
        days = (datetime.fromisoformat(until).date() - _day(self.received)).days
        if days < 0:
            raise ValueError(f"received={self.received!r} lies after {until}, when the certificate was issued")
        return {0: "the same day", 1: "1 day later"}.get(days, f"{days} days later")


def _day(text: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise ValueError(f"received must be a day such as '2026-11-24', not {text!r}")
    return found
