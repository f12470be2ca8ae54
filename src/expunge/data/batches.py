"""Minibatches by seed, without end; and what can be done with a batch whatever its form."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from expunge import _validate
from expunge.data.examples import Batch, Examples, as_examples

__all__ = ["Batches", "changed", "tensors_in"]


class Batches:
    """An endless stream of minibatches, a new random order each epoch; the last incomplete batch of an epoch is left out.

    Args:
        source: `Examples`, a `TensorDataset`, a tuple or dict of tensors, or anything that can be iterated again and again for
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
        return (batch for _, batch in self.numbered())

    def numbered(self) -> Iterator[tuple[Tensor | None, Any]]:
        """Each batch after the positions of its rows, (b,), or after None where the source makes its own batches."""
        return self._from_examples(self.examples) if self.examples is not None else self._from_loader()

    def _from_examples(self, examples: Examples) -> Iterator[tuple[Tensor, Batch]]:
        epoch, first = divmod(self._skip, self.per_epoch)
        while True:
            order = torch.randperm(len(examples), generator=_seeded(self._seed, epoch))
            for k in range(first, self.per_epoch):
                rows = order[k * self._size : (k + 1) * self._size]
                yield rows, examples.batch(rows)
            epoch, first = epoch + 1, 0

    def _from_loader(self) -> Iterator[tuple[None, Any]]:
        while True:
            empty = True
            for batch in self._loader:
                empty = False
                yield None, batch
            if empty:
                raise ValueError(
                    "retain gave no batch: the retain set is empty, or the iterator cannot be iterated again"
                )


def tensors_in(batch: Batch) -> tuple[Tensor, ...]:
    """The tensors of a batch, in order."""
    return tuple(batch.values()) if isinstance(batch, dict) else batch


def changed(batch: Batch, how: Callable[[Tensor], Tensor]) -> Batch:
    """A batch of the same form, each of its tensors changed by `how`."""
    if isinstance(batch, dict):
        return {name: how(values) for name, values in batch.items()}
    return tuple(how(values) for values in batch)


def _seeded(seed: int, epoch: int) -> torch.Generator:
    mixed = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:7], "big"))
