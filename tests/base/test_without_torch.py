"""Run by `make test` in an environment that has the base install and no torch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import expunge as ex
from expunge.accounting import MECHANISMS, Prune
from expunge.audit import Audit, Counts, Finding
from expunge.certificate.digests import weights_digest
from expunge.certificate.record import NO_NOISE, RunRecord
from expunge.report import render

CERTIFICATES = sorted((Path(__file__).parent.parent / "certificates" / "v1").glob("*.json"))


def test_torch_is_not_here():
    assert importlib.util.find_spec("torch") is None


@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda p: p.stem)
def test_old_certificates_verify_for_ever(path: Path):
    ex.verify(path)


@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda p: p.stem)
def test_a_page_is_made_of_a_certificate(path: Path):
    page = ex.report.render(path)
    assert "What this does not mean" in page
    assert "<script" not in page


def audit_of(path: Path, *, true_positives: int) -> Audit:
    certificate = ex.Certificate.load(path)
    seen = Counts(positives=1000, true_positives=true_positives, negatives=1000, false_positives=10)
    finding = Finding(attack="by hand", relation=certificate.claim.relation, delta=0.5, confidence=0.95, evidence=seen)
    return Audit(certificate=certificate.content["digest"], findings=(finding,), details={})


@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda p: p.stem)
def test_an_audit_is_checked_and_shown_and_one_that_refutes_is_believed(path: Path, tmp_path: Path):
    harmless, fatal = audit_of(path, true_positives=10), audit_of(path, true_positives=1000)
    harmless.save(tmp_path / "audit.json")
    assert "by hand" in render(ex.Certificate.load(path), audit=harmless)
    if ex.Certificate.load(path).claim.kind is ex.Kind.NONE:
        for nothing_refutes in (tmp_path / "audit.json", fatal):
            with pytest.raises(ex.errors.NothingTested, match="a claim of kind 'none' bounds no law"):
                ex.verify(path, audit=nothing_refutes)
    else:
        ex.verify(path, audit=tmp_path / "audit.json")
        with pytest.raises(ex.errors.ClaimRefused, match="the audit refutes it: 'by hand' shows epsilon >= "):
            ex.verify(path, audit=fatal)
    other = Audit(certificate="sha256:00", findings=(), details={})
    with pytest.raises(ex.errors.MalformedAudit, match="about sha256:00, not about this certificate"):
        ex.verify(path, audit=other)


def test_there_is_an_old_certificate_of_every_mechanism():
    newer = {"grid_ridge", "prune", "unproven"}  # of schema 2
    assert {path.stem for path in CERTIFICATES} == set(MECHANISMS) - newer


def patched_by_hand(folder: Path, *, shift: float) -> tuple[Path, RunRecord]:
    """Scores (h, 1/4) with h = relu(z - 1/2), and a patch on z > 1/2 that lets class 1 win: it lacks 1/4 at z = 1."""
    held = {
        "network.0.weight": [[1.0]], "network.0.bias": [-0.5], "network.2.weight": [[1.0], [0.0]], "network.2.bias": [0.0, 0.25],
        "signs": [[1.0]], "slacks": [0.125], "shifts": [shift], "targets": [1.0], "labels": [[1.0, 0.0]],
    }  # fmt: skip
    tensors = {name: np.array(values, dtype=np.float32) for name, values in held.items()}
    save_file(tensors, folder / "model.safetensors")
    mechanism = Prune(
        layers=("linear", "relu", "linear"), input_shape=(1,), lowest=0.0, highest=1.0, patches=1, margin=0.001
    )
    record = RunRecord(
        mechanism=mechanism, steps_done=0, noise=NO_NOISE, layers=tuple((n, t.size) for n, t in tensors.items()), weights_dtype="float32",
        center="zero", buffers="none", public=(), certified=weights_digest(folder / "model.safetensors"), environment={}, coverage="ids",
    )  # fmt: skip
    return folder / "model.safetensors", record


def test_patches_are_proven_from_the_weights_file(tmp_path: Path):
    weights, record = patched_by_hand(tmp_path, shift=0.2511)
    certificate = ex.issue(record, released=weights)
    ex.verify(certificate, weights=weights)
    assert "not proven" in ex.report.render(certificate, weights=weights)
    short, record = patched_by_hand(tmp_path, shift=0.2509)
    with pytest.raises(ex.errors.RunError, match=r"patch 0: its class is proven ahead by 0\.0009"):
        ex.issue(record, released=short)


def test_a_name_that_needs_torch_says_how_to_get_it():
    with pytest.raises(ex.errors.MissingExtra, match=r"pip install 'expunge\[torch\]'"):
        _ = ex.unlearn


@pytest.mark.parametrize("arguments", [["calibrate"], ["verify", str(CERTIFICATES[0])]], ids=["calibrate", "verify"])
def test_commands_that_need_no_torch_run(arguments: list[str]):
    done = subprocess.run([sys.executable, "-m", "expunge.cli", *arguments, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")


def test_a_command_that_needs_torch_is_refused_with_the_remedy(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "expunge.cli", "demo", "--out", str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "expunge[" in done.stderr
