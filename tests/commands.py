"""The command line in this process, as a shell would see it: exit code, standard output, standard error."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from expunge.cli import main


@dataclass(frozen=True)
class Done:
    """What a call left."""

    returncode: int
    stdout: str
    stderr: str


def run(*words: str, cwd: Path, encoding: str = "utf-8", columns: int = 80) -> Done:
    """Call `expunge` in a folder, on a terminal of this encoding and width that refuses what it cannot show."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["expunge", *words]),
        mock.patch.dict("os.environ", COLUMNS=str(columns)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
        else:
            code = 0
    texts: list[str] = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    assert code is None or isinstance(code, int), code
    return Done(code or 0, *texts)
