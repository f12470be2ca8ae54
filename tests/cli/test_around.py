"""Heuristics and recoveries on the command line: alone, before a noisy unlearner, after one; what fits nowhere is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import run
from expunge import verify

TASK = """
import torch
import expunge as ex
import sample_tasks

def task():
    return sample_tasks.task()

def constrained():
    return ex.recovery.ResilientConstrained(classes=10, level=0.3, epochs=1)

def looser():
    return ex.recovery.ResilientConstrained(classes=10, level=0.5, epochs=1)

def tent():
    return ex.recovery.Tent(stream=ex.Examples(torch.rand(8, 64)))

def number():
    return 3
"""
NOISY = ("--unlearner", "output_perturbation")
RECOVERED = (*NOISY, "--recovery", "mine.py:constrained")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("around")
    (made / "mine.py").write_text(TASK)
    return made


def unlearned(folder: Path, out: str, *words: str) -> dict[str, Any]:
    done = run("unlearn", "mine.py:task", *words, "--out", out, cwd=folder)
    assert done.returncode == 0, done.stderr
    verify(folder / out / "certificate.json", weights=folder / out / "model.safetensors")
    return json.loads((folder / out / "certificate.json").read_text())


def test_a_heuristic_runs_with_its_options_and_nothing_is_proven(folder: Path) -> None:
    content = unlearned(folder, "alone", "--unlearner", "scrub", "--set", "epochs=2", "--set", "alpha=0.25")
    assert content["claim"]["kind"] == "none"
    settings = content["run"]["procedure"]["unlearner"]["settings"]
    assert (settings["epochs"], settings["alpha"]) == (2, 0.25)


def test_a_heuristic_before_and_a_recovery_after_stand_in_the_record_beside_the_same_proof(folder: Path) -> None:
    plain = unlearned(folder, "plain", *NOISY)
    content = unlearned(folder, "both", *RECOVERED, "--start", "fine_tune", "--set", "epochs=1")
    assert content["claim"] == plain["claim"]
    procedure = content["run"]["procedure"]
    assert (procedure["start"]["name"], procedure["start"]["settings"]["epochs"]) == ("fine_tune", 1)
    assert procedure["recovery"]["name"] == "resilient_constrained"


def test_an_audit_repeats_the_recovery_that_it_is_given_and_refuses_another(folder: Path) -> None:
    unlearned(folder, "recovered", *RECOVERED)
    words = ("audit", "mine.py:task", "--certificate", "recovered/certificate.json", "--quick", "--no-shadows")
    for more, reason in (
        ((), "give the object that it ran with: --recovery"),
        (("--recovery", "mine.py:looser"), "contradicts the certificate's record"),
    ):
        done = run(*words, *more, "--out", "other.json", cwd=folder)
        assert done.returncode != 0
        assert reason in done.stderr
        assert not (folder / "other.json").exists()
    done = run(*words, "--recovery", "mine.py:constrained", cwd=folder)
    assert done.returncode in (0, 4), done.stderr
    assert (folder / "audit.json").exists()


def test_a_plan_counts_what_stands_around_and_says_the_call_that_takes_it(folder: Path) -> None:
    words = ("plan", "mine.py:task", "--start", "fine_tune", "--set", "epochs=1", "--recovery", "mine.py:constrained")
    done = run(*words, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    reads = {one["unlearner"]: one["reads"] for one in json.loads(done.stdout)["quotes"]}
    assert "before the clip" in reads["output_perturbation"]
    assert "before the clip" not in reads["retrain"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("unlearn", "--unlearner", "retrain", "--recovery", "mine.py:constrained"), "'retrain' takes no --recovery"),
        (("unlearn", "--unlearner", "scrub", "--recovery", "mine.py:constrained"), "'scrub' takes no --recovery"),
        (("unlearn", "--unlearner", "retrain", "--start", "jit"), "'retrain' takes no --start"),
        (("unlearn", "--unlearner", "retrain", "--set", "epochs=1"), "is an option of a heuristic"),
        (("unlearn", "--recovery", "mine.py:constrained"), "--recovery needs --unlearner"),
        (("unlearn", *NOISY, "--recovery", "mine.py:number"), "must return an expunge.recovery.Recovery, not 3"),
        (("unlearn", *NOISY, "--recovery", "mine.py:nothing"), "has no function 'nothing'"),
        (("unlearn", *NOISY, "--recovery", "constrained"), "name a recovery as module:function"),
        (("unlearn", *RECOVERED, "--epochs", "2"), "epochs=2.0 would do nothing"),
        (
            ("unlearn", *NOISY, "--recovery", "mine.py:tent"),
            "changes the affine parameters of normalisation layers alone",
        ),
        (("plan", "--set", "epochs=1"), "of the heuristic of --start"),
    ],
    ids=" ".join,
)
def test_what_would_do_nothing_is_refused_and_nothing_is_written(
    folder: Path, words: tuple[str, ...], reason: str
) -> None:
    command, *more = words
    out = ("--out", "refused") if command == "unlearn" else ()
    done = run(command, "mine.py:task", *more, *out, cwd=folder, columns=500)
    assert done.returncode != 0
    assert reason in done.stderr
    assert not (folder / "refused").exists()
