"""The processes of the default process group of torch.distributed, and what they say to each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from expunge._workers import processes, refuse_without_group
from expunge.errors import RunError
from expunge.randomness.secret import Secret

__all__ = ["ALONE", "Workers"]

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This worker's number, from 0, and how many there are; all methods but properties are called by all of them together.

    With one worker nothing is sent, and torch.distributed need not be there.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Workers":
        """Those of the default process group.

        Raises:
            RunError: torchrun started several processes, but there is no process group.
        """
        refuse_without_group()
        return cls(*processes())

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this is the one that draws secrets, writes files and issues certificates."""
        return self.rank == 0

    def share(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every worker.

        Raises:
            Exception: rank 0's, there; elsewhere a `RunError` that names it.
        """
        if not self.several:
            return make()
        said: list[Any] = [None, None]
        error: Exception | None = None
        if self.first:
            try:
                said = [make(), None]
            except Exception as raised:  # noqa: BLE001  the others wait for an answer
                error, said = raised, [None, f"{type(raised).__name__}: {raised}"]
        _distributed().broadcast_object_list(said, src=0)
        if error is not None:
            raise error
        if said[1] is not None:
            raise RunError(f"worker 0 failed: {said[1]}")
        return cast("T", said[0])

    def secret(self, coins: Secret | torch.Generator | None) -> Secret | torch.Generator | None:
        """One secret for all: rank 0's, sent to the others and held in memory; with one worker the coins themselves.

        Args:
            coins: as `Secret.of` takes them; those of other ranks than 0 are not used.
        """
        if not self.several:
            return coins

        def drawn() -> tuple[bytes, str]:
            own = Secret.of(coins)
            return own.reveal(), own.origin

        key, origin = self.share(drawn)
        return Secret(key, origin=origin)

    def each(self, own: T) -> list[T]:
        """What every worker gives, in the order of their numbers."""
        if not self.several:
            return [own]
        found: list[Any] = [None] * self.size
        _distributed().all_gather_object(found, own)
        return found

    def to_first(self, own: T) -> list[T] | None:
        """What every worker gives, on rank 0; None elsewhere."""
        if not self.several:
            return [own]
        found: list[Any] | None = [None] * self.size if self.first else None
        _distributed().gather_object(own, found, dst=0)
        return found

    def agree(self, told: Mapping[str, object]) -> None:
        """Raise unless all workers give the same.

        Args:
            told: by name; what differs is named, never shown.

        Raises:
            RunError: they differ.
        """
        each = self.each(dict(told))
        for rank, other in enumerate(each):
            names = [name for name in sorted(each[0].keys() | other.keys()) if each[0].get(name) != other.get(name)]
            if names:
                raise RunError(
                    f"workers 0 and {rank} of {self.size} disagree on {', '.join(names)}: one run is shared by workers that hold "
                    "the same model, data and options"
                )

    def together(self, error: Exception | None) -> None:
        """Raise on every worker where one of them failed.

        Raises:
            Exception: this worker's own; a `RunError` where another's.
        """
        if not self.several:
            if error is not None:
                raise error
            return
        failed = self.add_(torch.tensor([float(error is not None)]))
        if error is not None:
            raise error
        if float(failed) > 0:
            raise RunError("another worker failed at this step: its own message says why")

    def add_(self, tensor: Tensor) -> Tensor:
        """Set a tensor to the sum of all workers' in place; all get the same bits."""
        if not self.several:
            return tensor
        dist = _distributed()
        if tensor.device.type == "cpu" and str(dist.get_backend()) == "nccl":  # which carries what is on a card alone
            there = tensor.cuda()
            dist.all_reduce(there)
            return tensor.copy_(there)
        dist.all_reduce(tensor)
        return tensor


ALONE = Workers()


def _distributed() -> Any:
    import torch.distributed as dist  # late: one worker needs none of it

    return dist
