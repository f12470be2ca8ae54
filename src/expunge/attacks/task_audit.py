"""The audit of an unlearner on a task: every attack that applies to it, in parts that an interruption does not lose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from expunge.accounting import Budget, Kind, Mechanism, Relation
from expunge.attacks.canaries_of_unlearners import canaries_part
from expunge.attacks.on_features import minimiser_membership, minimiser_worlds, sums_bits, sums_membership
from expunge.attacks.on_steps import fresh_membership, starts_part, steps_membership, steps_worlds
from expunge.attacks.parts import Effort, How, Kept, Part, left_out
from expunge.audit.evidence import check
from expunge.audit.finding import Finding
from expunge.audit.measurement import Measurement
from expunge.audit.report import Audit
from expunge.recovery.procedure import stated
from expunge.training.task import Task
from expunge.unlearners.capabilities import Fresh, Minimiser, SameBits, Steps, Sums
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.recalled import Procedure

__all__ = ["Effort", "audit_task"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)


def audit_task(
    task: Task,
    unlearner: Unlearner,
    mechanism: Mechanism,
    *,
    certificate: str | None = None,
    budget: Budget = _BUDGET,
    relation: Relation = Relation.RETRAINED,
    delta: float = 1e-5,
    confidence: float = 0.95,
    procedure: Procedure | None = None,
    assumed: Mapping[str, Any] | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    state: Path | None = None,
) -> Audit:
    """Attack an unlearner on a task: in two worlds, from the null start, by membership, and by canaries of one training.

    The canaries need nothing but the protocol; the others need what `expunge.unlearners.capabilities` names. A part that does
    not apply is left out, and the audit says why.

    Args:
        task: trained model and data; `make_model` for what trains, `features` for heads.
        unlearner: of the table or anybody's own.
        mechanism: what its certificate claims, or would.
        certificate: its content digest.
        budget: that the unlearner is asked to meet, where it calibrates noise.
        relation: of the claim. Under `center` it is about one run and noise alone, so that attacks which compare two
            runs are left out, unless the certifier is the same under both.
        delta: δ at which ε is bounded.
        confidence: of each part.
        procedure: how a model is trained for an unlearner that learns nothing itself; by default `Procedure()`.
        assumed: what the certificate does not say and was chosen, for the details.
        effort: by default `Effort()`.
        seed: of everything.
        state: a file that keeps finished parts; a call with the same settings goes on from it. Deleted at the end.

    Raises:
        TaskError: the task holds all its data, and no request parts them, see `Task.parts`.
        StateError: the state file is damaged or belongs to another audit.
    """
    check(delta, confidence)
    how = How(
        task=task.parts(), unlearner=unlearner, mechanism=mechanism, budget=budget, relation=Relation(relation), delta=delta,
        confidence=confidence, effort=effort or Effort(), seed=seed, procedure=procedure or Procedure(),
        assumed=assumed or {},
    )  # fmt: skip
    settings = [_told(unlearner), repr(mechanism), repr(budget), str(how.relation), certificate, delta, confidence]
    kept = Kept(state, repr([*settings, repr(how.procedure), how.effort, seed]))
    findings: list[Finding] = []
    measured: list[Measurement] = []
    details: dict[str, Any] = {"effort": asdict(how.effort), "seed": seed}
    for name, run in _parts(how).items():
        found = kept.get(name)
        if found is None:
            found = run(how)
            kept.put(name, found)
        findings += [replace(finding, relation=how.relation) for finding in found[0]]
        held = dict(found[1])
        measured += [Measurement.from_dict(fields) for fields in held.pop("measurements", [])]
        details[name] = held
    kept.remove()
    return Audit(certificate=certificate, findings=tuple(findings), details=details, measurements=tuple(measured))


_Attack = Callable[[How], Part]


def _parts(how: How) -> dict[str, _Attack]:
    """What is made of each part, by name."""
    worlds: list[tuple[Any, _Attack]] = [(Steps, steps_worlds), (Minimiser, minimiser_worlds), (Sums, sums_bits)]
    shadows: list[tuple[Any, _Attack]] = [
        (Steps, steps_membership), (Fresh, fresh_membership), (Sums, sums_membership), (Minimiser, minimiser_membership),
    ]  # fmt: skip
    parts: dict[str, _Attack] = {
        "two worlds": _first(how, worlds, _no_worlds),
        "null start": starts_part,
        "membership": _first(how, shadows, _no_shadows),
        "canaries": canaries_part,
    }
    if how.effort.runs == 0:
        parts["membership"] = _without("no shadow models were asked for")
    if how.mechanism.certifier(how.relation) != how.mechanism.certifier(Relation.RETRAINED):
        for name in ("two worlds", "null start", "membership"):
            parts[name] = _without(
                f"it compares two runs; under relation '{how.relation}' one run is compared with noise alone"
            )
    return parts


def _first(how: How, attacks: Sequence[tuple[Any, _Attack]], otherwise: _Attack) -> _Attack:
    """The attack of the first capability that the unlearner has."""
    return next((attack for capability, attack in attacks if isinstance(how.unlearner, capability)), otherwise)


def _no_worlds(how: How) -> Part:
    exact = how.mechanism.kind is Kind.EXACT
    return left_out("exact: no noise to attack" if exact else f"'{how.unlearner.name}' runs no steps on one vector")


def _no_shadows(how: How) -> Part:
    if isinstance(how.unlearner, SameBits):
        return left_out("what it releases is compared with retraining bit for bit, see canaries")
    return left_out(f"the runs of '{how.unlearner.name}' cannot be made many at once, see canaries")


def _without(reason: str) -> _Attack:
    return lambda _how: left_out(reason)


def _told(unlearner: Unlearner) -> str:
    """Its name and the options that can be written down: what is held in memory differs from call to call."""
    if not is_dataclass(unlearner):
        return unlearner.name
    plain = (str, int, float, tuple, type(None), Path)
    own = {f.name: getattr(unlearner, f.name) for f in fields(cast("Any", unlearner))}
    recovery = stated(unlearner.recovers) if isinstance(unlearner, Steps) else None
    return repr((unlearner.name, {name: value for name, value in own.items() if isinstance(value, plain)}, recovery))
