"""Commitments to examples: to their ids where they have names, to their content where they have none."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch

from expunge._files import write_new
from expunge.certificate.commitments import commit_ids, commit_rows, match
from expunge.data.content import rows_of
from expunge.data.examples import Examples
from expunge.data.ids import ids_in
from expunge.randomness.secret import entropy

__all__ = ["commit", "new_commitment_key", "open_commitment"]


def new_commitment_key(path: str | Path | None = None) -> bytes:
    """A fresh secret key of 32 bytes; written to `path` (readable by its owner alone) where one is given."""
    key = entropy(32)
    if path is not None:
        write_new(path, key.hex().encode() + b"\n", private=True)
    return key


def commit(what: Any, *, key: bytes) -> str:
    """A keyed commitment to a set of rows: hides them and their number, binds whoever holds the key.

    Args:
        what: ids; `Examples` with ids, which stand for their rows; or rows without names (`Examples`, tensors, a loader of
            batches), of which every number counts, real ones in float64.
        key: at least 32 bytes, from `new_commitment_key`.

    Raises:
        TypeError, ValueError: no ids and no rows, none at all, an id twice, or a key that is too short.

    >>> commit(["a", "b"], key=bytes(32)) == commit(["b", "a"], key=bytes(32))
    True
    """
    ids = what.ids if isinstance(what, Examples) and what.named else ids_in(what)
    if ids is not None:
        return commit_ids(cast("Iterable[str]", ids), key=key)
    rows = rows_of(what, precision=torch.float64, label="commitment")
    return commit_rows((hashlib.sha256(row.whole).digest() for row in rows), key=key)


def open_commitment(commitment: str, what: Any, *, key: bytes) -> None:
    """Check that a commitment is to exactly these ids or rows, under this key; the arguments of `commit`.

    Raises:
        CommitmentMismatch: it is to others, or to these under another key.
    """
    match(commitment, commit(what, key=key))
