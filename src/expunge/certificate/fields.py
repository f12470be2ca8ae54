"""What a field of a certificate may hold: small checks that compose, each of which is also a JSON Schema.

One table (`document`) is built of them; `verify` walks it, and the published schema is written from it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

from expunge.errors import MalformedCertificate

__all__ = [
    "COMMITMENT",
    "DATE",
    "DIGEST",
    "Either",
    "Field",
    "Flag",
    "ListOf",
    "MappingOf",
    "Matching",
    "Number",
    "Object",
    "OneOf",
    "Pair",
    "Text",
    "Whole",
    "check_keys",
    "check_type",
]

MOST_WHOLE = 2**53 - 1  # beyond it JSON numbers are no longer exact
# Control characters, and those that hide or reorder what is read.
_FORBIDDEN = "\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb"


class Field(Protocol):
    """A check of one value."""

    def check(self, where: str, value: object) -> None:
        """Raise `MalformedCertificate`, naming the field, unless the value is one that it may hold."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema (draft 2020-12), as far as that can say it."""
        ...


def _refuse(where: str, must: str, value: object) -> None:
    shown = repr(value)
    raise MalformedCertificate(f"{where} must be {must}, not {shown if len(shown) <= 80 else shown[:77] + '...'}")


@dataclass(frozen=True)
class Number:
    """A finite number within [least, most]; with `strict` neither end."""

    least: float = 0.0
    most: float = math.inf
    strict: bool = False

    def check(self, where: str, value: object) -> None:
        """Neither true nor false nor NaN is a number."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            inside = self.least < number < self.most if self.strict else self.least <= number <= self.most
            if inside and math.isfinite(number):
                return
        ends = f"{'above' if self.strict else 'at least'} {self.least:g}"
        if self.most < math.inf:
            ends += f" and {'below' if self.strict else 'at most'} {self.most:g}"
        _refuse(where, f"a finite number {ends}", value)

    def schema(self) -> dict[str, Any]:
        """A range."""
        low, high = ("exclusiveMinimum", "exclusiveMaximum") if self.strict else ("minimum", "maximum")
        ends = {low: self.least, high: self.most}
        return {"type": "number"} | {end: value for end, value in ends.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to 2^53 - 1."""

    least: int = 0

    def check(self, where: str, value: object) -> None:
        """A number with a point is not whole, true and false are no numbers."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= MOST_WHOLE:
            _refuse(where, f"a whole number of at least {self.least} and at most 2^53 - 1", value)

    def schema(self) -> dict[str, Any]:
        """A range."""
        return {"type": "integer", "minimum": self.least, "maximum": MOST_WHOLE}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, where: str, value: object) -> None:
        """0 and 1 are neither."""
        if not isinstance(value, bool):
            _refuse(where, "true or false", value)

    def schema(self) -> dict[str, Any]:
        """A boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Matching:
    """A text of one form."""

    pattern: str
    form: str

    def check(self, where: str, value: object) -> None:
        """The whole text matches."""
        if not isinstance(value, str) or re.fullmatch(self.pattern, value) is None:
            _refuse(where, self.form, value)

    def schema(self) -> dict[str, Any]:
        """A pattern."""
        return {"type": "string", "pattern": f"^{self.pattern}$"}


def Text(least: int = 1, most: int = 1000, *, lines: bool = False) -> Matching:  # noqa: N802  a field, as the others
    """A text of bounded length without characters that hide or reorder what is read; `lines`: it may have several."""
    allowed = f"[^{_FORBIDDEN}]" if not lines else "[^\\ud800-\\udfff]"
    form = f"a text of {least} to {most} characters" + ("" if lines else ", none of them a control character")
    return Matching(f"{allowed}{{{least},{most}}}", form)


@dataclass(frozen=True)
class Date:
    """A moment as `issue` writes it: 2026-11-24T10:33:18+00:00."""

    def check(self, where: str, value: object) -> None:
        """The form, and a day and time that exist."""
        form = "a date in UTC such as 2026-11-24T10:33:18+00:00"
        if not isinstance(value, str) or re.fullmatch(_DATE, value) is None:
            _refuse(where, form, value)
        try:
            datetime.fromisoformat(cast("str", value))
        except ValueError:
            _refuse(where, form, value)

    def schema(self) -> dict[str, Any]:
        """A pattern, and the format for readers that know it."""
        return {"type": "string", "pattern": f"^{_DATE}$", "format": "date-time"}


