"""When each record is used: a keyed law of its own name and the epoch, and nothing else."""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge.errors import MissingExtra

__all__ = ["KEY_BYTES", "Law", "Schedule", "Tags", "check_key", "hex_of", "keyed", "keyed_for", "name_tags"]

KEY_BYTES = 32
_DOMAIN = b"expunge.trace/1/"
_AT_ONCE = 128  # seeds of as many steps
_BLOCK = 64  # bytes of one compression of SHA-256
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))

Tags = NDArray[np.bytes_]  # of dtype S16: equal, and in order, as the 16 bytes are
Rows = NDArray[np.int64]
Law = Literal["aes-256", "hmac-sha256"]  # what a schedule is drawn by; the latter in traces of schema expunge.trace/2


def keyed(key: bytes, purpose: str, content: bytes = b"") -> bytes:
    """32 bytes of HMAC-SHA256, independent for every purpose and content as long as the key is secret."""
    return hmac.digest(key, _DOMAIN + purpose.encode() + b"\0" + content, "sha256")


def keyed_for(key: bytes, purpose: str, head: bytes = b"") -> Callable[..., bytes]:
    """`keyed` of one key and purpose, for many contents that begin with `head`: what they share is hashed once.

    The function takes a content in one or more parts.
    """
    block = (key if len(key) <= _BLOCK else hashlib.sha256(key).digest()).ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(block.translate(_INNER) + _DOMAIN + purpose.encode() + b"\0" + head)
    outer = hashlib.sha256(block.translate(_OUTER))

    def digest(*content: bytes | memoryview) -> bytes:
        first, second = inner.copy(), outer.copy()
        for part in content:
            first.update(part)
        second.update(first.digest())
        return second.digest()

    return digest


def name_tags(key: bytes, names: Sequence[str]) -> Tags:
    """A keyed tag of each record's name, 16 bytes; it tells nothing to whoever lacks the key."""
    tag = keyed_for(key, "name")
    return np.frombuffer(b"".join([tag(name.encode())[:16] for name in names]), dtype="S16")


def hex_of(tags: Tags) -> list[str]:
    """Tags as 32 hexadecimal digits each."""
    return [tags[i : i + 1].tobytes().hex() for i in range(len(tags))]


def check_key(key: object) -> None:
    """Raise unless `key` is a secret of at least 32 bytes."""
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes, e.g. from new_commitment_key(), not {type(key).__name__}")
    if len(key) < KEY_BYTES:
        raise ValueError(f"key must have at least {KEY_BYTES} bytes, not {len(key)}; use new_commitment_key()")


