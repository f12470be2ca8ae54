"""One process at a time: a lock on a file or folder, which the death of its holder releases."""

import contextlib
import json
import os
import socket
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from expunge.errors import ExpungeError, OutputError

__all__ = ["held", "is_lock"]

_SUFFIX = ".lock"


@contextlib.contextmanager
def held(
    path: str | os.PathLike[str], *, inside: bool = False, error: type[ExpungeError] = OutputError
) -> Generator[None]:
    """Hold a file or folder while the block runs; whoever else wants it is refused at once, and told who has it.

    The lock is the operating system's own, so a holder that is killed leaves nothing that blocks the next one.

    Args:
        path: what is meant; it need not exist yet.
        inside: keep the lock's file in the folder `path`, which must exist, and not beside it: whoever sees the folder
            under another path, in another container too, then meets the same lock.
        error: raised where another process, or another thread of this one, holds it.

    Raises:
        ExpungeError: `error`, or `OutputError` where no lock can be taken there.
    """
    target = Path(path)
    place = target / _SUFFIX if inside else target.resolve().with_name(f".{target.resolve().name}{_SUFFIX}")
    if not place.parent.is_dir():  # which the lock would make
        raise OutputError(f"cannot use {target}: there is no folder {place.parent}")
    lock = FileLock(place, blocking=False, mode=0o600, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise error(
            f"{target} is in use by {_holder(place)}; wait until it is done, or end it. Nothing was changed"
        ) from None
    except OSError as reason:
        raise OutputError(f"cannot lock {target}: {reason.strerror or reason}") from reason
    try:
        _sign(place)
        yield
    finally:
        # Before the release: whoever opened this very file meanwhile finds it gone, and takes a new one.
        with contextlib.suppress(OSError):
            place.unlink()
        lock.release()


def is_lock(name: str) -> bool:
    """Whether a file's name is that of a lock."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def _sign(place: Path) -> None:
    """Say who holds the lock: for people, the lock itself does not need it."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):
        place.write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}), encoding="utf-8"
        )


def _holder(place: Path) -> str:
    try:
        signed = json.loads(place.read_text(encoding="utf-8"))
        return f"process {signed['pid']} on {signed['host']} since {signed['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # not signed yet, or a system that lets nobody read it
        return "another process"
