"""A new task file runs as it stands."""

import json
from pathlib import Path

import pytest

from commands import run
from expunge.cli.commands.demos import Starter

# Of the released model, whose noise is drawn in secret: well above the share of the most frequent class.
CHANCE = {"vision": 0.2, "tabular": 0.45, "dict": 0.45}


@pytest.mark.parametrize("kind", list(Starter))
def test_plan_and_unlearn_run_on_a_new_file(kind: str, tmp_path: Path):
    assert run("init", "mine.py", "--kind", str(kind), cwd=tmp_path).stdout.startswith("wrote mine.py")
    done = run("plan", "mine.py:task", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    applies = {way["unlearner"] for way in json.loads(done.stdout)["quotes"] if way["applies"]}
    assert {"retrain", "gradient_clipping", "output_perturbation"} <= applies
    assert ("grid_ridge" in applies) is (kind != "dict")
    done = run("unlearn", "mine.py:task", "--out", "x", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["epsilon"] <= 1
    assert summary["accuracy"]["original"]["held_out"] > 0.75
    assert summary["accuracy"]["released"]["held_out"] > CHANCE[kind]
    assert run("verify", "x/certificate.json", "--weights", "x/model.safetensors", cwd=tmp_path).returncode == 0


def test_a_file_that_is_there_is_left_alone(tmp_path: Path):
    (tmp_path / "task.py").write_text("mine")
    done = run("init", cwd=tmp_path)
    assert (done.returncode, "task.py exists already and is not overwritten" in done.stderr) == (1, True)
    assert (tmp_path / "task.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("task.txt",), "out must end in .py, not be 'task.txt'"),
        (("nowhere/task.py",), "there is no folder 'nowhere'"),
        (("--kind", "audio"), "'audio' is not one of"),
    ],
)
def test_a_mistake_in_the_call_writes_nothing(words: tuple[str, ...], reason: str, tmp_path: Path):
    done = run("init", *words, cwd=tmp_path)
    assert (done.returncode, reason in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert not list(tmp_path.iterdir())


def test_the_next_commands_are_ones_that_a_shell_takes(tmp_path: Path):
    (tmp_path / "a folder").mkdir()
    done = run("init", "a folder/task.py", cwd=tmp_path)
    assert "expunge plan 'a folder/task.py:task'" in done.stdout
