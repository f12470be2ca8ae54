"""An attack on a certificate, and the file of what it found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge._lock import held
from expunge.accounting import ExactRidge, GridRidge, MeasuredResidual, Replay, Retrain, UndeclaredFeatures
from expunge.attacks import Effort, audit_task
from expunge.audit import Audit, Finding
from expunge.certificate import Certificate, verify
from expunge.commitments import read_key
from expunge.data import open_commitment
from expunge.errors import CommitmentMismatch, MalformedAudit, OutputError
from expunge.jobs.folder import key_of, refuse_existing
from expunge.jobs.released import opened
from expunge.record import RunRecord
from expunge.recovery import Recipe
from expunge.training.task import Task, load_task

__all__ = ["Asked", "Tested", "run_audit"]

# What the attacks on a mechanism read of `Asked`, where that is not all of it: heads are fitted, replays trained.
_ALL = frozenset({"epochs", "training_epochs", "recovery_lr", "optimizer", "batch_size", "rescale"})
_READS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (ExactRidge.name, GridRidge.name, MeasuredResidual.name, UndeclaredFeatures.name), frozenset[str]()
    ),
    Replay.name: _ALL - {"epochs", "rescale"},
    Retrain.name: _ALL - {"rescale"},
}
_EPOCHS, _TRAINING = 5, 30  # where neither the record nor the caller says them


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the caller says of recovery and training; None where nothing: then the certificate's record decides."""

    epochs: float | None = None
    training_epochs: float | None = None
    recovery_lr: float | None = None
    optimizer: str | None = None
    batch_size: int | None = None
    rescale: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What an audit came to.

    Args:
        audit: all of it.
        refuting: the findings that refute the claim.
        untested: why no finding could have; None where one could.
    """

    audit: Audit
    refuting: list[Finding]
    untested: str | None


def run_audit(
    where: str,
    certificate: Path,
    out: Path,
    *,
    weights: Path | None = None,
    asked: Asked | None = None,
    confidence: float = 0.95,
    quick: bool = False,
    shadows: bool = True,
    seed: int = 0,
) -> Tested:
    """Attack the mechanism of a certificate on a task, and write the audit.

    The released weights are opened first: they are those of the certificate, and the task's model holds them. Where the
    key of the commitment lies beside the certificate, the task's forget set must open it. Finished parts are kept in
    `<out>.partial` until all are: the same call goes on from there.

    Args:
        where: see `load_task`.
        certificate: the certificate's file.
        out: the audit to write.
        weights: the released weights; by default `model.safetensors` beside the certificate.
        asked: settings of recovery and training; only those that the record does not hold.
        confidence: of each part, from 0.5 to 1 - 1e-9.
        quick: fewer runs.
        shadows: train shadow models.
        seed: of all coins.

    Raises:
        OutputError: `out` exists, or there are no released weights to open.
        CertificateError: the certificate does not verify, or the weights are others, or not of the task's model.
        CommitmentMismatch: the task's forget set is not the one that the certificate is committed to.
        ValueError: a setting contradicts the record, or no attack on the mechanism reads it.
    """
    refuse_existing(out)
    loaded = Certificate.load(certificate)
    released = certificate.with_name("model.safetensors") if weights is None else weights
    if not released.is_file():
        raise OutputError(f"{released} is not there: an audit opens the released weights; name them with --weights")
    verify(loaded, weights=released)
    record, claim = loaded.record, loaded.claim
    how = _settings(record, asked or Asked())
    task = load_task(where)
    measured = opened(task, record, released)
    request = _request(task, loaded, key_of(certificate.parent))
    effort = Effort.quick() if quick else Effort()
    delta = claim.delta if 0 < claim.delta < 1 else 1e-5  # 0 where the claim is exact, 1 where it is none
    with held(out):  # its unfinished parts lie beside it
        done = audit_task(
            task, loaded.mechanism, certificate=loaded.content["digest"], delta=delta, confidence=confidence,
            relation=claim.relation, effort=effort if shadows else replace(effort, runs=0), seed=seed,
            state=out.with_name(out.name + ".partial"), **how,
        )  # fmt: skip
        bound = {"weights": loaded.content["weights"]["released"], "request": request, "measured": measured}
        done = replace(done, details={"released": bound, **done.details})
        done.save(out)
    return Tested(audit=done, refuting=done.refuting(claim), untested=done.untested(claim))


def _settings(record: RunRecord, asked: Asked) -> dict[str, Any]:
    """What `audit_task` is told: the record's settings, then the caller's, then defaults."""
    procedure = record.procedure
    recovery, training = procedure.get("recovery"), procedure.get("training")
    held: dict[str, Any] = {}
    for part in filter(None, (training, recovery)):
        try:
            recipe = Recipe(**part["recipe"])
        except (TypeError, ValueError) as error:
            raise MalformedAudit(f"run.procedure holds a recipe that this version does not know: {error}") from error
        held |= {
            "recovery_lr": recipe.learning_rate, "optimizer": recipe.optimizer, "batch_size": recipe.batch_size,
            "recipe": recipe,
        }  # fmt: skip
    if training is not None:
        held["training_epochs"] = training["epochs"]
    if recovery is not None:
        held |= {"epochs": recovery["epochs"], "rescale": recovery["rescale"]}
    said = {name: value for name, value in vars(asked).items() if value is not None}
    for name in said.keys() - _READS.get(record.mechanism.name, _ALL):
        raise ValueError(
            f"no attack on '{record.mechanism.name}' reads {name}, and {said[name]!r} was given: leave it out"
        )
    for name, value in said.items():
        if name in held and held[name] != value:
            raise ValueError(f"{name}={value!r} contradicts the certificate's record, {held[name]!r}: leave it out")
    default: dict[str, Any] = {
        "epochs": _EPOCHS, "training_epochs": _TRAINING, "rescale": True, "recovery_lr": 0.1, "optimizer": "sgd",
        "batch_size": procedure.get("batch_size", 128),
    }  # fmt: skip
    chosen = default | said | held
    recipe = chosen.get("recipe") or Recipe(
        optimizer=chosen["optimizer"], learning_rate=chosen["recovery_lr"], batch_size=chosen["batch_size"]
    )
    return {
        "recipe": recipe, "recovery_epochs": chosen["epochs"], "training_epochs": chosen["training_epochs"],
        "rescale": chosen["rescale"], "batch_size": procedure.get("batch_size"),
    }  # fmt: skip


def _request(task: Task, certificate: Certificate, key: Path) -> str:
    """Whether the task's forget set is that of the certificate, in words."""
    commitment = certificate.content["commitments"].get("forget")
    if commitment is None:
        return "not checked: the certificate holds no commitment to a forget set"
    if not key.is_file():
        return f"not checked: no {key.name} in the secret folder beside that of the certificate"
    try:
        open_commitment(commitment, task.forget, key=read_key(key))
    except CommitmentMismatch as error:
        raise CommitmentMismatch(f"task.forget is not the request of this certificate: {error}") from error
    return "the commitment to the forget set opens with the task's"
