"""The verb `audit`: attack a certificate, or anybody's unlearner, on a task; and the file of what was found."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge._lock import held
from expunge._workers import refuse_workers
from expunge.accounting import Budget, Claim, EpsilonDeltaClaim, Relation, guarantee
from expunge.attacks import Effort, audit_task
from expunge.audit import Audit, Finding
from expunge.certificate import Certificate, verify
from expunge.certificate.commitments import read_key
from expunge.data import Request, open_commitment
from expunge.errors import CommitmentMismatch, MalformedAudit, OutputError
from expunge.jobs.folder import key_of, refuse_existing
from expunge.jobs.released import opened
from expunge.recovery import Recipe, Recovery
from expunge.recovery.procedure import stated
from expunge.training.task import Task, load_task
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.recalled import Procedure, Recalled
from expunge.unlearners.table import recalled, repeated

__all__ = ["Asked", "Tested", "audit", "run_audit"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the caller says of recovery and training; None where nothing: then the certificate's record decides."""

    epochs: float | None = None
    training_epochs: float | None = None
    recovery_lr: float | None = None
    optimizer: str | None = None
    batch_size: int | None = None
    rescale: bool | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What is not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What an audit came to.

    Args:
        audit: all of it.
        claim: what was attacked.
        refuting: the findings that refute the claim.
        untested: why no finding could have; None where one could.
    """

    audit: Audit
    claim: Claim
    refuting: list[Finding]
    untested: str | None

    @property
    def verdict(self) -> str:
        """What the audit says of the claim, in a sentence."""
        if self.untested is not None:
            return f"This is no pass: nothing could be tested. {self.untested}"
        found = f"REFUTED by {len(self.refuting)} of" if self.refuting else "not refuted by any of"
        return f"The claim is {found} {len(self.audit.findings)} findings. An audit never proves"

    def __str__(self) -> str:
        findings = [
            f"{f.attack}: epsilon >= {f.epsilon:.3f}, could show {f.ceiling:.3g}"
            + ("" if f.null_epsilon is None else f", null {f.null_epsilon:.3f}")
            for f in self.audit.findings
        ]
        left_out = [f"left out, {name}: {reason}" for name, reason in self.audit.left_out.items()]
        return "\n".join([*findings, *left_out, f"{self.verdict}."])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit to a new file; raises `OutputError`."""
        self.audit.save(path)


def audit(
    task: Task,
    of: Certificate | str | os.PathLike[str] | Unlearner,
    request: Request | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    asked: Asked | None = None,
    recovery: Recovery | None = None,
    budget: Budget = _BUDGET,
    relation: Relation = Relation.RETRAINED,
    confidence: float = 0.95,
    effort: Effort | None = None,
    seed: int = 0,
    state: Path | None = None,
) -> Tested:
    """Attack what a certificate claims, or what anybody's unlearner would claim, on a task.

    An audit never proves: it bounds epsilon from below, and refutes the claim or does not. See docs/audits.md.

    Args:
        task: model, data and loss.
        of: a certificate, or the path of one: its mechanism is attacked, as its record says that it was run. Or an unlearner,
            of which no certificate needs to exist: what its mechanism claims is attacked.
        request: what was forgotten; None where the task's own `forget` says it.
        weights: the released weights, which are compared with the certificate and opened in the task's model; by default
            `model.safetensors` beside the path of a certificate. Of a certificate in memory they may be left out, which the
            audit says.
        key: of the certificate's commitment, which the task's forget set must then open; by default that beside the path.
        asked: settings of recovery and training that the record does not hold.
        recovery: the object that the run of the certificate recovered by, where the record names one that is no fine-tuning.
        budget: what an unlearner is asked to meet; a certificate has its own claim.
        relation: the reading of an unlearner's claim; likewise.
        confidence: of each part, from 0.5 to 1 - 1e-9.
        effort: how much is spent; by default `Effort()`, and less for `Effort.quick()`.
        seed: of all coins.
        state: see `audit_task`.

    Raises:
        OutputError: there are no released weights to open.
        CertificateError: the certificate does not verify, or the weights are others, or not of the task's model.
        CommitmentMismatch: the task's forget set is not the one that the certificate is committed to.
        ValueError: a setting contradicts the record, or no attack on the mechanism reads it.
        TypeError: `of` is none of these.
    """
    refuse_workers("audit")
    how: dict[str, Any] = {"confidence": confidence, "effort": effort, "seed": seed, "state": state}
    if isinstance(of, Certificate | str | os.PathLike):
        issued = _Issued.opened(of, weights, key, asked or Asked(), recovery)
        return issued.attacked(task.parts(request), **how)
    if not isinstance(of, Unlearner):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an audit is of a certificate, its path, or an unlearner, not of {of!r:.100}")
    if weights is not None or key is not None or recovery is not None:
        raise ValueError(
            "weights, key and recovery belong to a certificate, and an unlearner was given: leave them out"
        )
    own = task.parts(request)
    mechanism = of.mechanism(own, budget, relation)
    claim = guarantee(mechanism, delta=budget.delta, relation=relation)
    done = audit_task(
        own, of, mechanism, budget=budget, relation=relation, delta=budget.delta,
        procedure=_procedure({}, (asked or Asked()).said), **how,
    )  # fmt: skip
    return _tested(done, claim)