class Schedule:
    """Which records each step uses, and the coins of each step.

    In every epoch a record is used once, at the step that the keyed law of its name and the epoch picks: every step of the
    epoch is equally likely, up to a bias of steps/2^64. Removing other records moves nothing, so batch sizes vary: about
    Poisson, with mean records/steps. The rest of the law's bits give the order within a batch.

    Args:
        key: secret, at least 32 bytes, drawn without the data.
        steps: how many steps each epoch has, one number an epoch; fixed without the forgotten data.
        law: "aes-256", where the tag of a record's name is enciphered under a key of the epoch; "hmac-sha256", a digest of
            epoch and name, is that of older traces.
    """

    def __init__(self, key: bytes, steps: Sequence[int], *, law: Law = "aes-256") -> None:
        check_key(key)
        if not steps:
            raise ValueError("steps must hold one number for each epoch, at least one")
        for count in steps:
            _validate.whole(steps=count)
        if law not in get_args(Law):
            raise ValueError(f"law must be one of {', '.join(get_args(Law))}, not {_validate.shown(law)}")
        self._key, self._law = key, law
        self._seeds: dict[str, tuple[int, list[int]]] = {}
        self.steps = tuple(int(count) for count in steps)
        self.starts = (0, *accumulate(self.steps))

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.starts[-1]

    @property
    def epochs(self) -> int:
        """How many there are."""
        return len(self.steps)

    def step_of(self, name: str, epoch: int) -> int:
        """The step of the whole training, 0 to total - 1, at which a record is used in an epoch."""
        slots, _ = self._drawn(epoch, np.zeros(1, dtype=np.int64), [name], None)
        return self.starts[epoch] + int(slots[0])

    def step_of_tag(self, tag: Tags, epoch: int) -> int:
        """`step_of`, of a record that is known by the tag of its name, shape (1,); not by the law of older traces."""
        assert self._law == "aes-256"
        slots, _ = self._drawn(epoch, np.zeros(1, dtype=np.int64), [], tag)
        return self.starts[epoch] + int(slots[0])

    def epoch(
        self, epoch: int, names: Sequence[str], first_epochs: NDArray[np.integer[Any]], *, tags: Tags | None = None
    ) -> list[NDArray[np.int64]]:
        """The rows of each step's batch, in order.

        Args:
            epoch: 0, 1, ...
            names: of the records, distinct.
            first_epochs: shape (n,), the epoch from which each record takes part.
            tags: `name_tags` of the names, where they are at hand.
        """
        rows = np.flatnonzero(first_epochs <= epoch)
        slots, order = self._drawn(epoch, rows, names, tags)
        edges = np.searchsorted(slots[order], np.arange(self.steps[epoch] + 1))
        return [rows[order[begin:end]] for begin, end in pairwise(edges.tolist())]

    def _drawn(self, epoch: int, rows: Rows, names: Sequence[str], tags: Tags | None) -> tuple[Rows, Rows]:
        """The step of each of the rows within the epoch, and their order by step and place."""
        if self._law == "hmac-sha256":
            taking_part: Iterable[str] = (str(names[row]) for row in rows.tolist())
            return _by_digests(self._key, epoch, self.steps[epoch], taking_part)
        found = name_tags(self._key, names) if tags is None else tags
        return _by_cipher(keyed(self._key, "epoch", epoch.to_bytes(8, "big")), self.steps[epoch], found[rows])

    def seed(self, purpose: str, step: int = 0) -> int:
        """A seed for torch that depends on key, purpose and step alone, below 2^63."""
        start = step - step % _AT_ONCE
        held, seeds = self._seeds.get(purpose, (-1, []))
        if held != start:  # many at once: one between two steps of training takes ten times as long
            digest = keyed_for(self._key, f"coins/{purpose}")
            seeds = [
                int.from_bytes(digest(s.to_bytes(8, "big"))[:8], "big") >> 1 for s in range(start, start + _AT_ONCE)
            ]
            self._seeds[purpose] = (start, seeds)
        return seeds[step - start]


def _by_cipher(key: bytes, steps: int, tags: Tags) -> tuple[Rows, Rows]:
    """The step in the epoch of each tag, and their order: by step, and by the law within one.

    A tag, one block, is enciphered under the epoch's key. The first half w of the result gives the step
    floor(w * steps / 2^64), so that an order by w is one by step already.
    """
    drawn = np.frombuffer(_cipher(key).update(tags.tobytes()), dtype=">u8")
    first, second = drawn[::2].astype(np.uint64), drawn[1::2]
    order = np.argsort(first)
    if (np.diff(first[order]) == 0).any():  # about rows^2/2^65 likely; no two blocks are equal
        order = np.lexsort((second, first))
    count = np.uint64(steps)
    slots = ((first >> _HALF) * count + ((first & _LOW) * count >> _HALF)) >> _HALF  # exact for steps below 2^32
    return slots.astype(np.int64), order


def _by_digests(key: bytes, epoch: int, steps: int, names: Iterable[str]) -> tuple[Rows, Rows]:
    """The same by a digest of epoch and name, whose first 64 bits give the step, the others the order within it."""
    digest, number = keyed_for(key, "use"), epoch.to_bytes(8, "big")
    words = np.frombuffer(b"".join([digest(number + name.encode()) for name in names]), dtype=">u8")
    words = words.astype(np.uint64).reshape(-1, 4)
    slots = (words[:, 0] % np.uint64(steps)).astype(np.int64)
    return slots, np.lexsort((words[:, 3], words[:, 2], words[:, 1], slots))


def _cipher(key: bytes) -> Any:
    """AES-256 block by block: one fixed keyed permutation of tags, which are distinct."""
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES256
        from cryptography.hazmat.primitives.ciphers.modes import ECB
    except ModuleNotFoundError as error:
        raise MissingExtra("a traced training needs the package cryptography: pip install 'expunge[torch]'") from error
    return Cipher(AES256(key), ECB()).encryptor()  # noqa: S305 - nothing is kept secret by it but which block is which
