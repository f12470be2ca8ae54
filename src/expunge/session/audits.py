"""An attack on a certificate, and the file of what it found."""

from dataclasses import replace
from pathlib import Path

from expunge.attacks import Effort, audit_task
from expunge.audit import Audit, Finding
from expunge.certificate import Certificate, verify
from expunge.recovery import Recipe
from expunge.session.folder import refuse_existing
from expunge.task import load_task

__all__ = ["run_audit"]


def run_audit(
    where: str,
    certificate: Path,
    out: Path,
    *,
    recipe: Recipe,
    recovery_epochs: int,
    training_epochs: int,
    rescale: bool,
    confidence: float,
    quick: bool,
    shadows: bool,
    seed: int,
) -> tuple[Audit, list[Finding]]:
    """Attack the mechanism of a certificate on a task, and write the audit; returns it with the findings that refute.

    Finished parts are kept in `<out>.partial` until all are: the same call goes on from there.

    Raises:
        OutputError: `out` exists.
        CertificateError: the certificate does not verify.
    """
    refuse_existing(out)
    loaded = Certificate.load(certificate)
    verify(loaded)
    task, claim = load_task(where), loaded.claim
    effort = Effort.quick() if quick else Effort()
    delta = claim.delta if 0 < claim.delta < 1 else 1e-5  # 0 where the claim is exact, 1 where it is none
    done = audit_task(
        task, loaded.mechanism, certificate=loaded.content["digest"], delta=delta, confidence=confidence,
        recipe=recipe, recovery_epochs=recovery_epochs, training_epochs=training_epochs, rescale=rescale,
        effort=effort if shadows else replace(effort, runs=0), seed=seed, state=out.with_name(out.name + ".partial"),
    )  # fmt: skip
    done.save(out)
    return done, done.refuting(claim)
