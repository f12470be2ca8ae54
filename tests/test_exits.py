"""What a command leaves the shell with: whose mistake it was, and where."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge import exits
from expunge._origins import of_library
from expunge.cli import commands as cli
from expunge.errors import RunError

TASK = """
import torch, torch.nn as nn, torch.nn.functional as F, expunge as ex

def rows(n, p):
    x = torch.randn(n, 8)
    return ex.Examples(x, x[:, :3].argmax(1), ids=[p + str(i) for i in range(n)])

def plain(m, b):
    return F.cross_entropy(m(b[0]), b[1])

def task(**changes):
    parts = dict(model=nn.Linear(8, 3), make_model=lambda: nn.Linear(8, 3), retain=rows(60, "r"), forget=rows(20, "f"),
                 held_out=rows(20, "h"), loss=plain, features=lambda z: z.double(), provenance="raw")
    return ex.Task(**parts | changes)

def in_the_task():
    return task(model=nn.Linear(int("eight"), 3))

def in_a_call_of_expunge():
    return task(retain=ex.Examples(torch.zeros(3), torch.zeros(4)))

def bad_loss(m, b):
    return helper(m, b)

def helper(m, b):
    return F.cross_entropy(m(b[0][:, :4]), b[1])

def in_the_loss():
    return task(loss=bad_loss)

def bad_model():
    return {}["layers"]

def in_make_model():
    return task(make_model=bad_model)

def bad_features(x):
    raise RuntimeError("no such feature")

def in_the_features():
    return task(features=bad_features)

def no_scalar(m, b):
    return m(b[0])

def with_a_loss_that_is_no_number():
    return task(loss=no_scalar)

def no_task():
    return 3

def refused_inside():
    return task(model=3)

def that_ends_the_program():
    raise SystemExit(0)

def with_a_long_message():
    raise ValueError(f"these are wrong: {torch.arange(900.).reshape(30, 30).tolist()}")

