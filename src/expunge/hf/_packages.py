"""Packages of Hugging Face, imported when they are needed."""

import importlib
from typing import Any

from expunge.errors import MissingExtra

__all__ = ["package"]


def package(name: str) -> Any:
    """A package of the extra `hf`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise MissingExtra(f"expunge.hf needs {name}: pip install 'expunge[hf]'") from error
