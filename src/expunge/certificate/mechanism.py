"""A mechanism of the closed table as fields, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, cast

from expunge.accounting import MECHANISMS, Mechanism
from expunge.certificate.fields import check_keys, check_type
from expunge.errors import MalformedCertificate, RunError

__all__ = ["mechanism_from_dict", "mechanism_to_dict"]


def mechanism_to_dict(mechanism: Mechanism) -> dict[str, Any]:
    """Name and fields of a mechanism of the closed table."""
    if MECHANISMS.get(mechanism.name) is not type(mechanism):
        raise RunError(f"{type(mechanism).__name__} is not in the table of mechanisms: {', '.join(MECHANISMS)}")
    return {"name": mechanism.name} | asdict(cast("Any", mechanism))


def mechanism_from_dict(plain: Mapping[str, Any]) -> Mechanism:
    """The mechanism of `mechanism_to_dict`.

    Raises:
        MalformedCertificate: an unknown mechanism, or fields that are not its own or not valid.
    """
    check_type("mechanism", plain, dict)
    values = dict(plain)
    name = values.pop("name", None)
    if not isinstance(name, str) or name not in MECHANISMS:
        raise MalformedCertificate(f"unknown mechanism {name!r}; known: {', '.join(MECHANISMS)}")
    mechanism = MECHANISMS[name]
    check_keys(f"mechanism '{name}'", values, {f.name for f in fields(cast("Any", mechanism))})
    try:
        return mechanism(**values)
    except (TypeError, ValueError) as error:
        raise MalformedCertificate(f"mechanism '{name}': {error}") from error
