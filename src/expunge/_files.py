"""Files are written whole or not at all."""

import glob
import os
import re
import tempfile
from pathlib import Path

from expunge.errors import OutputError

__all__ = ["sweep", "write_new", "write_over"]


def write_new(path: str | os.PathLike[str], content: bytes, *, private: bool = False) -> Path:
    """Write a file that must not exist yet, atomically.

    Args:
        path: where; its folder must exist.
        content: everything.
        private: readable by its owner alone.

    Raises:
        OutputError: the file exists, the folder does not, the disk is full, or writing is not allowed. Nothing is left.
    """
    target = Path(path)
    if os.path.lexists(target):  # a link that leads nowhere too
        raise OutputError(f"{target} exists already and is not overwritten; choose another name or remove it")
    return write_over(target, content, private=private)


def write_over(path: str | os.PathLike[str], content: bytes, *, private: bool = False) -> Path:
    """Write a file atomically: a reader sees the old content or the new, never a part.

    Raises:
        OutputError: the folder does not exist, the disk is full, or writing is not allowed. The old file is untouched.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o600 if private else 0o644)
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {target}: {error.strerror or error}; nothing was written") from error
    return target


def sweep(path: str | os.PathLike[str]) -> None:
    """Delete what a write of this very file left when its process was killed; only where no other process writes it."""
    target = Path(path)
    named = re.compile(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}")
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if named.fullmatch(left.name):
            left.unlink(missing_ok=True)
