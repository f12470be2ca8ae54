"""What a command leaves the shell with: an exit code and a message for each kind of error.

0    done
1    refused: a guarantee, certificate, model, file or folder
2    a mistake in the call
3    an error in the user's own code, of which the frames are shown and no others
4    an audit that could have refuted nothing
5    a fault of expunge's own, with the whole traceback
130  interrupted
"""

import contextlib
import sys
import traceback
from types import TracebackType

from rich.console import Console

from expunge._origins import of_library
from expunge.errors import ExpungeError

__all__ = ["INTERRUPTED", "NOTHING_TESTED", "exit_codes"]

REFUSED, MISTAKE, YOURS, NOTHING_TESTED, OURS, INTERRUPTED = 1, 2, 3, 4, 5, 130


class exit_codes(contextlib.AbstractContextManager[None]):  # noqa: N801 - a context manager reads as a verb
    """Turn errors of a block into messages on standard error and exit codes."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Exit, where there is an error that does not say itself with which code."""
        if isinstance(error, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        if isinstance(error, Exception):
            sys.exit(_told(error, _yours(trace)))


def _told(error: Exception, yours: list[traceback.FrameSummary]) -> int:
    """Say what happened; the exit code."""
    if isinstance(error, ExpungeError):
        _say(f"refused: {error}" + (f" ({_place(yours[-1])})" if yours else ""))
        return REFUSED
    if yours:
        last = traceback.format_exception_only(error)[-1].strip()
        _say(f"error in your code, {_place(yours[-1])}: {last}")
        _say("".join(traceback.format_list(yours)).rstrip(), style=None)
        return YOURS
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        _say("refused: this command needs torch: pip install 'expunge[torch]'")
        return REFUSED
    if isinstance(error, ValueError | TypeError):
        _say(f"error: {error}")
        return MISTAKE
    if isinstance(error, OSError):
        _say(f"refused: {error.filename or 'a file'}: {error.strerror or error}")
        return REFUSED
    _say("".join(traceback.format_exception(error)).rstrip(), style=None)
    _say("this is a fault of expunge, not of yours: please report it with the lines above")
    return OURS


def _yours(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames that belong to no library."""
    return [
        frame for frame in traceback.extract_tb(trace) if frame.filename[0] != "<" and not of_library(frame.filename)
    ]


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}"


def _say(text: str, style: str | None = "red") -> None:
    Console(stderr=True, soft_wrap=True).print(text, style=style, markup=False, highlight=False)
