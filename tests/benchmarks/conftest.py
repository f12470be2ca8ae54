"""The scripts of benchmarks and of benchmarks/paper import one another as neighbours; here they are modules of a test's own."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAPER = BENCHMARKS / "paper"
OURS = ("environment", "leaderboard", "leaders", "paper")


@pytest.fixture(scope="module")
def ours():
    """Importer of the leaderboard's modules, which a test module has for itself."""
    _forget_ours()
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    _forget_ours()


def _forget_ours():
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


@pytest.fixture
def paper(monkeypatch):
    """Importer of a script by its name."""
    for script in PAPER.glob("*.py"):
        monkeypatch.delitem(sys.modules, script.stem, raising=False)
    monkeypatch.syspath_prepend(PAPER)
    yield importlib.import_module
    for script in PAPER.glob("*.py"):
        sys.modules.pop(script.stem, None)


@pytest.fixture
def data(paper):
    return paper("data")


@pytest.fixture
def studies(paper):
    return paper("studies")
