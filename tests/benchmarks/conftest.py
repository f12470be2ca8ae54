"""The scripts of benchmarks/paper import one another as neighbours; here they are modules of a test's own."""

import importlib
import sys
from pathlib import Path

import pytest

PAPER = Path(__file__).parents[2] / "benchmarks" / "paper"


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
