"""The claim: its fields."""

from collections.abc import Mapping
from typing import Any, cast

from expunge import _validate
from expunge.accounting import (
    BehaviouralClaim,
    Bound,
    Claim,
    EpsilonDeltaClaim,
    ExactClaim,
    Kind,
    Mechanism,
    NoClaim,
    Relation,
    numbers_of,
)
from expunge.certificate.fields import check_keys
from expunge.certificate.words import words_of
from expunge.errors import ClaimRefused, MalformedCertificate

__all__ = ["claim_from_dict", "claim_to_dict"]

_KEYS = {"kind", "relation", "epsilon", "delta", "mu", "theorem", "assumptions", "certifier", "proves"}
_OF_BEHAVIOUR = {"predicate", "region"}
_NOTHING = {"epsilon": 0.0, "delta": 1.0, "mu": None}  # how a certificate writes that nothing is proven


def claim_to_dict(mechanism: Mechanism, claim: Claim) -> dict[str, Any]:
    """A claim as the fields of a certificate."""
    words = words_of(mechanism)
    return {
        "kind": str(claim.kind),
        "relation": str(claim.relation),
        **(numbers_of(claim) if isinstance(claim, Bound) else _NOTHING),
        "theorem": words.theorem,
        "assumptions": list(words.assumptions),
        "certifier": words.certifier[claim.relation],
        "proves": words.sentence(claim),
        **({"predicate": claim.predicate, "region": claim.region} if isinstance(claim, BehaviouralClaim) else {}),
    }


def claim_from_dict(where: str, plain: object) -> Claim:
    """The claim that fields of a certificate state.

    Raises:
        MalformedCertificate: a field is missing, unknown or of the wrong type, or the kind is one that no certificate states.
        ClaimRefused: the numbers contradict the kind.
    """
    values = cast("dict[str, Any]", plain)
    behaves = isinstance(plain, dict) and values.get("kind") == Kind.BEHAVIOURAL
    check_keys(where, cast("Mapping[str, Any]", plain), _KEYS | _OF_BEHAVIOUR if behaves else _KEYS)
    stated = {name: values[name] for name in _NOTHING}
    try:
        kind, relation = Kind(values["kind"]), Relation(values["relation"])
    except ValueError as error:
        raise MalformedCertificate(f"{where}: {error}") from error
    bounds = kind in (Kind.EXACT, Kind.EPSILON_DELTA)
    if bounds or values["mu"] is not None:
        _refuse_no_numbers(where, stated)
    if not isinstance(values["assumptions"], list):
        raise MalformedCertificate(f"{where}.assumptions must be a list")
    told: dict[str, Any] = {
        "relation": relation, "theorem": values["theorem"], "assumptions": tuple(cast("list[str]", values["assumptions"])),
    }  # fmt: skip
    match kind:
        case Kind.EXACT:
            if any(stated.values()):
                raise ClaimRefused(f"{where}: an exact guarantee has epsilon = delta = mu = 0")
            return ExactClaim(**told)
        case Kind.EPSILON_DELTA:
            try:
                return EpsilonDeltaClaim(**{name: float(number) for name, number in stated.items()}, **told)
            except ValueError as error:
                raise MalformedCertificate(f"{where}.{error}") from error
        case Kind.NONE | Kind.BEHAVIOURAL:
            if stated != _NOTHING:
                raise ClaimRefused(
                    f"{where}: of kind '{kind}' it must state epsilon = 0, delta = 1 and mu = null, which is nothing"
                )
            if kind is Kind.NONE:
                return NoClaim(**told)
            try:
                return BehaviouralClaim(predicate=values["predicate"], region=values["region"], **told)
            except (TypeError, ValueError) as error:
                raise MalformedCertificate(f"{where}.{error}") from error


def _refuse_no_numbers(where: str, stated: Mapping[str, object]) -> None:
    try:
        _validate.non_negative(**{f"{where}.{name}": value for name, value in stated.items()})
    except (TypeError, ValueError) as error:
        raise MalformedCertificate(str(error)) from error
