"""How one request is carried out: where an interrupted run leaves its state, whose coins it tosses, who watches."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

__all__ = ["SECRET", "Run", "keys_in", "state_in"]

SECRET = "secret"  # noqa: S105  the name of a folder


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an unlearner.

    Args:
        folder: in which an interrupted run leaves its state files, and where what the next request needs is put; without
            one nothing is kept.
        seed: of all coins, for experiments, which are repeated; a release leaves it out, and the coins are secret.
        on_epoch: called with (epochs done, model in evaluation mode) before and after every epoch of recovery, for curves.
    """

    folder: Path | None = None
    seed: int | None = None
    on_epoch: Callable[[int, nn.Module], None] | None = None

    def state(self, name: str) -> Path | None:
        """A file from which an interrupted run goes on."""
        return None if self.folder is None else self.folder / f"{name}.state"

    def generator(self, use: int, device: torch.device | str = "cpu") -> torch.Generator | None:
        """Coins of their own for each use; None for secret ones."""
        if self.seed is None:
            return None
        return torch.Generator(device).manual_seed(10_000 * (self.seed + 1) + use)


def keys_in(work: Path) -> Path:
    """Where a working folder keeps keys."""
    return _inside(work, "keys")


def state_in(work: Path) -> Path:
    """Where a working folder keeps the state that the next request starts from."""
    return _inside(work, "state")


def _inside(work: Path, name: str) -> Path:
    for folder in (work / SECRET, work / SECRET / name):  # one by one: modes of parents are not set
        folder.mkdir(mode=0o700, exist_ok=True)
    return work / SECRET / name
