"""The module that a task's name names, imported as Python would: the folder of a file counts as that of a script."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from expunge.errors import TaskNotFound

__all__ = ["module_of"]

_HERE = ""  # on sys.path: the folder one stands in
_folders: list[str] = []  # of the last task file, where there was one
_before: set[str] = set()  # modules that are not those of task files


def module_of(name: str) -> ModuleType:
    """Import `path/to/file.py`, anew each time, or `package.module`.

    What lies beside a file can be imported by it, as it can by `python file.py`; what an earlier file of another folder
    brought under the same name is forgotten first.

    Raises:
        TaskNotFound: no such file or module.
    """
    if name.endswith(".py"):
        return _file(Path(name), name)
    if _HERE not in sys.path:
        sys.path.insert(0, _HERE)  # as `python -m` does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise TaskNotFound(
            f"no module named {name!r} here; give a path to a .py file, or run where it can be imported"
        ) from error


def _file(given: Path, name: str) -> ModuleType:
    path = given.resolve()
    if not path.is_file():
        raise TaskNotFound(f"no such file: {name}")
    _enter(str(path.parent))
    known = _name_for(path)
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module, replaced = importlib.util.module_from_spec(spec), sys.modules.get(known)
    sys.modules[known] = module  # before it runs: dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        if replaced is not None:
            sys.modules[known] = replaced
        raise
    return module


def _name_for(path: Path) -> str:
    """The file's stem, as for an import of it; another name where that is another module's."""
    held = sys.modules.get(path.stem)
    where = None if held is None else getattr(held, "__file__", None)
    if held is None or (where is not None and Path(where).resolve() == path):
        return path.stem
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _enter(folder: str) -> None:
    """Make a folder the first that is searched, in the place of the task file's folder before it."""
    if not _folders:
        _before.update(sys.modules)
    elif folder != _folders[0]:
        for name in _brought(_folders[0]):
            del sys.modules[name]
        if _folders[0] in sys.path:
            sys.path.remove(_folders[0])  # one entry, ours; others stay
    if folder not in _folders:
        sys.path.insert(0, folder)
    _folders[:] = [folder]
    importlib.invalidate_caches()


def _brought(folder: str) -> list[str]:
    """Modules that lie in a folder and came with its task file: their names may mean others now."""
    tops = {
        name
        for name, module in sys.modules.items()
        if "." not in name and name not in _before and _lies_in(module, folder)
    }
    return [name for name in sys.modules if name.partition(".")[0] in tops]


def _lies_in(module: ModuleType, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    places = [*getattr(module, "__path__", ())] or ([] if file is None else [file])
    return any(str(Path(place).resolve().parent) == folder for place in places)
