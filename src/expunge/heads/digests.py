"""Keyed digests of the rows of an exact head: of each id, and of id, features and targets together, 16 bytes each.

On a grid the features enter by a fingerprint: their products with secret whole numbers, which one matrix product of float64
computes for all rows without rounding. Two rows have the same with odds of 2^-128 at most (docs/methods/grid_ridge.md).
"""

import hashlib
import hmac
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge._progress import track
from expunge.heads.packed import DIGEST, Bytes
from expunge.heads.rows import LARGEST_STEP, Rows

__all__ = ["VERSION", "RowDigests", "multipliers"]

VERSION = 2  # of what is made now; 1 is HMAC-SHA256 of ids and of whole rows
_FINGERPRINT = 128  # bits that two rows have in common by chance
_LEAST_BITS = 8  # of a multiplier: rows that are too wide for it have no Gram matrix either
_BAR_FROM = 20_000  # rows
_AT_ONCE = 4096  # rows
_SHA_BLOCK = 64  # bytes


class RowDigests:
    """Digests under one key.

    Args:
        key: at least 32 bytes, secret.
        exact: whether rows are whole numbers of at most `LARGEST_STEP`.
        version: `VERSION`, or that of the file which a head comes from.
    """

    def __init__(self, key: bytes, *, exact: bool, version: int = VERSION) -> None:
        self.version, self._settings = version, (key, exact, version)
        self._exact = exact and version > 1
        if version == 1:
            self._named: Any = _Hmac(key, b"expunge.row.id")
            self._filled: Any = _Hmac(key, b"expunge.row.content")
            return
        self._secret = hmac.digest(key, b"expunge.row.multipliers/2", "sha256")
        self._named, self._filled = (
            hashlib.blake2b(key=hmac.digest(key, what, "sha256"), digest_size=DIGEST)
            for what in (b"expunge.row.id/2", b"expunge.row.content/2")
        )
        self._multipliers: NDArray[np.float64] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Of its settings: hashes that have begun cannot be copied as other objects are."""
        key, exact, version = self._settings
        return partial(RowDigests, exact=exact, version=version), (key,)

    def name(self, row_id: str) -> bytes:
        """Of an id.

        Raises:
            TypeError: it is no text.
        """
        if not isinstance(row_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"ids must be texts, not {row_id!r} of type {type(row_id).__name__}")
        return _digests(self._named, [row_id.encode()])

    def records(self, rows: Rows) -> Bytes:
        """Of each id, and of id, x and y together; shape (n, 32)."""
        if len(rows.names) == 1:
            return self._record(rows)
        starts = iter(range(0, len(rows.names), _AT_ONCE))
        if len(rows.names) >= _BAR_FROM:
            starts = track(starts, total=math.ceil(len(rows.names) / _AT_ONCE), label="digests of rows")
        records = np.empty((len(rows.names), 2 * DIGEST), dtype=np.uint8)
        for start in starts:
            some = slice(start, start + _AT_ONCE)
            named = _packed(_digests(self._named, (name.encode() for name in rows.names[some])))
            parts = [named, _bytes(self._features(rows.x[some])), _bytes(rows.y[some].cpu().numpy())]
            filled = np.concatenate(parts, axis=1)
            records[some, :DIGEST] = named
            records[some, DIGEST:] = _packed(_digests(self._filled, _rows(filled)))
        return records

    def _record(self, rows: Rows) -> Bytes:
        """`records` of one row, for which arrays of many take several times as long."""
        named = _digests(self._named, [rows.names[0].encode()])
        filled = named + _little(self._features(rows.x)).tobytes() + _little(rows.y.cpu().numpy()).tobytes()
        return np.frombuffer(named + _digests(self._filled, [filled]), dtype=np.uint8)[None]

    def _features(self, x: Tensor) -> NDArray[Any]:
        width = x.shape[1]
        if not self._exact or _bits(width) < _LEAST_BITS:
            return x.cpu().numpy()
        if self._multipliers is None or len(self._multipliers) != width:
            self._multipliers = multipliers(self._secret, width)
        if x.device.type == "cpu":
            products = x.numpy() @ self._multipliers
        else:
            products = (x @ torch.from_numpy(self._multipliers).to(x.device)).cpu().numpy()
        return products.astype(np.int64)  # of which no two are the same number, as 0 and -0 are


def multipliers(secret: bytes, width: int) -> NDArray[np.float64]:
    """Secret whole numbers, shape (width, columns), so small that their products with a row sum up exactly in float64.

    Of b bits each, in as many columns as make 128 bits: |Σ kᵢ mᵢ| ≤ width 2^26 2^b ≤ 2^53.
    """
    bits = _bits(width)
    columns = math.ceil(_FINGERPRINT / bits)
    drawn = hashlib.shake_256(secret + width.to_bytes(8, "little")).digest(4 * width * columns)
    whole = np.frombuffer(drawn, dtype="<u4") & np.uint32(2**bits - 1)
    return whole.astype(np.float64).reshape(width, columns)


def _bits(width: int) -> int:
    """b: 2^b width LARGEST_STEP ≤ 2^53."""
    return (2**53 // LARGEST_STEP // width).bit_length() - 1


class _Hmac:
    """HMAC-SHA256 (RFC 2104), cut, of messages that begin alike: a copy of it is quicker than one made anew."""

    def __init__(self, key: bytes, what: bytes) -> None:
        padded = (key if len(key) <= _SHA_BLOCK else hashlib.sha256(key).digest()).ljust(_SHA_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + what)
        self._outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded))

    def copy(self) -> "_Hmac":
        other = object.__new__(_Hmac)
        other._inner, other._outer = self._inner.copy(), self._outer.copy()
        return other

    def update(self, message: bytes) -> None:
        self._inner.update(message)

    def digest(self) -> bytes:
        self._outer.update(self._inner.digest())
        return self._outer.digest()[:DIGEST]


def _digests(start: Any, messages: Iterable[Any]) -> bytes:
    """Those of messages, one after the other."""
    found = list[bytes]()
    for message in messages:
        one = start.copy()
        one.update(message)
        found.append(one.digest())
    return b"".join(found)


def _packed(digests: bytes) -> Bytes:
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST)


def _bytes(numbers: NDArray[Any]) -> Bytes:
    """Of each row, shape (n, bytes)."""
    return _little(numbers).view(np.uint8).reshape(len(numbers), -1)


def _little(numbers: NDArray[Any]) -> NDArray[Any]:
    """With the same bytes on any machine."""
    return np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))


def _rows(filled: Bytes) -> Iterator[memoryview]:
    flat, size = memoryview(cast("Any", filled)).cast("B"), filled.shape[1]
    return (flat[k : k + size] for k in range(0, len(flat), size))
