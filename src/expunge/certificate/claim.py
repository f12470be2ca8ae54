"""The claim: its fields."""

from collections.abc import Mapping
from math import inf
from typing import Any, cast

from expunge import _validate
from expunge.accounting import Guarantee, Kind, Mechanism, Relation
from expunge.certificate.words import words_of
from expunge.errors import MalformedCertificate
from expunge.record import check_keys

__all__ = ["claim_to_dict", "guarantee_from_dict"]


def claim_to_dict(mechanism: Mechanism, proven: Guarantee) -> dict[str, Any]:
    """A guarantee as the fields of a claim."""
    words = words_of(mechanism)
    return {
        "kind": str(proven.kind),
        "relation": str(proven.relation),
        "epsilon": proven.epsilon,
        "delta": proven.delta,
        "mu": None if proven.kind is Kind.NONE else proven.mu,
        "theorem": words.theorem,
        "assumptions": list(words.assumptions),
        "certifier": words.certifier[proven.relation],
        "proves": words.sentence(proven),
    }


def guarantee_from_dict(where: str, plain: object) -> Guarantee:
    """The guarantee that the fields of a claim state; raises `MalformedCertificate`."""
    keys = {"kind", "relation", "epsilon", "delta", "mu", "theorem", "assumptions", "certifier", "proves"}
    check_keys(where, cast("Mapping[str, Any]", plain), keys)
    values = cast("dict[str, Any]", plain)
    empty = values["kind"] == Kind.NONE and values["mu"] is None
    numbers = {
        name: _number(f"{where}.{name}", values[name]) for name in ("epsilon", "delta", "mu")[: 2 if empty else 3]
    }
    numbers.setdefault("mu", inf)
    try:
        kind, relation = Kind(values["kind"]), Relation(values["relation"])
        if kind not in (Kind.EXACT, Kind.NONE):
            _validate.open_unit_interval(**{f"{where}.delta": numbers["delta"]})
    except ValueError as error:
        raise MalformedCertificate(f"{where}: {error}") from error
    if not isinstance(values["assumptions"], list):
        raise MalformedCertificate(f"{where}.assumptions must be a list")
    return Guarantee(
        **numbers,
        kind=kind,
        relation=relation,
        theorem=values["theorem"],
        assumptions=tuple(cast("list[str]", values["assumptions"])),
    )


def _number(where: str, value: object) -> float:
    """A finite number, 0 or above; raises `MalformedCertificate`."""
    try:
        _validate.non_negative(**{where: value})
    except (TypeError, ValueError) as error:
        raise MalformedCertificate(str(error)) from error
    return float(cast("float", value))
