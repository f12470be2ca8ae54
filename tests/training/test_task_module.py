"""A task's file is imported as a script would be: with what lies beside it, and nothing of another folder's."""

import sys
from pathlib import Path

import pytest

from expunge.errors import TaskError
from expunge.training import task_module
from expunge.training.task_module import module_of


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch):
    """Modules, path and the room's memory as they were."""
    monkeypatch.setattr(task_module, "_folders", [])
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]
    sys.path[:] = path


def folder(where: Path, says: str) -> Path:
    where.mkdir()
    (where / "beside.py").write_text(f"def who(): return {says!r}\n")
    (where / "main.py").write_text("import beside\ndef who(): return beside.who()\n")
    (where / "late.py").write_text("def who():\n    import beside\n    return beside.who()\n")
    return where


def test_a_file_imports_what_lies_beside_it(tmp_path: Path) -> None:
    assert module_of(str(folder(tmp_path / "a", "a") / "main.py")).who() == "a"


def test_a_relative_path_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "a", "a")
    monkeypatch.chdir(tmp_path)
    assert module_of("a/late.py").who() == "a"
    monkeypatch.chdir(tmp_path / "a")
    assert module_of("main.py").who() == "a"


def test_two_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    """The names beside them too: the second one's are not the first one's."""
    one, other = (folder(tmp_path / name, name) for name in "ab")
    first = module_of(str(one / "main.py"))
    assert module_of(str(other / "main.py")).who() == "b"
    assert module_of(str(other / "late.py")).who() == "b"
    assert first.who() == "a"
    assert module_of(str(one / "late.py")).who() == "a"
    assert sys.path.count(str(one)) == 1
    assert str(other) not in sys.path


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    main = folder(tmp_path / "a", "a") / "main.py"
    module_of(str(main))
    main.write_text("def who(): return 'changed'\n")
    assert module_of(str(main)).who() == "changed"


def test_a_file_named_as_another_module_takes_nothing_from_it(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("from dataclasses import dataclass\n@dataclass\nclass Of:\n    x: int\n")
    import json

    made = module_of(str(tmp_path / "json.py"))
    assert made.Of(1).x == 1
    assert sys.modules["json"] is json
    assert sys.modules[made.__name__] is made


def test_a_file_that_fails_leaves_no_half_module(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nraise ZeroDivisionError('mine')\n")
    with pytest.raises(ZeroDivisionError, match="mine"):
        module_of(str(tmp_path / "broken.py"))
    assert "broken" not in sys.modules


@pytest.mark.parametrize("name", ["nowhere.py", "no_such_module", "expunge.nothing"])
def test_what_is_not_there_is_said(name: str) -> None:
    with pytest.raises(TaskError, match=r"no such file|no module named"):
        module_of(name)


def test_a_module_that_a_file_lacks_is_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        module_of(str(tmp_path / "needs.py"))
