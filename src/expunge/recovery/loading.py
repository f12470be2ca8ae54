"""The recovery of a file, for the command line."""

from expunge.errors import TaskError
from expunge.recovery.protocol import Recovery
from expunge.training.task import returned_by

__all__ = ["load_recovery"]


def load_recovery(where: str) -> Recovery:
    """Call the function named by `module:function` or `path/to/file.py:function`, which returns a recovery.

    Raises:
        TaskNotFound: no such file, module or function.
        TaskError: it returns something else than a `Recovery`.
    """
    found = returned_by(where, "a recovery")
    if not isinstance(found, Recovery) or isinstance(found, type):
        raise TaskError(f"{where} must return an expunge.recovery.Recovery, not {found!r:.100}")
    return found
