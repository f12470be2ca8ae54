"""Run by `make test` in an environment that has the base install and no torch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import expunge as ex
from expunge.accounting import MECHANISMS
from expunge.audit import Audit, Counts, Finding
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
    newer = {"grid_ridge"}  # of schema 2
    assert {path.stem for path in CERTIFICATES} == set(MECHANISMS) - newer


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