@dataclass(frozen=True)
class OneOf:
    """One word of a closed vocabulary, null among them where it is listed."""

    words: tuple[str | None, ...]

    def check(self, where: str, value: object) -> None:
        """Letter by letter."""
        if not (value is None or isinstance(value, str)) or value not in self.words:
            _refuse(where, "one of " + ", ".join(repr(word) for word in self.words), value)

    def schema(self) -> dict[str, Any]:
        """An enumeration."""
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class ListOf:
    """A list whose every entry is one field; `unique`: no entry twice."""

    item: Field
    least: int = 0
    most: int | None = None
    unique: bool = False

    def check(self, where: str, value: object) -> None:
        """Length, entries, repetition."""
        if not isinstance(value, list):
            _refuse(where, "a list", value)
        entries = cast("list[object]", value)
        if len(entries) < self.least or (self.most is not None and len(entries) > self.most):
            most = "" if self.most is None else f" and at most {self.most}"
            raise MalformedCertificate(f"{where} must hold at least {self.least}{most} entries, not {len(entries)}")
        for index, entry in enumerate(entries):
            self.item.check(f"{where}[{index}]", entry)
        if self.unique and len(set(cast("list[str]", entries))) < len(entries):
            raise MalformedCertificate(f"{where} names something twice")

    def schema(self) -> dict[str, Any]:
        """An array."""
        most = {} if self.most is None else {"maxItems": self.most}
        unique = {"uniqueItems": True} if self.unique else {}
        return {"type": "array", "items": self.item.schema(), "minItems": self.least} | most | unique


@dataclass(frozen=True)
class Pair:
    """A list of exactly two entries, each a field of its own."""

    first: Field
    second: Field

    def check(self, where: str, value: object) -> None:
        """Both entries."""
        entries = cast("list[object]", value)
        if not isinstance(value, list) or len(entries) != 2:
            _refuse(where, "a pair [name, size]", value)
        self.first.check(f"{where}[0]", entries[0])
        self.second.check(f"{where}[1]", entries[1])

    def schema(self) -> dict[str, Any]:
        """An array of two."""
        return {
            "type": "array",
            "prefixItems": [self.first.schema(), self.second.schema()],
            "minItems": 2,
            "maxItems": 2,
        }


@dataclass(frozen=True)
class MappingOf:
    """An object with keys of the issuer's choice."""

    key: Matching
    value: Field
    most: int = 100

    def check(self, where: str, value: object) -> None:
        """Every key and value."""
        if not isinstance(value, dict):
            _refuse(where, "an object", value)
        entries = cast("dict[str, object]", value)
        if len(entries) > self.most:
            raise MalformedCertificate(f"{where} must hold at most {self.most} entries, not {len(entries)}")
        for name, entry in entries.items():
            self.key.check(f"a key of {where}", name)
            self.value.check(f"{where}.{name}", entry)

    def schema(self) -> dict[str, Any]:
        """An object."""
        return {
            "type": "object",
            "propertyNames": self.key.schema(),
            "additionalProperties": self.value.schema(),
            "maxProperties": self.most,
        }


@dataclass(frozen=True)
class Object:
    """An object with exactly these keys, some of which may be missing."""

    fields: Mapping[str, Field]
    optional: Mapping[str, Field] | None = None
    nullable: bool = False

    def check(self, where: str, value: object) -> None:
        """Keys, then every field; the document itself goes by no name."""
        if value is None and self.nullable:
            return
        if not isinstance(value, dict):
            _refuse(where, "an object", value)
        plain, optional = cast("dict[str, object]", value), self.optional or {}
        check_keys(where or "certificate", plain, {*self.fields, *(name for name in optional if name in plain)})
        inside = f"{where}." if where else ""
        for name, field in {**self.fields, **optional}.items():
            if name in plain:
                field.check(inside + name, plain[name])

    def schema(self) -> dict[str, Any]:
        """An object closed to other keys."""
        every = {**self.fields, **(self.optional or {})}
        return {
            "type": ["object", "null"] if self.nullable else "object",
            "properties": {name: field.schema() for name, field in every.items()},
            "required": list(self.fields),
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Either:
    """A value that one of several fields takes."""

    options: tuple[Field, ...]
    form: str

    def check(self, where: str, value: object) -> None:
        """The first that takes it."""
        for option in self.options:
            try:
                option.check(where, value)
            except MalformedCertificate:
                continue
            return
        _refuse(where, self.form, value)

    def schema(self) -> dict[str, Any]:
        """Any of them."""
        return {"anyOf": [option.schema() for option in self.options]}


_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00"
DATE = Date()
DIGEST = Matching("sha256:[0-9a-f]{64}", "a digest 'sha256:' and 64 hexadecimal digits in lower case")
COMMITMENT = Matching(
    "hmac-sha256:[0-9a-f]{64}", "a keyed commitment 'hmac-sha256:' and 64 hexadecimal digits in lower case"
)


def check_keys(where: str, plain: Mapping[str, Any], expected: set[str]) -> None:
    """Raise `MalformedCertificate` unless `plain` is a mapping with exactly the expected keys."""
    check_type(where, plain, dict)
    missing, unknown = expected - set(plain), set(plain) - expected
    if missing or unknown:
        parts = [f"lacks {sorted(missing)}"] * bool(missing) + [f"has unknown {sorted(unknown)}"] * bool(unknown)
        raise MalformedCertificate(f"{where} {' and '.join(parts)}")


def check_type(where: str, value: object, kind: type | tuple[type, ...]) -> None:
    """Raise `MalformedCertificate` unless a value is of this type; a truth value is no number."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedCertificate(f"{where} has the wrong type: {value!r}")
