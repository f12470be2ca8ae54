"""Whose code something is: the user's, which is followed, or a library's, which is named with its version."""

import functools
import site
import sys
import sysconfig
import types
from pathlib import Path

__all__ = ["is_library_class", "is_library_function", "is_library_module", "label", "of_library"]

_INSTALLED = ("site-packages", "dist-packages")


@functools.cache
def _places() -> tuple[Path, ...]:
    """Folders of Python's own library and of what was installed."""
    names = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found = [*names, *site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parent)]
    return tuple({Path(place).resolve() for place in found if place})


@functools.lru_cache(maxsize=65536)
def of_library(file: str) -> bool:
    """Whether a source file belongs to a library, Python's own and expunge's included."""
    if file.startswith("<frozen"):
        return True
    path = Path(file).resolve()
    return any(part in _INSTALLED for part in path.parts) or any(path.is_relative_to(place) for place in _places())


def _library_name(name: str) -> bool:
    module = sys.modules.get(name)
    if name == "__main__":
        return False
    if module is not None:
        return is_library_module(module)
    return name.partition(".")[0] in sys.stdlib_module_names


def is_library_module(module: types.ModuleType) -> bool:
    """Whether a module comes from a library: by its file, or built into the interpreter."""
    if module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return of_library(file)
    top = module.__name__.partition(".")[0]
    parent = sys.modules.get(top)
    if parent is not None and parent is not module and getattr(parent, "__file__", None):
        return is_library_module(parent)  # e.g. torch.ops, or a folder without a file of its own
    return top in sys.stdlib_module_names or top in sys.builtin_module_names or _installed_folder(module)


def _installed_folder(module: types.ModuleType) -> bool:
    folders = list(getattr(module, "__path__", []))
    return bool(folders) and all(of_library(str(folder)) for folder in folders)


def is_library_function(function: types.FunctionType) -> bool:
    """Whether a function's own code lies in a library, whatever a decorator wrote into its name."""
    file = function.__globals__.get("__file__")
    if isinstance(file, str) and function.__globals__.get("__name__") != "__main__":
        return of_library(file)
    return _library_name(str(function.__globals__.get("__name__", "")))


def is_library_class(kind: type) -> bool:
    """Whether a class was made by a library: by where its own methods lie, or else by the name of its module."""
    for method in vars(kind).values():
        if isinstance(method, types.FunctionType) and method.__globals__.get("__name__") == kind.__module__:
            return is_library_function(method)
    return _library_name(str(kind.__module__))  # a few classes of C have no text there


def label(value: object) -> str:
    """The full name of something of a library, with the library's version."""
    if isinstance(value, types.ModuleType):
        return f"{value.__name__} {_version(value.__name__)}".strip()
    module = getattr(value, "__module__", None) or ""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    return f"{module}.{name} {_version(str(module))}".strip().removeprefix("builtins.")


@functools.cache
def _version(name: str) -> str:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return ""  # Python's own, which the trace knows
    found = getattr(sys.modules.get(top), "__version__", None)
    if isinstance(found, str):
        return found
    from importlib.metadata import (  # late: the command line needs this file, and no versions
        PackageNotFoundError,
        version,
    )

    try:
        return version(top)
    except (PackageNotFoundError, ValueError):
        return ""