def run_audit(
    where: str,
    certificate: Path,
    out: Path,
    *,
    request: Request | None = None,
    weights: Path | None = None,
    asked: Asked | None = None,
    recovery: Recovery | None = None,
    confidence: float = 0.95,
    quick: bool = False,
    shadows: bool = True,
    seed: int = 0,
) -> Tested:
    """Attack the mechanism of a certificate on the task of a file, and write the audit.

    The released weights are opened first: they are those of the certificate, and the task's model holds them. Where the
    key of the commitment lies beside the certificate, the task's forget set must open it. Finished parts are kept in
    `<out>.partial` until all are: the same call goes on from there.

    Args:
        where: see `load_task`.
        certificate: the certificate's file.
        out: the audit to write.
        request: see `audit`, as all that follows.
        weights: the released weights; by default `model.safetensors` beside the certificate.
        asked: settings of recovery and training; only those that the record does not hold.
        recovery: see `audit`.
        confidence: of each part.
        quick: fewer runs.
        shadows: train shadow models.
        seed: of all coins.

    Raises:
        OutputError: `out` exists, or there are no released weights to open.
        CertificateError, CommitmentMismatch, ValueError: see `audit`.
    """
    refuse_existing(out)
    issued = _Issued.opened(
        certificate, weights, None, asked or Asked(), recovery
    )  # what is wrong here is told before the task is made
    task = load_task(where, request)
    effort = Effort.quick() if quick else Effort()
    with held(out):  # its unfinished parts lie beside it
        found = issued.attacked(
            task, confidence=confidence, effort=effort if shadows else replace(effort, runs=0), seed=seed,
            state=out.with_name(out.name + ".partial"),
        )  # fmt: skip
        found.save(out)
    return found


@dataclass(frozen=True, kw_only=True)
class _Issued:
    """A certificate that verifies, with the unlearner that runs what it speaks of."""

    certificate: Certificate
    weights: Path | None
    key: Path | None
    recalled: Recalled
    procedure: Procedure

    @classmethod
    def opened(
        cls,
        of: Certificate | str | os.PathLike[str],
        weights: Any,
        key: Any,
        asked: Asked,
        recovery: Recovery | None = None,
    ) -> "_Issued":
        if isinstance(of, Certificate):
            loaded, beside, kept = of, None, None
        else:
            loaded = Certificate.load(of)
            beside, kept = Path(of).with_name("model.safetensors"), key_of(Path(of).parent)
        released = beside if weights is None else Path(weights)
        if released is not None and not released.is_file():
            raise OutputError(
                f"{released} is not there: an audit opens the released weights; name them with --weights (weights=)"
            )
        verify(loaded, weights=released)
        _refuse_other_recovery(loaded.record.procedure.get("recovery"), recovery)
        procedure = replace(_procedure(loaded.record.procedure, asked.said), recovery=recovery)
        found = recalled(loaded.mechanism, procedure)
        for name in asked.said.keys() - found.reads:
            raise ValueError(
                f"no attack on '{loaded.mechanism.name}' reads {name}, and {asked.said[name]!r} was given: leave it out"
            )
        return cls(
            certificate=loaded, weights=released, key=kept if key is None else Path(key), recalled=found,
            procedure=procedure,
        )  # fmt: skip

    def attacked(self, task: Task, **how: Any) -> Tested:
        loaded, claim = self.certificate, self.certificate.claim
        measured: Mapping[str, float] = {}
        if self.weights is not None:
            measured = opened(task, loaded.record, self.weights, self.recalled.unlearner)
        request = self._request(task)
        delta = claim.delta if isinstance(claim, EpsilonDeltaClaim) else _BUDGET.delta
        done = audit_task(
            task, self.recalled.unlearner, loaded.mechanism, certificate=loaded.content["digest"], delta=delta,
            relation=claim.relation, procedure=self.procedure, assumed=self.recalled.assumed, **how,
        )  # fmt: skip
        digest = "not opened: none were given" if self.weights is None else loaded.content["weights"]["released"]
        bound = {"weights": digest, "request": request, "measured": dict(measured)}
        return _tested(replace(done, details={"released": bound, **done.details}), claim)

    def _request(self, task: Task) -> str:
        """Whether the task's forget set is that of the certificate, in words."""
        commitment = self.certificate.content["commitments"].get("forget")
        if commitment is None:
            return "not checked: the certificate holds no commitment to a forget set"
        if self.key is None:
            return "not checked: no key of the commitment was given"
        if not self.key.is_file():
            return f"not checked: no {self.key.name} in the secret folder beside that of the certificate"
        try:
            open_commitment(commitment, task.forget, key=read_key(self.key))
        except CommitmentMismatch as error:
            raise CommitmentMismatch(f"task.forget is not the request of this certificate: {error}") from error
        return "the commitment to the forget set opens with the task's"


