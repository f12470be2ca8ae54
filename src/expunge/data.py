"""Examples held as tensors, batches by seed, splits by index, and commitments to sets of examples."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from expunge import _validate
from expunge._files import write_new
from expunge.randomness.secret import entropy

__all__ = ["Batches", "Examples", "commit", "new_commitment_key", "split"]


class Examples:
    """Aligned tensors whose first axis counts examples, e.g. `Examples(x, y)`; batches are tuples of tensors.

    Args:
        tensors: of the same length, on one device.
        ids: a stable name for each example, for commitments; by default its position.

    Raises:
        ValueError: no tensor, no example, or unequal lengths.
    """

    def __init__(self, *tensors: Tensor, ids: Sequence[str] | None = None) -> None:
        if not tensors or not all(isinstance(t, Tensor) and t.dim() > 0 for t in tensors):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("Examples takes tensors whose first axis counts examples, e.g. Examples(x, y)")
        lengths = [len(t) for t in tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"tensors must have the same length, not {lengths}")
        if lengths[0] == 0:
            raise ValueError("the set of examples is empty")
        if ids is not None and len(ids) != lengths[0]:
            raise ValueError(f"ids must name every example: {len(ids)} ids for {lengths[0]} examples")
        self.tensors = tensors
        self.ids = list(ids) if ids is not None else [str(i) for i in range(lengths[0])]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, index: Tensor | Sequence[int]) -> "Examples":
        """The examples at `index`, with their ids."""
        where = torch.as_tensor(index, dtype=torch.long).cpu()
        kept = where.tolist()
        return Examples(*(t[where.to(t.device)] for t in self.tensors), ids=[self.ids[i] for i in kept])

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples on another device."""
        return Examples(*(t.to(device) for t in self.tensors), ids=self.ids)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """All examples once, in order."""
        _validate.whole(size=size)
        yield from zip(*(t.split(size) for t in self.tensors), strict=True)


class Batches:
    """An endless stream of minibatches, a new random order each epoch; the last incomplete batch of an epoch is left out.

    Args:
        source: `Examples`, a `TensorDataset`, a tuple of tensors, or anything that can be iterated again and again for
            batches, such as a `DataLoader`.
        batch_size: examples a batch (fewer where there are fewer); not used where the source makes its own batches.
        seed: decides the order together with the epoch.
        skip: batches already used, when a run goes on.

    Raises:
        ValueError: the source is empty.
    """

    def __init__(self, source: Any, *, batch_size: int, seed: int, skip: int = 0) -> None:
        _validate.whole(batch_size=batch_size)
        self.examples = as_examples(source)
        self._loader = cast("Iterable[Any]", source)
        self._size, self._seed = batch_size, seed
        if self.examples is None and skip:
            raise ValueError("a run on a loader of one's own cannot go on from a state file; pass Examples(x, y)")
        self._skip = skip

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        if self.examples is not None:
            return max(1, len(self.examples) // self._size)
        try:
            return max(1, len(cast("Sequence[Any]", self._loader)))
        except TypeError as error:
            raise TypeError("the loader has no length; pass Examples(x, y) or steps") from error

    def __iter__(self) -> Iterator[Any]:
        return self._from_examples(self.examples) if self.examples is not None else self._from_loader()

    def _from_examples(self, examples: Examples) -> Iterator[tuple[Tensor, ...]]:
        epoch, first = divmod(self._skip, self.per_epoch)
        while True:
            order = torch.randperm(len(examples), generator=_seeded(self._seed, epoch))
            for k in range(first, self.per_epoch):
                where = order[k * self._size : (k + 1) * self._size]
                yield tuple(t[where.to(t.device)] for t in examples.tensors)
            epoch, first = epoch + 1, 0

    def _from_loader(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self._loader:
                empty = False
                yield batch
            if empty:
                raise ValueError(
                    "retain gave no batch: the retain set is empty, or the iterator cannot be iterated again"
                )


def as_examples(source: Any) -> Examples | None:
    """`source` as `Examples`, or None where it makes batches of its own."""
    if isinstance(source, Examples):
        return source
    if isinstance(source, TensorDataset):
        return Examples(*source.tensors)
    if isinstance(source, (tuple, list)) and source and all(isinstance(t, Tensor) for t in cast("list[Any]", source)):
        return Examples(*cast("list[Tensor]", source))
    if source is None or isinstance(source, (str, bytes, Tensor, dict)) or not isinstance(source, Iterable):
        raise TypeError(f"data must be Examples, tensors (x, y), or a loader of batches, not {type(source).__name__}")
    return None


def split(examples: Examples, sizes: Sequence[int], *, generator: torch.Generator) -> list[Examples]:
    """Disjoint random parts of the given sizes; what is left over is the last part."""
    for size in sizes:
        _validate.whole(size=size)
    if sum(sizes) >= len(examples):
        raise ValueError(f"sizes {list(sizes)} leave nothing of {len(examples)} examples")
    order = torch.randperm(len(examples), generator=generator)
    return [examples.take(part) for part in order.split([*sizes, len(examples) - sum(sizes)])]


def new_commitment_key(path: str | Path | None = None) -> bytes:
    """A fresh secret key of 32 bytes; written to `path` (readable by its owner alone) where one is given."""
    key = entropy(32)
    if path is not None:
        write_new(path, key.hex().encode() + b"\n", private=True)
    return key


def commit(ids: Iterable[str], *, key: bytes) -> str:
    """A keyed commitment to a set of ids: hides them and their number, binds whoever holds the key.

    HMAC-SHA256 over the sorted digests of the ids. To open it, hand over key and ids; the reader recomputes.

    >>> commit(["a", "b"], key=bytes(32)) == commit(["b", "a"], key=bytes(32))
    True
    """
    if len(key) < 32:
        raise ValueError(f"key must have at least 32 bytes, not {len(key)}; use new_commitment_key()")
    digests = sorted(hashlib.sha256(i.encode()).digest() for i in ids)
    return f"hmac-sha256:{hmac.new(key, b'expunge.commitment/1' + b''.join(digests), 'sha256').hexdigest()}"


def _seeded(seed: int, epoch: int) -> torch.Generator:
    mixed = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:7], "big"))
