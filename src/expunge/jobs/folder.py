"""The folder of a job: it appears when it is complete, or not at all, and holds nothing secret.

out/                    certificate.json, model.safetensors, summary.json, report.html, ...: may be published as it is
out.secret/keys/        commitment.key, and head.key of a head: with the state, ids can be guessed; keep them apart
out.secret/state/       head.state: what the next request starts from
out.secret/             original.digest: of the trained weights, for noisy runs (see `expunge.jobs.earlier`)
out.secret/summary.json what the job returned: accuracies before, and on the forgotten data, which no certificate covers
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Generator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from expunge._files import write_new
from expunge._lock import held
from expunge.accounting import Budget, Relation, numbers_of
from expunge.certificate import Certificate, issue, verify
from expunge.certificate.issuing import asked_of
from expunge.errors import OutputError
from expunge.report import render
from expunge.report.curves import Comparison
from expunge.training.unlearned import Unlearned
from expunge.training.weights import save_weights

__all__ = [
    "Accuracies",
    "conclude",
    "key_of",
    "keys_in",
    "refuse_existing",
    "secret_of",
    "state_in",
    "working_folder",
    "write",
    "write_page",
]

_log = logging.getLogger("expunge")

_SECRET, _CERTIFICATE, _KEY, _SUMMARY = "secret", "certificate.json", "commitment.key", "summary.json"
_WEIGHTS = "model.safetensors"
# Of a summary: what follows from the release, data that were not forgotten, and the clock.
_PUBLIC = ("certificate", "kind", "relation", "epsilon", "delta", "mu", "started", "seconds")

Accuracies = dict[str, dict[str, float]]
"""By model ("original", "released") and part ("held_out", "forget")."""


def refuse_existing(out: Path) -> None:
    """Raise `OutputError` where `out` is there already, be it a link that leads nowhere: after the run it would fail."""
    if os.path.lexists(out):
        raise OutputError(f"{out} exists already and is not overwritten; choose another name or remove it")


@contextlib.contextmanager
def working_folder(out: Path, *, resume: bool) -> Generator[Path]:
    """A private folder to work in, which becomes `out` at the end; after a failure only state files are left of it.

    What was put under `keys_in` and `state_in` becomes `out.secret`, beside it.

    Raises:
        OutputError: `out` or `out.secret` exists, or an interrupted run's folder and `resume` is not set; another process works on it.
    """
    refuse_existing(out)  # first: what has no name of its own, "." or "/", exists
    with held(out), _made(out, resume=resume) as work:
        yield work


@contextlib.contextmanager
def _made(out: Path, *, resume: bool) -> Generator[Path]:
    refuse_existing(out)  # again: another process may have made it meanwhile
    work = out.with_name(out.name + ".partial")
    if work.exists() and not resume:
        raise OutputError(f"{work} is left from an interrupted run: go on with --resume, or remove it")
    _refuse_secret(out, work)
    try:
        work.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {work}: {error.strerror}") from error
    _clear(work)  # of what a run left that was killed at its end
    try:
        yield work
    except BaseException:
        _clear(work)
        if any(work.iterdir()):
            _log.warning("what is done is kept in %s, secret: go on with --resume, or remove it", work)
        else:
            work.rmdir()
        raise
    _publish(work, out)


def _publish(work: Path, out: Path) -> None:
    """The secret part first: cut off between the two, the run is one that was interrupted (see `_refuse_secret`)."""
    moves = [(work / _SECRET, secret_of(out))] if (work / _SECRET).exists() else []
    for source, target in [*moves, (work, out)]:
        try:
            source.replace(target)
        except OSError as error:
            raise OutputError(f"cannot rename {source} to {target}: {error.strerror}") from error


def _refuse_secret(out: Path, work: Path) -> None:
    """Raise `OutputError` where `out.secret` is there, unless the interrupted run that is gone on with has put it there."""
    secret = secret_of(out)
    if not (secret.exists() or secret.is_symlink()):
        return
    if (work / _CERTIFICATE).exists() and not (work / _SECRET).exists():
        shutil.rmtree(secret)  # of a release that never appeared; it is made again
        return
    raise OutputError(
        f"{secret} exists already and is not overwritten: it holds keys, and perhaps a state, of an earlier {out}. Choose "
        "another folder, or remove it"
    )


def secret_of(out: Path) -> Path:
    """The folder beside `out` that its owner alone may see."""
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.name}.{_SECRET}")


def keys_in(work: Path) -> Path:
    """Where a working folder keeps keys."""
    return _inside(work, "keys")


def state_in(work: Path) -> Path:
    """Where a working folder keeps the state that the next request starts from."""
    return _inside(work, "state")


def key_of(out: Path) -> Path:
    """The commitment key of a folder that a job made, whether it is there or not."""
    key = secret_of(out) / "keys" / _KEY
    return key if key.exists() or not (out / _KEY).exists() else out / _KEY  # the latter of earlier versions


def _inside(work: Path, name: str = "") -> Path:
    for folder in (work / _SECRET, work / _SECRET / name):  # one by one: modes of parents are not set
        folder.mkdir(mode=0o700, exist_ok=True)
    return work / _SECRET / name


def write(
    folder: Path, done: Unlearned, released: Any, budget: Budget, relation: Relation, commitments: Mapping[str, str]
) -> Certificate:
    """Weights and certificate, which is verified against the file that was written."""
    weights = folder / _WEIGHTS
    save_weights(released, weights)
    asked = asked_of(done.record.mechanism, budget)
    certificate = issue(
        done.record,
        released=weights,
        asked=asked,
        relation=relation,
        commitments=commitments,
        recovery=done.recovered or None,
    )
    verify(certificate, weights=weights)
    certificate.save(folder / _CERTIFICATE)
    return certificate


def write_page(
    folder: Path,
    certificate: Certificate,
    comparison: Comparison | None = None,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """The report, beside the certificate."""
    write_new(
        folder / "report.html", render(certificate, comparison, weights=folder / _WEIGHTS, summary=figures).encode()
    )


def conclude(
    work: Path, out: Path, certificate: Certificate, accuracy: Accuracies, *, started: datetime, **notes: Any
) -> dict[str, Any]:
    """Write page and summaries of a job into its working folder; returns the whole summary.

    The whole one is secret: what the trained model was worth, above all on the forgotten data, follows neither from the
    release nor from retained data, and no certificate covers it.

    Args:
        work: holds the certificate.
        out: what it will become.
        certificate: that was written.
        accuracy: what was measured; may be empty.
        started: when the job began.
        notes: what is particular to the job, JSON-ready.
    """
    claim = certificate.claim
    whole: dict[str, Any] = {
        "folder": str(out), "secret": str(secret_of(out)), "certificate": certificate.content["digest"],
        **numbers_of(claim), "relation": str(claim.relation), "kind": str(claim.kind), "accuracy": accuracy,
        "started": started.isoformat(timespec="seconds"),
    } | notes  # fmt: skip
    public = {name: whole[name] for name in _PUBLIC if name in whole}
    released = {part: value for part, value in accuracy.get("released", {}).items() if part == "held_out"}
    public["accuracy"] = {"released": released} if released else {}
    for folder, content in ((work, public), (_inside(work), whole)):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_new(folder / _SUMMARY, text.encode(), private=content is whole)
    write_page(work, certificate, figures=public)
    return whole


def _clear(work: Path) -> None:
    """Leave nothing but state files."""
    for leftover in work.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif leftover.suffix != ".state":
            leftover.unlink()
