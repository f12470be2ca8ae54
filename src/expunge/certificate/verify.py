"""Prove a certificate again from its fields, or raise with the reason."""

import os
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, cast

from expunge.accounting import Guarantee, Kind, Mechanism, delta_at, guarantee
from expunge.accounting.guarantee import ROUNDING
from expunge.certificate.claim import guarantee_from_dict, number, sentence
from expunge.certificate.format import (
    DOES_NOT_PROVE,
    KEYS,
    KEYS_1,
    NO_RECOVERY,
    PROFILE_AT,
    SCHEMA,
    VERSIONS,
    Certificate,
    digest,
    version_of,
)
from expunge.errors import ClaimRefused, MalformedAudit, MalformedCertificate, RunError, WeightsMismatch
from expunge.record import check_keys, weights_digest

if TYPE_CHECKING:
    from expunge.audit.report import Audit

__all__ = ["verify"]


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
        MalformedCertificate: truncated, altered, or of an unknown schema or mechanism.
        MalformedAudit: the audit is damaged, about another certificate, or its bounds do not follow from its evidence.
        ClaimRefused: the fields do not prove what is claimed, or the audit refutes it.
        WeightsMismatch: the weights are others.
    """
    certificate = certificate if isinstance(certificate, Certificate) else Certificate.load(certificate)
    content = certificate.content
    if version_of(content) is None:
        known = " and ".join(map(repr, VERSIONS))
        raise MalformedCertificate(f"unknown schema {content.get('schema')!r}; this version reads {known}")
    check_keys("certificate", content, KEYS if content["schema"] == SCHEMA else KEYS_1)
    expected = digest({key: value for key, value in content.items() if key != "digest"})
    if content["digest"] != expected:
        raise MalformedCertificate(
            "the content digest does not match: a field was altered after the certificate was issued"
        )
    _verify_run(certificate)
    _verify_claims(certificate)
    _verify_weights(content, weights, certified_weights)
    _verify_words(content)
    if audit is not None:
        _verify_audit(certificate, audit)


def _verify_audit(certificate: Certificate, given: "Audit | str | os.PathLike[str]") -> None:
    from expunge.audit.report import Audit  # late: scipy's distributions

    audit = given if isinstance(given, Audit) else Audit.load(given)
    if audit.certificate != certificate.content["digest"]:
        raise MalformedAudit(f"the audit is about {audit.certificate}, not about this certificate")
    for finding in audit.refuting(certificate.claim):
        raise ClaimRefused(
            f"the audit refutes it: '{finding.attack}' shows epsilon >= {finding.epsilon:.4g}, mu >= {finding.mu or 0:.4g} "
            f"at delta={finding.delta:g} with confidence {finding.confidence:.4g}"
        )


def _verify_words(content: Mapping[str, Any]) -> None:
    """The fields that carry no number: commitments, recovery, date."""
    commitments, unchanged = content["commitments"], content["weights"]["certified"] == content["weights"]["released"]
    if not isinstance(commitments, dict) or not all(
        isinstance(c, str) and c.startswith("hmac-sha256:") for c in cast("dict[str, Any]", commitments).values()
    ):
        raise MalformedCertificate("commitments must hold keyed commitments 'hmac-sha256:...' only")
    for name in ("recovery", "issued", "unchecked"):
        if not isinstance(content.get(name, ""), str):
            raise MalformedCertificate(f"{name} must be a text, not {content[name]!r}")
    if (content["recovery"] == NO_RECOVERY) != unchanged:
        raise ClaimRefused("recovery contradicts the digests: it says 'none' exactly where both weights are the same")


def _verify_run(certificate: Certificate) -> None:
    record = certificate.record
    try:
        record.check()
    except RunError as error:
        raise ClaimRefused(str(error)) from error
    if any(size < 0 for _, size in record.layers):
        raise MalformedCertificate("run.layers holds a negative size")


def _verify_claims(certificate: Certificate) -> None:
    content, mechanism = certificate.content, certificate.mechanism
    claim = _verify_claim("claim", content["claim"], mechanism)
    also = _verify_claim("also_proven", content["also_proven"], mechanism)
    if also.relation is claim.relation:
        raise ClaimRefused("claim and also_proven state the same relation")
    if content["does_not_prove"] != list(DOES_NOT_PROVE):
        raise ClaimRefused("does_not_prove was changed: a certificate must state its limits as issued")
    if not isinstance(content["profile"], list) or len(cast("list[Any]", content["profile"])) != len(PROFILE_AT):
        raise MalformedCertificate(f"profile must be a list of {len(PROFILE_AT)} points")
    for point in cast("list[Any]", content["profile"]):
        check_keys("profile", point, {"epsilon", "delta"})
        epsilon, delta = (number(f"profile.{key}", point[key]) for key in ("epsilon", "delta"))
        if delta < delta_at(mechanism, epsilon, claim.relation) * (1 - ROUNDING / 2):
            raise ClaimRefused(
                f"profile claims delta={delta:g} at epsilon={epsilon:g}, more than '{mechanism.name}' proves"
            )
    asked = content["asked"]
    if asked is not None:
        check_keys("asked", asked, {"epsilon", "delta"})
        if claim.epsilon > number("asked.epsilon", asked["epsilon"]) or claim.delta > number(
            "asked.delta", asked["delta"]
        ):
            raise ClaimRefused(
                f"the claim (epsilon={claim.epsilon:g}, delta={claim.delta:g}) does not meet what was asked"
            )


def _verify_claim(where: str, plain: object, mechanism: Mechanism) -> Guarantee:
    claim = guarantee_from_dict(where, plain)
    exact, nothing = mechanism.kind is Kind.EXACT, mechanism.kind is Kind.NONE
    if claim.kind is not mechanism.kind:
        raise ClaimRefused(f"{where} is of kind '{claim.kind}', but '{mechanism.name}' proves '{mechanism.kind}'")
    if exact and (claim.epsilon, claim.delta) != (0.0, 0.0):
        raise ClaimRefused(f"{where}: an exact guarantee has epsilon = delta = 0")
    if nothing and (claim.epsilon, claim.delta, claim.mu) != (0.0, 1.0, inf):
        raise ClaimRefused(
            f"{where}: of kind 'none' it must state epsilon = 0, delta = 1 and mu = null, which is nothing"
        )
    proven = guarantee(mechanism, delta=0.5 if exact or nothing else claim.delta, relation=claim.relation)
    # The slack lies inside the rounding that `guarantee` adds, so what passes is still an upper bound.
    slack = 1 - ROUNDING / 2
    if claim.epsilon < proven.epsilon * slack:
        raise ClaimRefused(
            f"{where} states epsilon={claim.epsilon:.9g} at delta={claim.delta:g} under relation '{claim.relation}', "
            f"but the fields of '{mechanism.name}' prove only epsilon={proven.epsilon:.9g}"
        )
    if claim.mu < proven.mu * slack:
        raise ClaimRefused(f"{where} states mu={claim.mu:.9g}, but '{mechanism.name}' proves only mu={proven.mu:.9g}")
    if (claim.theorem, claim.assumptions) != (proven.theorem, proven.assumptions):
        raise ClaimRefused(f"{where}: theorem or assumptions are not those of '{mechanism.name}'")
    stated = cast("dict[str, Any]", plain)
    if (stated["certifier"], stated["proves"]) != (mechanism.certifier(claim.relation), sentence(mechanism, claim)):
        raise ClaimRefused(f"{where}: certifier or statement are not those of '{mechanism.name}' and its numbers")
    return claim


def _verify_weights(content: Mapping[str, Any], weights: object, certified_weights: object) -> None:
    check_keys("weights", content["weights"], {"certified", "released"})
    if content["weights"]["certified"] != content["run"]["certified"]:
        raise ClaimRefused("weights.certified is not the digest that the run recorded")
    for name, given in {"released": weights, "certified": certified_weights}.items():
        stated = content["weights"][name]
        if not (isinstance(stated, str) and stated.startswith("sha256:")):
            raise MalformedCertificate(f"weights.{name} must be a digest 'sha256:...', not {stated!r}")
        if given is not None and weights_digest(given) != stated:
            raise WeightsMismatch(
                f"these are not the {name} weights: their digest is {weights_digest(given)}, not {stated}"
            )
