"""The file of a head's state: a line of version, a keyed digest of the rest, then safetensors. Nothing in it is run.

`pack` and `unpack` are those of an analytic head; `saved_convex` has those of a convex one.
"""

import hmac
import json
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from expunge._files import sweep, write_over
from expunge._lock import held
from expunge.errors import StateError
from expunge.heads.digests import VERSION
from expunge.heads.ledger import Ledger
from expunge.heads.packed import DIGEST
from expunge.heads.statistics import LARGEST_WHOLE, Sums

__all__ = ["ANALYTIC", "CONVEX", "kind_of", "mark_of", "pack", "seal", "unpack", "unseal", "write"]

ANALYTIC, CONVEX = "analytic_head", "convex_head"
_LAST = {ANALYTIC: VERSION, CONVEX: 1}  # version; the earlier ones are read too
_MAC = 64  # hexadecimal digits


def seal(kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, key: bytes, version: int = 1) -> bytes:
    """A file's content: a function of its arguments alone."""
    payload = safetensors.torch.save(dict(tensors), {"config": json.dumps(config, sort_keys=True)})
    magic = _magic(kind, version)
    return b"".join((magic, _mac(magic, payload, key), payload))


def unseal(kind: str, path: str | os.PathLike[str], *, key: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of `seal`; nothing is read of a file before its keyed digest was found right.

    Raises:
        StateError: missing, truncated, altered, of another kind, key or version.
    """
    where = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StateError(f"cannot read {where}: {error.strerror}") from error
    magic = next((m for m in _magics(kind) if content.startswith(m)), None)
    if magic is None or len(content) < len(magic) + _MAC:
        raise StateError(f"{where} is not a whole state of {_words(kind)}, {_versions(kind)}")
    head = len(magic) + _MAC
    mac, payload = content[len(magic) : head], content[head:]
    if not hmac.compare_digest(_mac(magic, payload, key), mac):
        raise StateError(f"{where} is truncated, was altered, or was saved under another key")
    # Whoever wrote this had the key.
    size = int.from_bytes(payload[:8], "little")
    config: dict[str, Any] = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["config"])
    return config, safetensors.torch.load(payload)


def write(path: str | os.PathLike[str], content: bytes, *, over: Container[bytes] = ()) -> bytes:
    """Write a state over an older one of its own, atomically, for its owner alone; what a killed write of it left is deleted.

    Args:
        path: where.
        content: from `seal`.
        over: marks of the states that this one has come from. A file that holds another one is not overwritten: it is of
            another head, or of this one with requests that this one has not seen.

    Returns:
        The mark of what is there now.

    Raises:
        StateError: the file is none of `over`; it is untouched.
        OutputError: the disk is full, writing is not allowed, or another process is writing it; the old file is untouched.
    """
    with held(path):
        found = mark_of(path)
        if found is not None and found not in over:
            raise StateError(
                f"{os.fspath(path)} does not hold a state that this head was loaded from or saved as: another process may have "
                "saved requests there since, which would be lost. Load that file and make this request there; or save under "
                "another name, or remove the file first if it is of no use. It was left as it is"
            )
        sweep(path)  # each is a whole state, or a part, from before the rows were forgotten
        write_over(path, content, private=True)
    return _mark(content)


def mark_of(path: str | os.PathLike[str]) -> bytes | None:
    """What tells the state in a file from all others, its kind and keyed digest as they stand; None where there is no file.

    Whoever loads a state takes its mark first: if another one takes its place in between, that is found when it is saved.

    Raises:
        StateError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return _mark(file.read(128))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"cannot read {os.fspath(path)}: {error.strerror}") from error


