"""The audit of a task: every attack that applies to it, in parts that an interruption does not lose."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from expunge import _validate
from expunge.accounting import Mechanism, Relation
from expunge.attacks.lanes import LANES, lane_canaries, lane_membership, lane_worlds
from expunge.attacks.networks import network_canaries, network_membership, network_null_start, network_worlds
from expunge.attacks.parts import Effort, How, Kept, Part, left_out
from expunge.audit.evidence import check
from expunge.audit.finding import Finding
from expunge.audit.report import Audit
from expunge.recovery import Recipe
from expunge.training.task import Task

__all__ = ["Effort", "audit_task"]


def audit_task(
    task: Task,
    attacked: Mechanism,
    *,
    certificate: str | None = None,
    delta: float = 1e-5,
    confidence: float = 0.95,
    recipe: Recipe,
    recovery_epochs: float,
    training_epochs: float,
    rescale: bool = True,
    batch_size: int | None = None,
    relation: Relation = Relation.RETRAINED,
    effort: Effort | None = None,
    seed: int = 0,
    state: Path | None = None,
) -> Audit:
    """Attack a mechanism on a task: in two worlds, from the null start, by membership, and by canaries of one training.

    A part that does not apply to the task is left out, and the audit says why.

    Args:
        task: trained model and data; `make_model` for the membership attacks and for a replay, `features` for heads.
        attacked: the mechanism of the certificate.
        certificate: its content digest.
        delta: δ at which ε is bounded.
        confidence: of each part.
        recipe: of recovery; and of training, for the membership attacks.
        recovery_epochs: after unlearning.
        training_epochs: for the membership attacks.
        rescale: whether recovery first rescales the layers.
        batch_size: of the mechanism; by default the recipe's.
        relation: of the claim. Under `center` it is about one run and noise alone, so that attacks which compare two
            runs are left out, unless the certifier is the same under both.
        effort: by default `Effort()`.
        seed: of everything.
        state: a file that keeps finished parts; a call with the same settings goes on from it. Deleted at the end.

    Raises:
        StateError: the state file is damaged or belongs to another audit.
        TaskError: the task's data are not parted, see `Task.parts`.
    """
    _validate.positive(recovery_epochs=recovery_epochs, training_epochs=training_epochs)
    check(delta, confidence)
    spend, relation = effort or Effort(), Relation(relation)
    settings = [repr(attacked), certificate, delta, confidence, repr(recipe), recovery_epochs, training_epochs]
    kept = Kept(state, repr([*settings, rescale, spend, seed, batch_size, str(relation)]))
    how = How(
        task.parts(), attacked, delta, confidence, recipe, recovery_epochs, training_epochs, rescale, spend, seed,
        recipe.batch_size if batch_size is None else batch_size,
    )  # fmt: skip
    parts = _parts(attacked, spend, relation)
    findings: list[Finding] = []
    details: dict[str, Any] = {"effort": asdict(spend), "seed": seed}
    for name, run in parts.items():
        found = kept.get(name)
        if found is None:
            found = run(how)
            kept.put(name, found)
        findings += [replace(finding, relation=relation) for finding in found[0]]
        details[name] = found[1]
    kept.remove()
    return Audit(certificate=certificate, findings=tuple(findings), details=details)


def _parts(attacked: Mechanism, effort: Effort, relation: Relation) -> dict[str, Callable[[How], Part]]:
    """What is made of each part, by name."""
    lane = isinstance(attacked, LANES)
    parts: dict[str, Callable[[How], Part]] = {
        "two worlds": lane_worlds if lane else network_worlds,
        "null start": network_null_start,
        "membership": lane_membership if lane else network_membership,
        "canaries": lane_canaries if lane else network_canaries,
    }
    if effort.runs == 0:
        parts["membership"] = _without("no shadow models were asked for")
    if attacked.certifier(relation) != attacked.certifier(Relation.RETRAINED):
        for name in ("two worlds", "null start", "membership"):
            parts[name] = _without(
                f"it compares two runs; under relation '{relation}' one run is compared with noise alone"
            )
    return parts


def _without(reason: str) -> Callable[[How], Part]:
    return lambda _how: left_out(reason)
