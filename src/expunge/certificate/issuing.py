"""Write down what a run proves."""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from expunge import _validate
from expunge._workers import in_shards, processes, refuse_without_group, refuse_workers, stated_workers
from expunge.accounting import (
    WITHDRAWN,
    BehaviouralClaim,
    Bound,
    Budget,
    Claim,
    Mechanism,
    Relation,
    delta_at,
    guarantee,
)
from expunge.accounting.bounds import reading_of
from expunge.accounting.protocol import Behavioural
from expunge.certificate.claim import claim_to_dict
from expunge.certificate.commitments import is_commitment
from expunge.certificate.document import PROFILE_AT
from expunge.certificate.format import SCHEMA, Certificate, digest
from expunge.certificate.record import UNCHECKED, RunRecord
from expunge.certificate.released import digest_to_release
from expunge.certificate.verification import verify
from expunge.certificate.words import DECLARED_RECOVERY, DOES_NOT_PROVE, NO_RECOVERY
from expunge.errors import CertificateError, RunError

__all__ = ["asked_of", "issue"]


def issue(
    record: RunRecord,
    *,
    released: object,
    delta: float = 1e-5,
    relation: Relation = Relation.RETRAINED,
    asked: Budget | None = None,
    commitments: Mapping[str, str] | None = None,
    recovery: str | None = None,
    unchecked: str = "",
) -> Certificate:
    """The certificate of a run.

    Args:
        record: from `unlearn` or `retrain`.
        released: the weights that are handed out, after any recovery: a module, a safetensors path, or a digest.
        delta: δ of the claim; ignored where the guarantee is exact.
        relation: the reading to certify; the other one is stated beside it.
        asked: a budget that the claim must meet; its δ takes the place of `delta`.
        commitments: keyed commitments, e.g. to the forget set (`commit`); never ids or counts in clear.
        recovery: what was done between certified and released weights, in a sentence.
        unchecked: where the record's coverage is "unchecked": why, in the issuer's words, which the certificate carries.

    Raises:
        RunError: the process is one of several, see docs/parallel.md; the record does not match its mechanism, contradicts itself or does not meet what was asked, or the
            kind of its guarantee is one that no certificate states; or the mechanism was withdrawn; or the weights hold
            other tensors than the run covered, or are those of the model before the run; or nobody checked that the
            retained data hold no forgotten row, and `unchecked` does not say why.
        ValueError: `unchecked` is given for a record that was checked, or a commitment that is not keyed.
    """
    _refuse_many(record, released)
    record.check()
    if record.mechanism.name in WITHDRAWN:
        raise RunError(f"'{record.mechanism.name}' is no longer issued: {WITHDRAWN[record.mechanism.name]}")
    relation = Relation(relation)
    delta = asked.delta if asked is not None else delta
    for name, value in (commitments or {}).items():
        if not is_commitment(value):
            raise ValueError(f"commitments[{name!r}] must come from expunge.commit, not {value!r}")
    claim = guarantee(record.mechanism, delta=delta, relation=relation)
    also = guarantee(record.mechanism, delta=delta, relation=_other(relation))
    _refuse_empty(claim, also, asked)
    _refuse_unchecked(record.coverage, unchecked)
    proving, against = reading_of(record.mechanism, delta=delta, relation=relation)  # one certifier for all points
    released_digest = digest_to_release(record, released)
    unchanged = released_digest == record.certified
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "asked": None if asked is None else {"epsilon": asked.epsilon, "delta": asked.delta},
        "claim": claim_to_dict(record.mechanism, claim),
        "also_proven": claim_to_dict(record.mechanism, also),
        "profile": [{"epsilon": e, "delta": delta_at(proving, e, against)} for e in PROFILE_AT],
        "run": record.to_dict(),
        "weights": {"certified": record.certified, "released": released_digest},
        "commitments": dict(commitments or {}),
        "recovery": NO_RECOVERY if unchanged else recovery or DECLARED_RECOVERY,
        "unchecked": unchecked,
        "does_not_prove": list(DOES_NOT_PROVE),
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Read back from its own JSON: in memory a certificate is what its file will be, schedules as lists.
    try:
        certificate = Certificate.from_json(Certificate(content | {"digest": digest(content)}).to_json())
        verify(certificate, weights=released if isinstance(record.mechanism, Behavioural) else None)
    except CertificateError as error:
        raise RunError(f"no certificate can be issued that would verify: {error}") from error
    return certificate


def _refuse_many(record: RunRecord, released: object) -> None:
    """Raise `RunError` in one of several processes that did not share the run, or that is not the first of those that did."""
    rank, size = processes()
    if size > 1 and stated_workers(record.environment) != size:
        refuse_workers("issue, of a run that one process made,")
    if rank > 0:
        raise RunError(f"the certificate of a shared run is issued once, by rank 0, and this is rank {rank}")
    refuse_without_group()
    if size > 1 and in_shards(released):
        raise RunError(
            "no worker has all of these weights: call expunge.training.weights.save_weights(model, path) on every worker, then "
            "issue(record, released=path) on rank 0"
        )


def asked_of(mechanism: Mechanism, budget: Budget) -> Budget | None:
    """What a run for a budget is asked for: the budget, or nothing where it is known beforehand that its kind can meet none."""
    return None if getattr(mechanism, "unasked", False) else budget


def _refuse_empty(claim: Claim, also: Claim, asked: Budget | None) -> None:
    """Raise `RunError` where nothing is proven that was asked, or that a certificate may state."""
    if not isinstance(claim, Bound) and asked is not None:
        bounded = "no law is bounded" if isinstance(claim, BehaviouralClaim) else "nothing is proven"
        raise RunError(f"{bounded}, epsilon={asked.epsilon:g} was asked: {claim.assumptions[0]}")
    for proven in (claim, also):
        if isinstance(proven, Bound) and not (isfinite(proven.epsilon) and isfinite(proven.mu)):
            raise RunError(
                f"the run proves nothing: epsilon={proven.epsilon}, mu={proven.mu} at delta={proven.delta:g} under relation "
                f"'{proven.relation}'"
            )
    if asked is not None and isinstance(claim, Bound) and not claim.meets(asked):
        raise RunError(
            f"the run proves epsilon={claim.epsilon:.9g} at delta={claim.delta:g}, not the {asked.epsilon:g} asked"
        )


def _refuse_unchecked(coverage: str, words: str) -> None:
    if words != "":
        _validate.text(unchecked=words)
    if coverage == UNCHECKED and not words:
        raise RunError(
            "nobody checked that the retained data hold none of the forgotten rows: give them to the verb that ran "
            "(forget=...), or say here why that cannot be (unchecked='...'), in words that the certificate carries"
        )
    if coverage != UNCHECKED and words:
        raise ValueError(f"unchecked={words!r} contradicts the record, whose coverage is {coverage!r}: leave it out")


def _other(relation: Relation) -> Relation:
    return Relation.CENTER if relation is Relation.RETRAINED else Relation.RETRAINED
