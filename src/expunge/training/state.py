"""The state file of a run that can be interrupted: secret while it exists, deleted at the end."""

import hashlib
import io
import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rfc8785
import torch

from expunge._files import sweep, write_over
from expunge.errors import StateError

__all__ = ["Pace", "StateFile"]

SAVE_EVERY = 30.0  # seconds between state files,
SHARE = 20.0  # and at least so many times what writing one takes

_MAGIC, _MAGIC_BEFORE = b"expunge.state/2\n", b"expunge.state/1\n"


class StateFile:
    """Where an interrupted run left off.

    The file holds weights between the steps and the noise generator's state: whoever reads it can undo the unlearning.
    It is readable by its owner alone, and removed as soon as the run is complete.

    Args:
        path: the file; need not exist.
        run: what identifies the run (mechanism, sizes, ...) by name, JSON-ready; another run's file is refused.
    """

    def __init__(self, path: str | os.PathLike[str], run: dict[str, Any]) -> None:
        self.path = Path(path)
        self._run = {name: hashlib.sha256(rfc8785.dumps(part)).hexdigest() for name, part in run.items()}

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None where there is no file.

        Raises:
            StateError: the file is truncated, altered, or belongs to another run; the message says what differs. It is
                left as it is.
        """
        if self.path.is_dir():
            raise StateError(f"{self.path} is a folder: a state file is a file of its own")
        sweep(self.path)
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        if content.startswith(_MAGIC_BEFORE):
            raise StateError(f"{self.path} was made by an earlier version; remove it to start again")
        head = len(_MAGIC) + 64
        if not content.startswith(_MAGIC) or len(content) < head:
            raise StateError(f"{self.path} is not a whole state file (truncated?); remove it to start again")
        digest, rest = content[len(_MAGIC) : head], content[head:]
        if hashlib.sha256(rest).hexdigest().encode() != digest:
            raise StateError(f"{self.path} is truncated or was altered; remove it to start again")
        line, _, payload = rest.partition(b"\n")
        run: dict[str, str] = json.loads(line)
        others = [name for name in sorted(run.keys() | self._run.keys()) if run.get(name) != self._run.get(name)]
        if others:
            raise StateError(
                f"{self.path} belongs to another run: {', '.join(others)} {'differs' if len(others) == 1 else 'differ'}. "
                "Repeat the call that it was made with (code and what it holds, a log or a counter too, must be as at its "
                "start), or use another file"
            )
        try:
            return torch.load(io.BytesIO(payload), weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise StateError(f"{self.path} cannot be read by torch {torch.__version__}: {error}") from error

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file's content, atomically; raises `OutputError` (e.g. disk full) and keeps the old one."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        rest = json.dumps(self._run).encode() + b"\n" + buffer.getvalue()
        write_over(self.path, _MAGIC + hashlib.sha256(rest).hexdigest().encode() + rest, private=True)

    def delete(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


class Pace:
    """How often state is written: as a rule every half minute, and for at most a twentieth of the time."""

    def __init__(self) -> None:
        self._last, self._pause = time.monotonic(), SAVE_EVERY

    def is_due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() - self._last >= self._pause

    def save(self, write: Callable[[], object], due: bool | None = None) -> None:
        """Call `write`, if it is time; of several workers rank 0 says whether it is."""
        begun = time.monotonic()
        if self.is_due() if due is None else due:
            write()
            self._last = time.monotonic()
            self._pause = max(SAVE_EVERY, SHARE * (self._last - begun))
