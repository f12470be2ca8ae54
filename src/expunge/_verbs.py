"""A room that is also a verb: `expunge.audit` holds bounds and findings, and `expunge.audit(task, certificate)` attacks."""

import importlib
import sys
from types import ModuleType
from typing import Any

from expunge.errors import MissingExtra

__all__ = ["also_a_verb"]

_JOBS = {"expunge.audit": ("expunge.jobs.audits", "audit")}  # where the verb is; it needs torch, the room does not


class _Verb(ModuleType):
    def __call__(self, *of: Any, **how: Any) -> Any:
        module, verb = _JOBS[self.__name__]
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise MissingExtra(f"{self.__name__}(...) needs torch: pip install 'expunge[torch]'") from error
        return getattr(found, verb)(*of, **how)


def also_a_verb(room: str) -> None:
    """Let the module of this name be called: importing it would else hide the verb of the same name."""
    sys.modules[room].__class__ = _Verb
