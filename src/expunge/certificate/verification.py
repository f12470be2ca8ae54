"""Prove a certificate again from its fields, or raise with the reason.

Every check, in this order, is specified in docs/certificate.md for whoever writes a verifier of their own.
"""

import logging
import os
from collections.abc import Mapping
from math import inf, log
from typing import TYPE_CHECKING, Any

from expunge.accounting import (
    WITHDRAWN,
    BehaviouralClaim,
    Bound,
    Budget,
    Claim,
    EpsilonDeltaClaim,
    ExactClaim,
    Mechanism,
    delta_at,
    guarantee,
)
from expunge.accounting.bounds import ROUNDING
from expunge.accounting.mechanisms.assumptions import GROUP
from expunge.accounting.protocol import Behavioural
from expunge.certificate.claim import claim_from_dict
from expunge.certificate.digests import arrays_of, is_digest
from expunge.certificate.document import DOCUMENTS, PROFILE_AT
from expunge.certificate.format import SCHEMA, VERSIONS, Certificate, digest, version_of
from expunge.certificate.record import ANY_GROUP, UNCHECKED
from expunge.certificate.released import verify_weights
from expunge.certificate.words import does_not_prove, no_recovery, words_of
from expunge.errors import ClaimRefused, MalformedCertificate, RunError

if TYPE_CHECKING:
    from expunge.audit.report import Audit

__all__ = ["verify"]

# The slack lies inside the rounding that `guarantee` adds, so what passes is still an upper bound.
_SLACK = 1 - ROUNDING / 2
_SAME = 1 + 1e-6  # between numbers of one certificate that rounding may part
_NEGLIGIBLE = 1e-20  # a δ below it is all rounding in a composed profile

_log = logging.getLogger("expunge")


def verify(
    certificate: "Certificate | str | os.PathLike[str]",
    *,
    weights: object = None,
    certified_weights: object = None,
    audit: "Audit | str | os.PathLike[str] | None" = None,
) -> None:
    """Prove the certificate again from its fields; return nothing, or raise.

    Args:
        certificate: a `Certificate` or the path of one.
        weights: the released weights at hand (safetensors path, module or digest); omitted, only the claim is checked.
        certified_weights: the weights before recovery, if they were handed over too.
        audit: an audit of this certificate's run; its bounds are computed again from what was seen.

    Raises:
        MalformedCertificate: truncated, altered, a field that holds what it cannot, an unknown schema or mechanism.
        MalformedAudit: the audit is damaged, about another certificate, relation or larger forget sets, or its bounds do not
            follow from its evidence.
        NothingTested: all is well but the audit, in which no finding could have refuted the claim: that is no pass.
        ClaimRefused: the fields do not prove what is claimed or contradict one another, or the audit refutes the claim.
        WeightsMismatch: the weights are others, or not made of what the run covered.

    A claim of kind `behavioural` is about the released weights, and proven from their file: without it, it is refused.
    """
    certificate = certificate if isinstance(certificate, Certificate) else Certificate.load(certificate)
    content = certificate.content
    if version_of(content) is None:
        known = " and ".join(map(repr, VERSIONS))
        raise MalformedCertificate(f"unknown schema {content.get('schema')!r}; this version reads {known}")
    if content.get("digest") != digest({key: value for key, value in content.items() if key != "digest"}):
        raise MalformedCertificate(
            "the content digest does not match: a field was altered after the certificate was issued"
        )
    DOCUMENTS[content["schema"]].check("", content)
    try:
        certificate.record.check()
    except RunError as error:
        raise ClaimRefused(str(error)) from error
    _tell_of_withdrawal(certificate)
    if content["schema"] == SCHEMA:
        _verify_request(certificate)
    else:
        _tell_of_unknown_coverage(certificate)
    _tell_of_weak_noise(certificate)
    _verify_claims(certificate)
    _verify_words(content)
    verify_weights(certificate, weights, certified_weights)
    if isinstance(certificate.mechanism, Behavioural):
        _verify_behaviour(certificate.mechanism, weights, certificate.content["weights"]["released"])
    if audit is not None:
        _verify_audit(certificate, audit)


def _verify_behaviour(mechanism: Behavioural, weights: object, digest_: str) -> None:
    if not isinstance(weights, str | os.PathLike) or is_digest(weights):
        raise ClaimRefused(
            "the claim is about the released weights themselves: give their safetensors file (weights=, --weights), from which it is "
            "proven again"
        )
    try:
        mechanism.check(arrays_of(weights, digest_))
    except (ValueError, TypeError) as error:
        raise ClaimRefused(f"the released weights do not prove what is claimed: {error}") from error


def _tell_of_withdrawal(certificate: Certificate) -> None:
    name = certificate.mechanism.name
    if name in WITHDRAWN:
        _log.warning("the mechanism '%s' was withdrawn after this certificate was issued: %s", name, WITHDRAWN[name])


def _verify_request(certificate: Certificate) -> None:
    """What schema 1 did not say: which buffers hold statistics, and whether the retained data were held against forgotten ones."""
    record = certificate.record
    if (record.buffers == "reset") != bool(record.estimated):
        raise ClaimRefused("run.estimated must name buffers exactly where run.buffers is 'reset'")
    coverage, group = record.coverage, certificate.mechanism.covers == GROUP
    if (coverage == ANY_GROUP) != group:
        raise ClaimRefused(f"run.coverage is {coverage!r}, which contradicts '{certificate.mechanism.name}'")
    if (coverage == UNCHECKED) != (certificate.content["unchecked"] != ""):
        raise ClaimRefused("unchecked must say why nobody checked, exactly where run.coverage is 'unchecked'")


