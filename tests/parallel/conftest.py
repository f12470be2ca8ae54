"""The worlds that all tests of this folder look at, made once."""

from pathlib import Path
from typing import Any

import pytest

from worlds import run_worlds

Worlds = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="session")
def worlds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worlds left their state files."""
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="session")
def worlds(worlds_folder: Path) -> Worlds:
    """Size -> what each of its workers found, by scenario of `shared_runs`."""
    return run_worlds("shared_runs", worlds_folder, (2, 1, 3))  # two first: the others go on from their state files
