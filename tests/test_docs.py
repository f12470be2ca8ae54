"""What the pages say runs, and every command is on the first page."""

import re
from pathlib import Path

import pytest

from expunge.accounting import MECHANISMS
from expunge.cli.commands import app
from expunge.jobs.digits import digits
from expunge.unlearners.executors import EXECUTORS

ROOT = Path(__file__).parent.parent
BLOCKS = [
    pytest.param(code, id=f"{path.name}-{k}")
    for path in (ROOT / "README.md", ROOT / "docs" / "concepts.md", ROOT / "docs" / "contracts.md")
    for k, code in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.S | re.M))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_the_code_on_the_page_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    task = digits(0)
    exec(
        compile(code, "page", "exec"),
        {"model": task.model, "retain": task.retain, "loss": task.loss, "forget": task.forget},
    )


def test_every_command_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.callback.__name__
        assert f"expunge {name}" in text or f"make {name}" in text, name


def test_every_mechanism_has_an_executor_and_a_page():
    # These start from a fresh model, from sums or from a trace, and have verbs of their own; the last proves nothing.
    others = {
        "retrain",
        "dp_training",
        "exact_ridge",
        "grid_ridge",
        "measured_residual",
        "replay",
        "undeclared_features",
    }
    assert {m.name for m in EXECUTORS} | others == set(MECHANISMS)
    for name in set(MECHANISMS) - {
        "undeclared_features",
        "grid_ridge",
    }:  # the latter is on the page of its lane, exact_ridge
        assert (ROOT / "docs" / "methods" / f"{name}.md").is_file()