def interrupted():
    raise KeyboardInterrupt
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line; exit code and standard error."""
    (tmp_path / "mine.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["expunge", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), capsys.readouterr().err

    return call


def first(said: str) -> str:
    """The line that says whose error it was."""
    return next(line for line in said.splitlines() if line.startswith("error in your code, "))


@pytest.mark.parametrize(
    ("task", "options", "frames", "message"),
    [
        ("in_the_task", (), ["in_the_task"], "ValueError: invalid literal for int() with base 10: 'eight'"),
        ("in_a_call_of_expunge", (), ["in_a_call_of_expunge"], "must have the same length"),
        ("in_the_loss", ("--steps", "3"), ["bad_loss", "helper"], "RuntimeError: mat1 and mat2 shapes"),
        ("in_make_model", ("--unlearner", "retrain"), ["bad_model"], "KeyError: 'layers'"),
        ("in_the_features", ("--unlearner", "grid_ridge"), ["bad_features"], "RuntimeError: no such feature"),
        ("that_ends_the_program", (), ["that_ends_the_program"], "SystemExit: 0"),
    ],
)
def test_an_error_in_the_users_code_shows_its_frames_and_no_others(run, tmp_path, task, options, frames, message):
    code, said = run("unlearn", f"mine.py:{task}", "--out", "out", "--unlearner", "gradient_clipping", *options)
    assert code == 3
    assert message in said
    assert [line.split(" in ")[-1] for line in said.splitlines() if line.startswith("  File")] == frames
    assert f" in {frames[-1]}: " in first(said)
    assert "site-packages" not in said
    assert "expunge/" not in said.replace(str(tmp_path), "")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("unlearn", "mine.py:task", "--out", "out", "--epsilon", "-1"), 2, "error: epsilon must be"),
        (("unlearn", "mine.py:absent", "--out", "out"), 2, "error: mine.py has no function 'absent'"),
        (("unlearn", "nowhere.py:task", "--out", "out"), 2, "error: no such file: nowhere.py"),
        (("unlearn", "nowhere:task", "--out", "out"), 2, "error: no module named 'nowhere' here"),
        (("unlearn", "mine.py", "--out", "out"), 2, "error: name a task as module:function"),
        (("unlearn", "mine.py:task", "--out", "nowhere/out"), 2, "there is no folder 'nowhere' to make it in"),
        (("unlearn", "mine.py:no_task", "--out", "out"), 1, "refused: mine.py:no_task must return an expunge.Task"),
        (("unlearn", "mine.py:refused_inside", "--out", "out"), 1, "task.model must be a torch.nn.Module"),
        (
            ("unlearn", "mine.py:with_a_loss_that_is_no_number", "--out", "out", "--unlearner", "gradient_clipping"),
            2,
            "must return a scalar tensor",
        ),
        (("unlearn", "mine.py:interrupted", "--out", "out"), 130, ""),
        (("unlearn", "mine.py:task", "--out", "out", "--no-such-option"), 2, "No such option"),
    ],
)
def test_a_mistake_in_the_call_a_refusal_and_an_interruption_have_codes_of_their_own(run, words, code, message):
    found, said = run(*words)
    assert found == code, said
    assert message in said
    assert "Traceback" not in said


def test_a_refusal_says_where_the_users_code_asked_for_it(run):
    _, said = run("unlearn", "mine.py:refused_inside", "--out", "out")
    assert "mine.py:" in said
    assert "in task)" in said


def test_a_file_that_is_no_python_is_the_users_error(run, tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ndef task(:\n")
    code, said = run("unlearn", "broken.py:task", "--out", "out")
    assert code == 3
    assert first(said).startswith(f"error in your code, {tmp_path / 'broken.py'}:2 in <module>: SyntaxError: ")
    assert "def task(:" in said


def test_an_array_in_a_message_is_cut_short_and_debug_shows_it_and_every_frame(run):
    code, said = run("unlearn", "mine.py:with_a_long_message", "--out", "out")
    assert code == 3
    assert "ValueError: these are wrong: [[0.0, 1.0, " in first(said)
    assert "expunge --debug shows it whole" in said
    assert "899.0" not in said
    assert "load_task" not in said
    code, said = run("--debug", "unlearn", "mine.py:with_a_long_message", "--out", "out")
    assert code == 3
    assert "899.0" in said
    assert "in load_task" in said
    assert said.splitlines()[-1].startswith("error in your code, ")


def test_debug_shows_where_a_refusal_and_a_mistake_come_from(run):
    for task, code in (("refused_inside", 1), ("absent", 2)):
        assert "Traceback" not in run("unlearn", f"mine.py:{task}", "--out", "out")[1]
        found, said = run("--debug", "unlearn", f"mine.py:{task}", "--out", "out")
        assert found == code
        assert said.startswith("Traceback")


def fails(error: BaseException) -> Callable[..., None]:
    """Code of a library, as far as anyone can see, that fails."""
    space: dict[str, object] = {"error": error}
    exec(compile("def fail(*a, **k):\n    raise error", exits.__file__, "exec"), space)
    return space["fail"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("inner"), 5, "this is a fault of expunge, not of yours: please report it"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "pip install 'expunge[torch]'"),
        (ModuleNotFoundError("No module named 'other'", name="other"), 5, "No module named 'other'"),
        (PermissionError(13, "Permission denied", "secret.json"), 1, "refused: secret.json: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "a.json"), 2, "error: a.json: No such file or directory"),
        (RunError("it went otherwise"), 1, "refused: it went otherwise"),
        (ValueError("steps must be 1 or more"), 2, "error: steps must be 1 or more"),
    ],
)
def test_an_error_without_a_frame_of_the_user_is_told_by_its_kind(run, monkeypatch, error, code, message):
    monkeypatch.setattr(cli, "app", fails(error))
    found, said = run()
    assert found == code, said
    assert message in said
    assert ("Traceback" in said) == (code == 5)


def test_files_of_libraries_are_told_from_ones_own(tmp_path):
    assert of_library(pytest.__file__)
    assert of_library(exits.__file__)
    assert of_library("<frozen importlib._bootstrap>")
    assert not of_library(str(tmp_path / "mine.py"))
    assert not of_library(__file__)
