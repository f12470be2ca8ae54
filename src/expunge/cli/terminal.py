"""What a terminal can show: no sign in a text is taken for markup, and none breaks the printing."""

import codecs
import io
import sys
import textwrap
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "print_on_any_terminal", "say"]

_WORDS = {
    "±": "+-", "×": "x", "²": "^2", "≤": "<=", "≥": ">=", "→": "->", "−": "-", "–": "-", "—": "-", "…": "...",
    "ε": "epsilon", "δ": "delta", "μ": "mu", "λ": "lambda", "σ": "sigma", "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip
_POLICY = "expunge.words"


def print_on_any_terminal() -> None:
    """Let standard output and error write a word or an escape for a sign that their encoding lacks.

    By default such a sign is an error, which would come after the work is done.
    """
    codecs.register_error(_POLICY, _in_words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_POLICY)


def console() -> "Console":
    """Standard output as it is now, and of its width, for tables."""
    from rich.console import Console  # late: a sentence needs none of it

    return Console(markup=False, highlight=False, emoji=False)


def say(*lines: str, style: str | None = None, whole: bool = False) -> None:
    """Print lines as they are, whatever signs they hold; they are broken between words only, so that paths stay whole.

    Args:
        lines: of text.
        style: a colour.
        whole: break no line at all, so that it can be copied.
    """
    width = get_terminal_size().columns
    for line in lines:
        parts = [line] if whole else textwrap.wrap(
            line, width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
        )  # fmt: skip
        click.secho("\n".join(parts), fg=style, file=sys.stdout)


def _in_words(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if sign in _WORDS:
        return _WORDS[sign], error.start + 1
    one = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    return codecs.backslashreplace_errors(one)
