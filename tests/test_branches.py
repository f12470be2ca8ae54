"""No code asks which method it has before it: names and classes of methods stand where they are made, and nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import expunge
from expunge.accounting import MECHANISMS
from expunge.unlearners.table import UNLEARNERS

SOURCE = Path(expunge.__file__).parent
METHODS = {*MECHANISMS, *UNLEARNERS}
CLASSES = {kind.__name__ for kind in (*MECHANISMS.values(), *UNLEARNERS.values())}
OWN = {f"{room}/{name}.py" for room in ("accounting/mechanisms", "unlearners") for name in METHODS}

TABLE = "a closed table, from which the rest is made"
FROZEN = "a word that files made before carry"
OTHERWISE = "the word has another meaning there"
OWN |= {"unlearners/plain.py", "unlearners/heuristics/base.py"}  # of the mechanism `unproven`
OWN |= {"unlearners/heuristics/prune.py", "accounting/patches.py"}
ALLOWED = {
    "accounting/mechanisms/__init__.py": TABLE,
    "unlearners/table.py": TABLE,
    "unlearners/options.py": TABLE,
    "unlearners/executors.py": TABLE,
    "unlearners/__init__.py": TABLE,
    "heads/analytic.py": FROZEN,
    "heads/convex.py": FROZEN,
    "report/earlier.py": FROZEN,
    "_formerly.py": OTHERWISE,  # the verb `retrain`
    "testing/executors.py": OTHERWISE,  # a check that runs a seed again
    "testing/recoveries.py": OTHERWISE,  # likewise
}


def class_of(node: ast.expr) -> str | None:
    """The class that an expression names, if it is a method's."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    return name if name in CLASSES else None


def classes_in(node: ast.AST) -> Iterator[str]:
    yield from (name for inner in ast.walk(node) if isinstance(inner, ast.expr) and (name := class_of(inner)))


def branches(code: str) -> Iterator[str]:
    """Where code could tell methods apart: their names as strings, tests of type, and tables by class."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Constant(value=str(text)) if text in METHODS:
                yield f"{node.lineno}: {text!r}"
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
                yield from (f"{node.lineno}: a test for {name}" for name in classes_in(kinds))
            case ast.Compare(comparators=others):
                yield from (f"{node.lineno}: a comparison with {name}" for one in others for name in classes_in(one))
            case ast.MatchClass(cls=kind):
                yield from (f"{kind.lineno}: a case of {name}" for name in classes_in(kind))
            case ast.Dict(keys=keys):
                yield from (f"{node.lineno}: an entry for {name}" for key in keys if key for name in classes_in(key))
            case _:
                pass


@pytest.mark.parametrize(
    "code",
    [
        'if mechanism.name == "gradient_clipping": pass',
        'found["retrain"] = 1',
        "isinstance(mechanism, GradientClipping)",
        "isinstance(way, (int, ex.unlearners.Retraining))",
        "kind is DPTraining",
        "name == ex.Retrain.name",
        "name in (Replay.name, GridRidge.name)",
        "remedies = {Retrain: 1}",
        "match mechanism:\n    case GradientClipping(): pass",
    ],
)
def test_the_check_sees_a_branch(code: str):
    assert list(branches(code))


def test_making_a_method_is_no_branch():
    assert not list(branches("ways = [GradientClipping(steps=3), Retraining(epochs=1)]\nname = ways[0].name"))


def test_no_file_but_its_own_and_the_tables_tells_a_method_from_others():
    found = {
        place: told
        for path in SOURCE.rglob("*.py")
        if (place := path.relative_to(SOURCE).as_posix()) not in OWN and (told := list(branches(path.read_text())))
    }
    assert {place: told for place, told in found.items() if place not in ALLOWED} == {}
    assert set(ALLOWED) <= set(found), "an exception without use"
