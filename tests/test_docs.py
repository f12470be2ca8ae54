"""What the pages say runs; what they link to is there; and every name of the surface, command and page has its place."""

import ast
import importlib
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import expunge
from commands import run
from expunge.accounting import MECHANISMS, WITHDRAWN, Mechanism
from expunge.cli.commands import app
from expunge.jobs.digits_task import digits
from expunge.unlearners.executors import EXECUTORS
from expunge.unlearners.options import NAMES
from expunge.unlearners.table import UNLEARNERS

ROOT = Path(__file__).parent.parent
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "expunge"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

BLOCK = re.compile(r'^```(python|sh)(?: title="([\w.]+)")?\n(.*?)^```', flags=re.S | re.M)
FIRST = BLOCK.findall((ROOT / "README.md").read_text())
RUN = [path for path in PAGES if any(block not in FIRST for block in BLOCK.findall(path.read_text()))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [ROOT / "README.md", *RUN], ids=name)
def test_the_code_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Blocks of a page run in their order and share their names; a block with a title is a file; sh calls commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    task = digits(0)
    names = {"model": task.model, "retain": task.retain, "loss": task.loss, "forget": task.forget, "__name__": "page"}
    before = set(sys.modules)
    own = {Path(title).stem for _, title, _ in BLOCK.findall(page.read_text()) if title}
    for language, title, code in BLOCK.findall(page.read_text()):
        if title:
            (tmp_path / title).write_text(code)
        elif language == "python":
            exec(compile(code, name(page), "exec"), names)
        else:
            for line in code.splitlines():
                called, *words = line.split()
                assert called == "expunge", line
                done = run(*words, cwd=tmp_path)
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    for module in own & (set(sys.modules) - before):  # another page may name its files alike
        del sys.modules[module]


def test_every_command_is_on_the_page_of_commands():
    text = (DOCS / "commands.md").read_text()
    names = app.list_commands(click.Context(app))
    assert "verify" in names
    assert not [name for name in names if f"| `expunge {name} " not in text]


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


# The site


def leaves(nav: list[dict[str, str | list[dict[str, str]]]]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from leaves(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_of_the_site_once():
    nav = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(nav) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M))


def anchors(page: Path) -> set[str]:
    """Of its headings, where GitHub and the site agree on them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower()
        kept = re.sub(r"[^\w\s-]", "", plain)
        if kept == unicodedata.normalize("NFKD", kept).encode("ascii", "ignore").decode() and "  " not in kept:
            found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_every_link_and_anchor_of_the_page_is_there(page: Path):
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and (there.suffix != ".md" or anchor not in anchors(there))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_a_way_to_unlearn_has_one_name_on_the_page(page: Path):
    """The glossary's, "unlearner"; it was called a lane once."""
    assert not re.search(r"\blanes?\b", prose(page), flags=re.I)


# The reference


def on_api_pages() -> dict[str, object]:
    """What the API pages show, by the name that they give it."""
    found: dict[str, object] = {}
    for page in (DOCS / "api").glob("*.md"):
        for dotted in re.findall(r"^::: ([\w.]+)$", page.read_text(), flags=re.M):
            found[dotted] = resolved(dotted)
    return found


def resolved(dotted: str) -> object:
    parent, _, last = dotted.rpartition(".")
    module = importlib.import_module(parent)
    return getattr(module, last) if hasattr(module, last) else importlib.import_module(dotted)


_LAYERS = sorted(set(dir(expunge)) - set(expunge.__all__))
# A text; and functions on mechanisms, whose namesakes in `certificate` take certificates too and are on the pages.
_ELSEWHERE = {
    "expunge": {"__version__"}, "expunge.certificate": {"SCHEMA"}, "expunge.accounting": {"compose", "remaining", "requests_left"},
}  # fmt: skip


@pytest.mark.parametrize("room", [expunge, *(getattr(expunge, layer) for layer in _LAYERS)], ids=["expunge", *_LAYERS])
def test_every_public_name_is_on_an_api_page(room):
    shown = list(on_api_pages().values())
    within = [vars(module)[n] for module in shown if hasattr(module, "__all__") for n in module.__all__]
    shown_ids = {id(one) for one in (*shown, *within)}
    assert not [
        n for n in room.__all__ if n not in _ELSEWHERE.get(room.__name__, ()) and id(getattr(room, n)) not in shown_ids
    ]


def test_no_module_is_named_after_a_function_that_it_holds():
    """`from room import name` would else give the module or the function, depending on what was imported before."""
    named = [
        path.relative_to(SOURCE)
        for path in SOURCE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == path.stem
    ]
    assert not named


# Methods


@pytest.mark.parametrize("method", NAMES)
def test_a_method_is_found_by_its_name_in_five_places(method: str):
    """Theorem, run, tests, page with its statement, and the row of the table: no list of exceptions."""
    assert UNLEARNERS[method].__module__ == f"expunge.unlearners.{method}"
    assert MECHANISMS[method].__module__ == f"expunge.accounting.mechanisms.{method}"
    assert method not in WITHDRAWN
    assert (ROOT / "tests" / "accounting" / f"test_{method}.py").is_file()
    assert MECHANISMS[method].proof == f"docs/methods/{method}.md#statement"


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=list(MECHANISMS))
def test_a_mechanism_names_the_place_of_its_proof(mechanism: type[Mechanism]):
    page, _, anchor = mechanism.proof.partition("#")
    assert anchor in anchors(ROOT / page)


def test_every_mechanism_with_steps_on_the_weights_has_an_executor():
    # The others start from a fresh model, from sums or from a trace; the last proves nothing.
    others = {
        "retrain",
        "dp_training",
        "exact_ridge",
        "grid_ridge",
        "measured_residual",
        "replay",
        "undeclared_features",
        "unproven",
        "prune",
    }
    assert {m.name for m in EXECUTORS} | others == set(MECHANISMS)