def _tell_of_unknown_coverage(certificate: Certificate) -> None:
    if certificate.mechanism.covers != GROUP:  # which involves no retained data
        _log.warning(
            "a certificate of schema 1 does not say whether the retained data held forgotten rows, and its date proves "
            "nothing: ask its issuer, or have it run and issued again"
        )


def _tell_of_weak_noise(certificate: Certificate) -> None:
    noise = certificate.record.noise
    if noise.count and noise.stream == "torch-mersenne":
        _log.warning(
            "the noise of this run came from torch's Mersenne twister, which is linear: %s. Run it again, and issue anew",
            "whoever knows some of the weights before the noise can compute the rest"
            if noise.count == 1
            else "its numbers can be computed from enough of them, and nothing here rules out that a reader has enough",
        )


def _verify_claims(certificate: Certificate) -> None:
    content = certificate.content
    claim = _verify_claim("claim", certificate)
    also = _verify_claim("also_proven", certificate)
    if also.relation is claim.relation:
        raise ClaimRefused("claim and also_proven state the same relation")
    _verify_profile(content["profile"], claim, certificate.mechanism)
    asked = content["asked"]
    if asked is not None and not claim.meets(Budget(**asked)):
        stated = content["claim"]
        raise ClaimRefused(
            f"the claim (epsilon={stated['epsilon']:g}, delta={stated['delta']:g}) does not meet what was asked"
        )


def _verify_claim(where: str, certificate: Certificate) -> Claim:
    stated, mechanism = certificate.content[where], certificate.mechanism
    if stated["kind"] != mechanism.kind:
        raise ClaimRefused(f"{where} is of kind '{stated['kind']}', but '{mechanism.name}' proves '{mechanism.kind}'")
    claim = claim_from_dict(where, stated)
    if isinstance(claim, EpsilonDeltaClaim):
        _verify_numbers(where, claim, mechanism)
    words = words_of(mechanism, version=version_of(certificate.content) or 2)
    if (claim.theorem, claim.assumptions) != (words.theorem, words.assumptions):
        raise ClaimRefused(f"{where}: theorem or assumptions are not those of '{mechanism.name}'")
    if isinstance(claim, BehaviouralClaim) and (claim.predicate, claim.region) != (
        getattr(mechanism, "predicate", None), getattr(mechanism, "region", None),
    ):  # fmt: skip
        raise ClaimRefused(f"{where}: predicate or region are not those of '{mechanism.name}' and its numbers")
    if (stated["certifier"], stated["proves"]) != (words.certifier[claim.relation], words.sentence(claim)):
        raise ClaimRefused(f"{where}: certifier or statement are not those of '{mechanism.name}' and its numbers")
    return claim


def _verify_numbers(where: str, claim: EpsilonDeltaClaim, mechanism: Mechanism) -> None:
    # Where the claim's own ε proves its δ, nothing need be searched.
    enough = mechanism.log_delta(claim.epsilon / ((1 + ROUNDING) * _SLACK), claim.relation) <= log(claim.delta)
    proven = None if enough else guarantee(mechanism, delta=claim.delta, relation=claim.relation)
    least = proven.epsilon if isinstance(proven, Bound) else inf
    if not enough and not claim.epsilon >= least * _SLACK:
        raise ClaimRefused(
            f"{where} states epsilon={claim.epsilon:.9g} at delta={claim.delta:g} under relation '{claim.relation}', "
            f"but the fields of '{mechanism.name}' prove only epsilon={least:.9g}"
        )
    mu = max(mechanism.mu(claim.relation) * (1 + ROUNDING), 1e-290)
    if not claim.mu >= mu * _SLACK:
        raise ClaimRefused(f"{where} states mu={claim.mu:.9g}, but '{mechanism.name}' proves only mu={mu:.9g}")


def _verify_profile(profile: list[dict[str, float]], claim: Claim, mechanism: Mechanism) -> None:
    before = 1.0
    for at, point in zip(PROFILE_AT, profile, strict=True):
        epsilon, delta = point["epsilon"], point["delta"]
        if epsilon != at:
            raise ClaimRefused(f"profile must state epsilon={at:g} here, not {epsilon:g}")
        if not delta >= delta_at(mechanism, epsilon, claim.relation) * (_SLACK if isinstance(claim, Bound) else 1):
            raise ClaimRefused(
                f"profile claims delta={delta:g} at epsilon={epsilon:g}, more than '{mechanism.name}' proves"
            )
        # What the claim says already, and what no profile can do.
        most = min(before, claim.delta if isinstance(claim, Bound) and epsilon >= claim.epsilon else 1.0)
        if delta > max(most * _SAME, 0.0 if isinstance(claim, ExactClaim) else _NEGLIGIBLE):
            raise ClaimRefused(f"profile states delta={delta:g} at epsilon={epsilon:g}, where {most:g} is known")
        before = delta


def _verify_words(content: Mapping[str, Any]) -> None:
    """The fields that carry no number."""
    version = version_of(content) or 2
    if content["does_not_prove"] != does_not_prove(version):
        raise ClaimRefused("does_not_prove was changed: a certificate must state its limits as issued")
    unchanged = content["weights"]["certified"] == content["weights"]["released"]
    if (content["recovery"] == no_recovery(version)) != unchanged:
        raise ClaimRefused("recovery contradicts the digests: it says 'none' exactly where both weights are the same")


def _verify_audit(certificate: Certificate, given: "Audit | str | os.PathLike[str]") -> None:
    from expunge.audit.report import Audit  # late: scipy's distributions

    audit = given if isinstance(given, Audit) else Audit.load(given)
    mechanism = certificate.mechanism
    largest = float(getattr(mechanism, "group_size", inf))  # the one bound on a forget set that a mechanism can have
    audit.check(certificate.claim, certificate=certificate.content["digest"], largest=largest)
