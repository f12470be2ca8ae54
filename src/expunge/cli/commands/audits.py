"""The command that attacks a certificate."""

import json
from pathlib import Path
from typing import Annotated

from expunge.certificate.commitments import read_ids
from expunge.cli.application import Option
from expunge.cli.parameters import Ids, Json, RecoveryName, TaskName
from expunge.cli.tables import print_audited, print_json
from expunge.cli.terminal import say
from expunge.exits import NOTHING_TESTED

__all__ = ["audit"]

_SHOWN = (("value", "low", "high"), ("null", "null_low", "null_high"))
_RECORDED = "By default as the certificate's record says."


def audit(
    task: TaskName,
    certificate: Annotated[Path, Option(help="The certificate to attack.")],
    out: Annotated[Path, Option(help="The audit.json to write.")] = Path("audit.json"),
    ids: Ids = None,
    weights: Annotated[
        Path | None, Option(help="The released weights; by default model.safetensors beside the certificate.")
    ] = None,
    epochs: Annotated[float | None, Option(help=f"Recovery: epochs. {_RECORDED}")] = None,
    training_epochs: Annotated[float | None, Option(help=f"Training of models to attack: epochs. {_RECORDED}")] = None,
    recovery_lr: Annotated[
        float | None, Option(help=f"Peak learning rate of recovery and training. {_RECORDED}")
    ] = None,
    optimizer: Annotated[str | None, Option(help=f"sgd or adamw. {_RECORDED}")] = None,
    batch_size: Annotated[int | None, Option(help=f"Examples a batch. {_RECORDED}")] = None,
    rescale: Annotated[bool | None, Option(help=f"Recovery: first rescale layers. {_RECORDED}")] = None,
    recovery: RecoveryName = None,
    confidence: Annotated[float, Option(help="Of each part of the audit, from 0.5 to 1 - 1e-9.")] = 0.95,
    quick: Annotated[bool, Option(help="Fewer runs: under a minute for a small task.")] = False,
    shadows: Annotated[bool, Option(help="Train shadow models; not for models too large for it.")] = True,
    seed: Annotated[int, Option(help="Of all coins.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a certificate: in two worlds, from the null start, by membership, by canaries of one training.

    Exit code 1 where it is refuted, 4 where nothing could be tested.
    """
    from expunge.audit.evidence import sure
    from expunge.data import Request
    from expunge.jobs.audits import Asked, run_audit
    from expunge.recovery.loading import load_recovery

    sure(confidence)
    asked = Asked(
        epochs=epochs, training_epochs=training_epochs, recovery_lr=recovery_lr, optimizer=optimizer, batch_size=batch_size,
        rescale=rescale,
    )  # fmt: skip
    found = run_audit(
        task,
        certificate,
        out,
        request=None if ids is None else Request.rows(read_ids(ids)),
        weights=weights,
        asked=asked,
        recovery=None if recovery is None else load_recovery(recovery),
        confidence=confidence,
        quick=quick,
        shadows=shadows,
        seed=seed,
    )
    refuted = found.refuting
    if as_json:
        verdict = {"refuted_by": [finding.attack for finding in refuted], "untested": found.untested}
        print_json(json.loads(found.audit.to_json()) | verdict)
    else:
        print_audited(found, out)
        for measured in found.audit.measurements:
            own, null = (
                f"{measured.values[a]:.3f} [{measured.values[b]:.3f}, {measured.values[c]:.3f}]" for a, b, c in _SHOWN
            )
            say(f"measured, {measured.name}: {own}, null {null}, {measured.unit}. It bounds nothing.")
    if refuted:
        raise SystemExit(1)
    if found.untested is not None:
        raise SystemExit(NOTHING_TESTED)
