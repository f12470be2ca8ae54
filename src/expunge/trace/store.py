"""The folder of a trace: a sealed manifest, and files by name with their digests."""

import hashlib
import hmac
import io
import json
import os
import pickle
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import rfc8785
import torch

from expunge._files import write_over
from expunge._lock import held, is_lock
from expunge.errors import OutputError, StateError
from expunge.trace.packing import pack, unpack
from expunge.trace.schedule import keyed

__all__ = ["SCHEMA", "UNFINISHED", "File", "Folder", "Manifest", "read_sealed", "write_sealed"]

SCHEMA = "expunge.trace/3"
_READ = (
    "expunge.trace/2",
    SCHEMA,
)  # 2: rosters in JSON, and settings that name no law, whose schedule is drawn by HMAC
_BEFORE = "expunge.trace/1"
UNFINISHED = "unfinished.state"
_MANIFEST, _KEY = "manifest.json", "key"
_OURS = re.compile(r"\.?v(\d+)-(?:step|final|records)")


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the trace: `step` steps were done when it was written; size in bytes."""

    name: str
    step: int
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a trace says of itself.

    Args:
        version: 0 after training, one more after every rewind.
        settings: steps of each epoch, recipe, smallest batch.
        code: digests of model, loss and augmentation.
        machine: versions, processor, threads.
        initial: digest of the initial weights.
        records: the roster's file.
        checkpoints: ascending in their steps.
        final: the finished model.
    """

    version: int
    settings: dict[str, Any]
    code: dict[str, str]
    machine: dict[str, str]
    initial: str
    records: File
    checkpoints: tuple[File, ...]
    final: File

    @property
    def files(self) -> tuple[File, ...]:
        """All that it names."""
        return (*self.checkpoints, self.final, self.records)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready fields."""
        return asdict(self) | {"schema": SCHEMA, "checkpoints": [asdict(file) for file in self.checkpoints]}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Manifest":
        """The manifest of `to_dict`, whose seal was checked; raises `StateError` where the schema is another."""
        if plain.get("schema") == _BEFORE:
            raise StateError(
                "the trace was made by an earlier version, whose digests of the code missed settings in module-level tensors, "
                "dictionaries, criteria and other modules: whether a replay is of the same training cannot be checked. "
                "Train again"
            )
        if plain.get("schema") not in _READ:
            raise StateError(f"the trace has schema {plain.get('schema')!r}; this version reads {' and '.join(_READ)}")
        files: dict[str, Any] = {
            "records": File(**plain["records"]),
            "final": File(**plain["final"]),
            "checkpoints": tuple(File(**file) for file in plain["checkpoints"]),
        }
        return cls(**{field.name: plain[field.name] for field in fields(cls)} | files)


class Folder:
    """A folder that only its owner can read. Its content undoes the unlearning of what is still to be forgotten."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def has_trace(self) -> bool:
        """Whether a finished trace lies here."""
        return (self.path / _MANIFEST).exists()

    def create(self) -> None:
        """Make the folder for a new trace, or take one that holds nothing but an unfinished one.

        Raises:
            OutputError: it holds a finished trace or other files, or cannot be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(entry.name for entry in self.path.iterdir())
        except OSError as error:
            raise OutputError(f"cannot use the folder {self.path}: {error.strerror or error}") from error
        if self.has_trace:
            raise OutputError(f"{self.path} holds a trace already and is not overwritten; choose another folder")
        others = [n for n in names if n not in (_KEY, UNFINISHED) and not is_lock(n) and not _OURS.match(n)]
        if others:
            raise OutputError(f"{self.path} holds other files (e.g. {others[0]!r}); choose an empty folder")

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder, which must exist, against other processes; raises `StateError` where one has it."""
        return held(self.path, inside=True, error=StateError)

    def keep_key(self, fresh: bytes) -> bytes:
        """The key that an unfinished training left here, or `fresh`, written down for its owner alone."""
        return self.key() or self._new_key(fresh)

    def _new_key(self, fresh: bytes) -> bytes:
        write_over(self.path / _KEY, fresh.hex().encode() + b"\n", private=True)
        return fresh

    def key(self) -> bytes | None:
        """The key kept here, or None; raises `StateError` where it is damaged."""
        path = self.path / _KEY
        if not path.exists():
            return None
        try:
            return bytes.fromhex(path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise StateError(f"{path} is not a whole key: restore it, or train again") from error

    def write(self, name: str, step: int, content: bytes) -> File:
        """Write a file of the trace, private and whole."""
        write_over(self.path / name, content, private=True)
        return File(name=name, step=step, digest=hashlib.sha256(content).hexdigest(), size=len(content))

    def write_state(self, name: str, step: int, state: dict[str, Any]) -> File:
        """Write a checkpoint."""
        buffer = io.BytesIO()
        torch.save(pack(state), buffer)
        return self.write(name, step, buffer.getvalue())

    def read(self, file: File) -> bytes:
        """A file's content; raises `StateError` where it is missing or altered."""
        path = self.path / file.name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} is missing or cannot be read: {error.strerror}; the trace is broken") from error
        if hashlib.sha256(content).hexdigest() != file.digest:
            raise StateError(f"{path} is truncated or was altered: its digest is not the manifest's")
        return content

    def read_state(self, file: File) -> dict[str, Any]:
        """A checkpoint's content; raises `StateError`."""
        content = self.read(file)
        try:
            return unpack(torch.load(io.BytesIO(content), weights_only=True))
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise StateError(f"{file.name} cannot be read by torch {torch.__version__}: {error}") from error

    def manifest(self, key: bytes) -> Manifest:
        """The manifest; raises `StateError` where it is missing, altered or sealed by another key."""
        return Manifest.from_dict(read_sealed(self.path / _MANIFEST, key))

    def publish(self, manifest: Manifest, key: bytes) -> None:
        """Make a manifest the valid one, in one step."""
        write_sealed(self.path / _MANIFEST, manifest.to_dict(), key)

    def tidy(self, manifest: Manifest) -> None:
        """Delete what earlier versions left: it was computed from records forgotten since."""
        kept = {file.name for file in manifest.files}
        for entry in self.path.iterdir():
            ours = _OURS.match(entry.name)
            old = ours is not None and entry.name not in kept and int(ours.group(1)) <= manifest.version
            if old or entry.name.startswith(
                (f".{UNFINISHED}.", f".{_MANIFEST}.")
            ):  # the latter: a write that was cut off
                entry.unlink(missing_ok=True)


def write_sealed(path: Path, plain: Mapping[str, Any], key: bytes) -> None:
    """Write JSON-ready fields with a keyed seal over their canonical form."""
    content = dict(plain) | {"seal": _seal(plain, key)}
    write_over(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(), private=True)


def read_sealed(path: Path, key: bytes) -> dict[str, Any]:
    """The fields of `write_sealed`.

    Raises:
        StateError: missing, not JSON, altered, or sealed by another key.
    """
    try:
        plain: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StateError(f"there is no finished trace: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{path} is not whole JSON (truncated?): {error}") from error
    if not isinstance(plain, dict):
        raise StateError(f"{path} must hold a JSON object, not {type(plain).__name__}")
    fields_only: dict[str, Any] = {name: value for name, value in plain.items() if name != "seal"}
    if not hmac.compare_digest(str(plain.get("seal")), _seal(fields_only, key)):
        raise StateError(f"{path} was altered, or the key is another than the one it was made with")
    return fields_only


def _seal(plain: Mapping[str, Any], key: bytes) -> str:
    return keyed(key, "seal", rfc8785.dumps(dict(plain))).hex()