def kind_of(path: str | os.PathLike[str]) -> str:
    """Which head a file says that it holds, `ANALYTIC` or `CONVEX`; only `unseal` finds out whether that is true.

    Raises:
        StateError: it cannot be read, or holds neither.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise StateError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
    for kind in (ANALYTIC, CONVEX):
        if start.startswith(_magics(kind)):
            return kind
    raise StateError(f"{os.fspath(path)} is not a whole state of a head, {_versions(ANALYTIC)}")


def pack(
    settings: Mapping[str, Any],
    ledger: Ledger,
    sums: Sums | None,
    grids: Mapping[str, Tensor | None],
    *,
    key: bytes,
    version: int = VERSION,
) -> bytes:
    """A file's content: a function of the state alone, digests sorted, so that equal states give equal bytes.

    Args:
        settings: JSON-ready.
        ledger: digests of ids, and of ids and content.
        sums: None where no row is learned.
        grids: "grid" and "target_grid", tensors or None.
        key: of the file's digest.
        version: of the digests of rows, which is that of the file.
    """
    config = {
        **settings,
        "rows": len(ledger),
        "gram_error": 0.0 if sums is None else sums.gram_error,
        "moment_error": 0.0 if sums is None else sums.moment_error,
    }
    if version > 1:
        config["digests"] = version
    tensors = {"digests": torch.from_numpy(ledger.records().reshape(-1))}
    tensors |= {name: steps for name, steps in grids.items() if steps is not None}
    if sums is not None:
        kind = sums.moment.dtype  # whole numbers are written as such
        tensors |= {"gram": sums.gram.to(kind).cpu().contiguous(), "moment": sums.moment.cpu().contiguous()}
        tensors |= {} if sums.counts is None else {"counts": sums.counts}
    return seal(ANALYTIC, config, tensors, key=key, version=version)


def unpack(
    path: str | os.PathLike[str], *, key: bytes, device: torch.device | str
) -> tuple[dict[str, Any], Ledger, Sums | None, dict[str, Tensor | None]]:
    """Settings, the version of its digests among them, ledger, sums and grids of a file.

    Raises:
        StateError: as `unseal`; or sums of another type than their settings say.
    """
    where = os.fspath(path)
    config, tensors = unseal(ANALYTIC, path, key=key)
    config.setdefault("digests", 1)
    ledger = Ledger()
    ledger.enter(tensors["digests"].numpy().reshape(-1, 2 * DIGEST))
    rows, errors = config.pop("rows"), (config.pop("gram_error"), config.pop("moment_error"))
    if rows != len(ledger):
        raise StateError(f"{where}: {len(ledger)} digests for {rows} rows")
    grids = {name: tensors.get(name) for name in ("grid", "target_grid")}
    if not len(ledger):
        return config, ledger, None, grids
    gram, moment, counts = tensors["gram"], tensors["moment"], tensors.get("counts")
    kind = torch.int64 if "grid" in tensors else torch.float64
    for name, tensor in {"gram": gram, "moment": moment}.items():
        if tensor.dtype != kind:
            raise StateError(f"{where}: {name} is {tensor.dtype}, not {kind}; sums of lower precision are refused")
    if gram.shape != (len(moment), len(moment)) or (None if counts is None else len(counts)) != config["classes"]:
        raise StateError(f"{where}: its parts do not fit one another")
    if kind == torch.int64 and float(gram.diagonal().max()) < LARGEST_WHOLE:
        gram = gram.double()
    return config, ledger, Sums(gram.to(device), moment.to(device), counts, rows, *errors), grids


def _magic(kind: str, version: int) -> bytes:
    return f"expunge.{kind}/{version}\n".encode()


def _magics(kind: str) -> tuple[bytes, ...]:
    return tuple(_magic(kind, version) for version in range(1, _LAST[kind] + 1))


def _versions(kind: str) -> str:
    return "version " + " or ".join(map(str, range(1, _LAST[kind] + 1)))


def _mark(content: bytes) -> bytes:
    kind, _, rest = content[:128].partition(b"\n")
    return kind + b"\n" + rest[:_MAC]


def _words(kind: str) -> str:
    return f"a{'n' if kind == ANALYTIC else ''} {kind.replace('_', ' ')}"


def _mac(magic: bytes, payload: bytes, key: bytes) -> bytes:
    return hmac.digest(key, magic + payload, "sha256").hex().encode()
