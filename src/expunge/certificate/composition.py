"""What several certificates prove together.

Releases that were computed from the same original model about the same data compose (`expunge.accounting.composition`): whoever
holds them all holds more than from any one. Every certificate is verified first, so that what is composed is proven.
"""

import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from expunge.accounting import Bound, Budget, Mechanism, Relation, Remaining
from expunge.accounting import composition as accounting
from expunge.certificate.format import Certificate
from expunge.certificate.verification import verify
from expunge.errors import ClaimRefused

__all__ = ["ASSUMED", "Release", "compose", "remaining", "requests_left"]

Release = Mechanism | Certificate | str | os.PathLike[str]
"""A finished mechanism, a certificate, or the path of one."""

ASSUMED = (
    "All were computed from one and the same original model. A release that was computed from an earlier released one adds "
    "nothing for the data that were forgotten before: leave it out.",
    "The data in question are in the forget set of every request: of rows that a release retained, it proves nothing.",
    "The noise of each release is independent of that of all others.",
    "No other release was computed from that original: with one more, all together prove less.",
)
"""What a composition of certificates rests on, beside what each certificate assumes; no certificate can show it."""


def compose(releases: Iterable[Release], *, delta: float, relation: Relation = Relation.RETRAINED) -> Bound:
    """What several releases about the same data prove together, the later ones chosen freely after the earlier.

    Args:
        releases: one entry for each release, at least one: mechanisms, certificates, or paths of certificates.
        delta: δ of the joint guarantee.
        relation: the reading of all parts.

    Raises:
        CertificateError: a certificate is refused by `verify`, or proves nothing.
        ValueError: no release, a certificate given twice, or a mechanism of a kind that does not compose.
        TypeError: a set or a mapping, in which equal releases count once, or an entry that is no release.

    It rests on `expunge.certificate.composition.ASSUMED`, which nothing in the certificates shows. See
    `expunge.accounting.compose` for the theorems.
    """
    return accounting.compose(_mechanisms(releases), delta=delta, relation=relation)


def remaining(budget: Budget, spent: Iterable[Release], *, relation: Relation = Relation.RETRAINED) -> Remaining:
    """What releases about the same data, made so far, leave of a joint budget.

    Args:
        budget: (ε, δ) for all releases together.
        spent: one entry for each release so far, as for `compose`, whose errors it raises.
        relation: the reading of all parts.
    """
    return accounting.remaining(budget, _mechanisms(spent), relation=relation)


def requests_left(
    budget: Budget,
    mechanism: Mechanism,
    *,
    spent: Iterable[Release] = (),
    relation: Relation = Relation.RETRAINED,
    limit: int = 10_000,
) -> int:
    """How many more releases by `mechanism` a joint budget has room for; 0: retrain instead.

    Args:
        budget: (ε, δ) for all releases together.
        mechanism: of every further release.
        spent: one entry for each release so far, as for `compose`, whose errors it raises.
        relation: the reading of all parts.
        limit: the answer is at most this.
    """
    return accounting.requests_left(budget, mechanism, spent=_mechanisms(spent), relation=relation, limit=limit)


def _mechanisms(releases: Iterable[Release]) -> list[Mechanism]:
    if isinstance(releases, Mapping | Set | str | os.PathLike):
        raise TypeError(f"releases must be a list with one entry for each release, not a {type(releases).__name__}")
    found: list[Mechanism] = []
    places: dict[str, str] = {}  # by digest
    for release in releases:
        if isinstance(release, Certificate | str | os.PathLike):
            found.append(_proven(release, places))
        else:
            found.append(release)
    return found


def _proven(release: "Certificate | str | os.PathLike[str]", places: dict[str, str]) -> Mechanism:
    """The mechanism of a certificate that verifies, proves something and was not seen before."""
    where = "a certificate" if isinstance(release, Certificate) else str(Path(release))
    certificate = release if isinstance(release, Certificate) else Certificate.load(release)
    if not isinstance(certificate.claim, Bound):
        raise ClaimRefused(f"{where} proves nothing about laws, and so do releases of which it is one")
    verify(certificate)
    digest: str = certificate.content["digest"]
    if digest in places:
        raise ValueError(f"releases name one certificate twice: {places[digest]} and {where} have the digest {digest}")
    places[digest] = where
    return certificate.mechanism