def _tested(done: Audit, claim: Claim) -> Tested:
    return Tested(audit=done, claim=claim, refuting=done.refuting(claim), untested=done.untested(claim))


def _refuse_other_recovery(recorded: Mapping[str, Any] | None, given: Recovery | None) -> None:
    """Raise `ValueError` unless the recovery at hand is that of the record, of which fine-tuning alone is made from it."""
    if given is not None and stated(given) != recorded:
        told = "none" if recorded is None else repr(dict(recorded))
        raise ValueError(
            f"recovery={given!r:.200} contradicts the certificate's record, which has {told:.200}: leave it out or give that one"
        )
    if given is None and recorded is not None and "name" in recorded:
        raise ValueError(
            f"the run recovered by '{recorded['name']}' with {recorded['settings']!r:.200}, of which the record does not hold all, and with "
            "another recovery another run would be attacked: give the object that it ran with: --recovery FILE.py:FUNCTION (recovery=)"
        )


def _procedure(recorded: Mapping[str, Any], said: Mapping[str, Any]) -> Procedure:
    """What is known of a run: the record's settings, then the caller's, then defaults."""
    held = _held(recorded)
    for name, value in said.items():
        if name in held and held[name] != value:
            raise ValueError(f"{name}={value!r} contradicts the certificate's record, {held[name]!r}: leave it out")
    chosen: dict[str, Any] = {"batch_size": recorded.get("batch_size", 128), **said, **held}
    names = {"optimizer": "optimizer", "recovery_lr": "learning_rate", "batch_size": "batch_size"}
    recipe = chosen.pop("recipe", None) or Recipe(
        **{field: chosen[name] for name, field in names.items() if name in chosen}
    )
    own = {name: value for name, value in chosen.items() if name in ("epochs", "training_epochs", "rescale")}
    of_training = recorded.get("training", {}).get("recipe", {})
    start = recorded.get("start")
    return Procedure(
        recipe=recipe, batch_size=recorded.get("batch_size"), of_training=of_training, unlearner=recorded.get("unlearner"),
        start=None if start is None else repeated(start), **own,
    )  # fmt: skip


def _held(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a record holds, by the names of `Asked`, and its recipe."""
    recovery, training = recorded.get("recovery"), recorded.get("training")
    if recovery is not None and "name" in recovery:  # its settings are its own
        recovery = None
    found: dict[str, Any] = {}
    for part in filter(None, (training, recovery)):
        if "optimizer" not in part["recipe"]:
            continue  # no `Recipe`: settings of the unlearner's own, which reads them itself
        try:
            recipe = Recipe(**part["recipe"])
        except (TypeError, ValueError) as error:
            raise MalformedAudit(f"run.procedure holds a recipe that this version does not know: {error}") from error
        found |= {
            "recovery_lr": recipe.learning_rate, "optimizer": recipe.optimizer, "batch_size": recipe.batch_size,
            "recipe": recipe,
        }  # fmt: skip
    if training is not None:
        found["training_epochs"] = training["epochs"]
    if recovery is not None:
        found |= {"epochs": recovery["epochs"], "rescale": recovery["rescale"]}
    return found
