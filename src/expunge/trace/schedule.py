"""When each record is used: a keyed hash of its own name and the epoch, and nothing else."""

import hmac
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from expunge import _validate

__all__ = ["KEY_BYTES", "Schedule", "keyed"]

KEY_BYTES = 32
_DOMAIN = b"expunge.trace/1/"


def keyed(key: bytes, purpose: str, content: bytes = b"") -> bytes:
    """32 bytes of HMAC-SHA256, independent for every purpose and content as long as the key is secret."""
    return hmac.digest(key, _DOMAIN + purpose.encode() + b"\0" + content, "sha256")


def check_key(key: object) -> None:
    """Raise unless `key` is a secret of at least 32 bytes."""
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes, e.g. from new_commitment_key(), not {type(key).__name__}")
    if len(key) < KEY_BYTES:
        raise ValueError(f"key must have at least {KEY_BYTES} bytes, not {len(key)}; use new_commitment_key()")


class Schedule:
    """Which records each step uses, and the coins of each step.

    In every epoch a record is used once, at the step that HMAC-SHA256(key, epoch, name) picks: every step of the epoch is
    equally likely, up to a bias of steps/2^64. Removing other records moves nothing, so batch sizes vary: about Poisson,
    with mean records/steps. The rest of the digest gives the order within a batch.

    Args:
        key: secret, at least 32 bytes, drawn without the data.
        steps: how many steps each epoch has, one number an epoch; fixed without the forgotten data.
    """

    def __init__(self, key: bytes, steps: Sequence[int]) -> None:
        check_key(key)
        if not steps:
            raise ValueError("steps must hold one number for each epoch, at least one")
        for count in steps:
            _validate.whole(steps=count)
        self._key = key
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
        word = int.from_bytes(self._digest(name, epoch)[:8], "big")
        return self.starts[epoch] + word % self.steps[epoch]

    def epoch(self, epoch: int, names: Sequence[str], first_epochs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The rows of each step's batch, in order.

        Args:
            epoch: 0, 1, ...
            names: of the records, distinct.
            first_epochs: shape (n,), the epoch from which each record takes part.
        """
        rows = np.flatnonzero(first_epochs <= epoch)
        digests = b"".join(self._digest(names[row], epoch) for row in rows.tolist())
        words = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 4)
        slots = (words[:, 0] % np.uint64(self.steps[epoch])).astype(np.int64)
        order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], slots))
        edges = np.searchsorted(slots[order], np.arange(self.steps[epoch] + 1))
        return [rows[order[begin:end]] for begin, end in pairwise(edges.tolist())]

    def seed(self, purpose: str, step: int = 0) -> int:
        """A seed for torch that depends on key, purpose and step alone, below 2^63."""
        return int.from_bytes(keyed(self._key, f"coins/{purpose}", step.to_bytes(8, "big"))[:8], "big") >> 1

    def _digest(self, name: str, epoch: int) -> bytes:
        return keyed(self._key, "use", epoch.to_bytes(8, "big") + name.encode())
