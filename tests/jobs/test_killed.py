"""Killed at any moment, with another process at the same folder: the next call goes on, and what is left is whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "killed.py"


def killed(job: str, moments: int, folder: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), job, str(moments), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("job", ["unlearn", "rewind"])
def test_of_two_processes_one_is_told_who_is_at_work_and_a_kill_leaves_nothing_broken(job: str, tmp_path: Path) -> None:
    told = killed(job, 3, tmp_path)
    assert told["killed"] + told["told who holds it"] >= 1


@pytest.mark.long
@pytest.mark.parametrize("job", ["unlearn", "rewind"])
def test_at_sixty_moments_a_kill_leaves_nothing_broken(job: str, tmp_path: Path) -> None:
    told = killed(job, 60, tmp_path)
    assert told["killed"] >= 30
    assert told["told who holds it"] >= 30
