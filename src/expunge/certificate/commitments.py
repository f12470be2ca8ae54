"""Keyed commitments: they hide what they speak of and its size, and bind whoever holds the key. No torch is needed."""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from expunge import _validate
from expunge.certificate.fields import COMMITMENT
from expunge.errors import CommitmentMismatch, StateError

__all__ = ["commit_ids", "commit_rows", "is_commitment", "labels", "match", "open_ids", "read_ids", "read_key", "texts"]


def read_key(path: str | Path) -> bytes:
    """The key that `expunge.new_commitment_key` wrote.

    Raises:
        StateError: the file cannot be read, or holds no key of at least 32 bytes.
    """
    try:
        key = bytes.fromhex(Path(path).read_text(encoding="utf-8").strip())
    except OSError as error:
        raise StateError(f"cannot read the key {path}: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{path} holds no key in hexadecimal digits, as new_commitment_key writes it") from error
    if len(key) < 32:
        raise StateError(f"{path} holds {len(key)} bytes, not a whole key of 32")
    return key


def read_ids(path: str | Path) -> list[str]:
    """Ids from a file: a list in JSON where its name ends in .json, else one a line.

    Raises:
        StateError: the file cannot be read, or is no list.
        TypeError, ValueError: see `texts`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        found: object = json.loads(text) if Path(path).suffix == ".json" else text.splitlines()
    except OSError as error:
        raise StateError(f"cannot read the ids {path}: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{path} holds no ids: {error}") from error
    if not isinstance(found, list):
        raise StateError(f"{path} holds no list of ids")
    return texts(cast("list[object]", found))


def texts(ids: object, *, name: str = "ids") -> list[str]:
    """Ids as texts, in order: texts as they stand, whole numbers as their decimal digits.

    Args:
        ids: of rows, or other names that stand for one thing each.
        name: of the argument, for errors.

    Raises:
        TypeError: a single text, something that cannot be iterated, or an id that is neither text nor whole number.
        ValueError: no id, an empty one, or one that is given twice.
    """
    names = labels(ids, name=name)
    if len(set(names)) < len(names):
        seen = set[str]()
        twice = next(found for found in names if found in seen or seen.add(found))
        raise ValueError(f"{name}: {twice!r} is given twice")
    return names


def labels(values: object, *, name: str) -> list[str]:
    """Names as texts, in order, of which several may be equal, e.g. the owner of each row; else as `texts`."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a collection of texts, not {_validate.shown(values)}")
    listed: Any = getattr(values, "tolist", None)  # numpy's and torch's own numbers become Python's
    plain: Any = values if listed is None else listed()
    if not isinstance(plain, Iterable):
        raise TypeError(f"{name} must be a collection of texts, not {_validate.shown(values)}")
    names: list[str] = []
    for found in plain:
        if isinstance(found, Integral) and not isinstance(found, bool):
            names.append(str(int(found)))
        elif isinstance(found, str):
            names.append(str(found))
        else:
            raise TypeError(
                f"{name} must be texts (or whole numbers), not {_validate.shown(found)} of type {type(found).__name__}: "
                f"{name}=[str(i) for i in {name}]"
            )
    if not names:
        raise ValueError(f"{name} must name at least one row")
    if "" in names:
        raise ValueError(f"{name}: the empty text names no row")
    return names


def commit_ids(ids: Iterable[str], *, key: bytes) -> str:
    """A keyed commitment to a set of ids: HMAC-SHA256 over the sorted digests of the ids.

    >>> commit_ids(["a", "b"], key=bytes(32)) == commit_ids(["b", "a"], key=bytes(32))
    True
    """
    return _sealed(b"expunge.commitment/1", (hashlib.sha256(i.encode()).digest() for i in texts(ids)), key)


def commit_rows(digests: Iterable[bytes], *, key: bytes) -> str:
    """A keyed commitment to rows without names, from a SHA-256 digest of the content of each, in any order.

    Raises:
        ValueError: no row.
    """
    return _sealed(b"expunge.commitment.rows/1", digests, key)


def open_ids(commitment: str, ids: Iterable[str], *, key: bytes) -> None:
    """Raise `CommitmentMismatch` unless a commitment is to exactly these ids under this key."""
    match(commitment, commit_ids(ids, key=key))


def match(commitment: str, computed: str) -> None:
    """Raise `CommitmentMismatch` unless both are the same commitment."""
    if not is_commitment(commitment):
        raise CommitmentMismatch(f"no commitment 'hmac-sha256:' and 64 hexadecimal digits: {commitment!r}")
    if not hmac.compare_digest(commitment, computed):
        raise CommitmentMismatch("the commitment does not open: it is to other rows, or was made under another key")


def is_commitment(value: object) -> bool:
    """Whether this is 'hmac-sha256:' and exactly 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch(COMMITMENT.pattern, value) is not None


def _sealed(purpose: bytes, digests: Iterable[bytes], key: bytes) -> str:
    if not isinstance(key, (bytes, bytearray)):
        raise TypeError(f"key must be bytes, not {type(key).__name__}; use new_commitment_key()")
    if len(key) < 32:
        raise ValueError(f"key must have at least 32 bytes, not {len(key)}; use new_commitment_key()")
    ordered = sorted(digests)
    if not ordered:
        raise ValueError("there is no row to commit to")
    return f"hmac-sha256:{hmac.new(key, purpose + b''.join(ordered), 'sha256').hexdigest()}"
