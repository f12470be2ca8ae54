"""The words of a certificate, letter by letter: theorem, assumptions, certifier, and the sentence made of them.

`verify` compares them, so a certificate keeps the words of its schema: those of schema 1 are frozen in `words_1.json`,
whatever the mechanisms say today.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, cast

from expunge.accounting import MECHANISMS, WITHDRAWN, Claim, Kind, Mechanism, Relation, numbers_of

__all__ = [
    "DECLARED_RECOVERY",
    "DOES_NOT_PROVE",
    "NO_RECOVERY",
    "PROVES",
    "Words",
    "does_not_prove",
    "no_recovery",
    "words_of",
]

DOES_NOT_PROVE = (
    "That the run happened as recorded: this rests on the issuer, until a run is attested or repeated.",
    "That the released weights came from the certified ones by retained data, public data and fresh coins only: declared.",
    "That the network cannot state facts that the retained data also contain.",
    "That copies of the data, or models trained on them elsewhere, are gone.",
    "That unlearning was cheaper or more accurate than retraining.",
)
NO_RECOVERY = "none: the released weights are the certified weights"
DECLARED_RECOVERY = "declared by the issuer: training on the retained data with a fresh optimiser and fresh coins"

_HEAD = (
    "Under the assumptions, for every training set and {covers}, the certified weights, and anything computed from them "
    "without the forgotten data, have "
)
PROVES: Mapping[Kind, str] = {
    Kind.EXACT: _HEAD + "exactly the law that they would have under {certifier}.",
    Kind.EPSILON_DELTA: _HEAD
    + "a law that is (epsilon={epsilon}, delta={delta})-indistinguishable, in both directions, "
    "from the one that they would have under {certifier}.",
    Kind.NONE: "Nothing is proven: an assumption of the theorem was not declared. See the assumptions.",
}


@dataclass(frozen=True)
class Words:
    """What a mechanism says of itself in the certificates of one schema; `proves` is a template."""

    theorem: str
    assumptions: tuple[str, ...]
    covers: str
    certifier: Mapping[Relation, str]
    proves: str

    def sentence(self, claim: Claim) -> str:
        """What the claim says; numbers in six significant digits."""
        numbers = {name: "" if number is None else f"{number:.6g}" for name, number in numbers_of(claim).items()}
        return self.proves.format(covers=self.covers, certifier=self.certifier[claim.relation], **numbers)


def words_of(mechanism: Mechanism, *, version: int = 2) -> Words:
    """The words of a mechanism in certificates of schema `version`, the numbers that they name filled in."""
    numbers = {entry.name: getattr(mechanism, entry.name) for entry in fields(cast("Any", mechanism))}
    if version > 1:
        return Words(
            theorem=mechanism.theorem,
            assumptions=mechanism.assumptions,
            covers=mechanism.covers.format(**numbers),
            certifier={relation: mechanism.certifier(relation) for relation in Relation},
            proves=own.format(**numbers) if (own := getattr(mechanism, "proves", None)) else PROVES[mechanism.kind],
        )
    own = _frozen()["mechanisms"][mechanism.name]
    return Words(
        theorem=own["theorem"],
        assumptions=tuple(_frozen()["sentences"][name] for name in own["assumptions"]),
        covers=own["covers"].format(**numbers),
        certifier={relation: own["certifier"][relation] for relation in Relation},
        proves=_frozen()["proves"][mechanism.kind],
    )


def does_not_prove(version: int) -> list[str]:
    """The limits that every certificate of the schema states."""
    return list(DOES_NOT_PROVE) if version > 1 else _frozen()["does_not_prove"]


def no_recovery(version: int) -> str:
    """How a certificate of the schema says that the released weights are the certified ones."""
    return NO_RECOVERY if version > 1 else _frozen()["no_recovery"]


def mechanisms_of(version: int) -> tuple[str, ...]:
    """Names of the mechanisms that certificates of the schema may hold."""
    return tuple(m for m in MECHANISMS if m not in WITHDRAWN) if version > 1 else tuple(_frozen()["mechanisms"])


@cache
def _frozen() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("words_1.json").read_text(encoding="utf-8"))
