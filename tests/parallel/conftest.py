"""The worlds that all tests of this folder look at, made once."""

from pathlib import Path
from typing import Any

import pytest

from worlds import run_worlds

Worlds = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Size -> what each of its workers found, by scenario of `shared_runs`."""
    folder: Path = tmp_path_factory.mktemp("worlds")
    return run_worlds("shared_runs", folder, (1, 2, 3))
