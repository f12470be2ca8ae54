"""What a command leaves the shell with: an exit code and a message for each kind of error.

0    done
1    refused: a guarantee, certificate, model, file or folder
2    a mistake in the call, e.g. a path, module or function that does not exist
3    an error in the user's own code, of which the frames are shown and no others
4    an audit that could have refuted nothing
5    a fault of expunge's own, with the whole traceback
130  interrupted
"""

import contextlib
import sys
import traceback
from types import TracebackType

import click

from expunge._origins import of_library
from expunge.errors import ExpungeError, TaskNotFound

__all__ = ["INTERRUPTED", "NOTHING_TESTED", "REFUSED", "exit_codes"]

REFUSED, MISTAKE, YOURS, NOTHING_TESTED, OURS, INTERRUPTED = 1, 2, 3, 4, 5, 130

_LONGEST = 400  # characters of a message, and
_MOST_LINES = 3  # its lines: an array in a message would bury what happened


class exit_codes(contextlib.AbstractContextManager["exit_codes"]):  # noqa: N801 - a context manager reads as a verb
    """Turn errors of a block into messages on standard error and exit codes.

    Attributes:
        debug: show the whole traceback of every error, and messages at full length.
    """

    def __init__(self) -> None:
        self.debug = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Exit, where there is an error that does not say itself with which code."""
        if isinstance(error, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        yours = _yours(error, trace)
        if isinstance(error, SystemExit) and not yours:
            return  # a command's own: it has said why
        if isinstance(error, Exception | SystemExit):
            if self.debug:
                _say("".join(traceback.format_exception(error)).rstrip(), style=None)
            sys.exit(_told(error, yours, whole=self.debug))


def _told(error: Exception | SystemExit, yours: list[traceback.FrameSummary], *, whole: bool) -> int:
    """Say what happened, at full length or cut short; the exit code."""
    message = str(error) if whole else _short(str(error))
    if isinstance(error, TaskNotFound):
        _say(f"error: {message}")
        return MISTAKE
    if isinstance(error, ExpungeError):
        _say(f"refused: {message}" + (f" ({_place(yours[-1])})" if yours else ""))
        return REFUSED
    if yours:
        _say(f"error in your code, {_place(yours[-1])}: {type(error).__name__}" + (f": {message}" if message else ""))
        if not whole:
            _say("".join(traceback.format_list(yours)).rstrip(), style=None)
        return YOURS
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        _say("refused: this command needs torch: pip install 'expunge[torch]'")
        return REFUSED
    if isinstance(error, ValueError | TypeError):
        _say(f"error: {message}")
        return MISTAKE
    if isinstance(error, OSError):
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        _say(f"{'error' if absent else 'refused'}: {error.filename or 'a file'}: {error.strerror or error}")
        return MISTAKE if absent else REFUSED
    if not whole:
        _say("".join(traceback.format_exception(error)).rstrip(), style=None)
    _say("this is a fault of expunge, not of yours: please report it with the lines above")
    return OURS


def _short(message: str) -> str:
    """A message without what buries it: an array or a module that it prints."""
    lines = message.strip().splitlines()
    cut = "\n".join(lines[:_MOST_LINES])[:_LONGEST]
    return cut if cut == "\n".join(lines) else f"{cut.rstrip()} ... (cut short; expunge --debug shows it whole)"


def _yours(error: BaseException | None, trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames that belong to no library; of a text that is no Python, its line."""
    frames = [
        frame for frame in traceback.extract_tb(trace) if frame.filename[0] != "<" and not of_library(frame.filename)
    ]
    if isinstance(error, SyntaxError) and error.filename is not None and not of_library(error.filename):
        frames.append(traceback.FrameSummary(error.filename, error.lineno, "<module>"))
    return frames


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}"


def _say(text: str, style: str | None = "red") -> None:
    click.secho(text, fg=style, file=sys.stderr)
