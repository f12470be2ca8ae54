"""Energy-based distribution matching with a persistent buffer of samples: a recovery, whose steps own the buffer."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.policies.energies import EnergyMatching, Langevin, cloning, occupancy_gap, within
from expunge.policies.scores import demonstrated, refuse_mixing
from expunge.recovery import Progress, Recipe, rescale_, training_steps
from expunge.recovery.training import Training
from expunge.training.loss import Loss
from expunge.training.tensors import named_parameters

__all__ = ["PersistentEnergyMatching"]


@dataclass(frozen=True, kw_only=True)
class PersistentEnergyMatching:
    """Train by `loss` + L + L², where Langevin steps go on from a buffer of earlier samples.

    The buffer is made at the head of `steps`, from the range of the first retained batch and the run's coins, and is gone when
    they end. No argument, field or global gives `steps` samples of an earlier training, with forgotten demonstrators in them.
    With a fresh model it is the training itself: `recover(make_model(), rows, loss=cloning, recovery=PersistentEnergyMatching())`.

    Args:
        epochs: passes over the retained data.
        recipe: optimiser and schedule.
        langevin: how samples move.
        buffer: states in the buffer.
        renewed: the chance of a sample to begin anew.
        rescale: first bring each layer back to its initialisation scale (`rescale_`).
    """

    name: ClassVar[str] = "persistent_energy_matching"
    reads: ClassVar[str] = "retained rows"

    epochs: float = 5
    recipe: Recipe = field(default_factory=Recipe)
    langevin: Langevin = field(default_factory=Langevin)
    buffer: int = 10_000
    renewed: float = 0.05
    rescale: bool = False

    def __post_init__(self) -> None:
        _validate.positive(epochs=self.epochs)
        _validate.whole(buffer=self.buffer)
        if not 0 <= self.renewed <= 1:
            raise ValueError(f"renewed must lie in [0, 1], not {self.renewed!r}")
        if self.buffer < self.recipe.batch_size:
            raise ValueError(f"buffer={self.buffer} must hold a batch, batch_size={self.recipe.batch_size}")

    @property
    def batch_size(self) -> int:
        """Of the recipe."""
        return self.recipe.batch_size

    def total(self, per_epoch: int) -> int:
        """The steps of so many epochs."""
        return max(1, round(self.epochs * per_epoch))

    def steps(self, model: nn.Module, batches: Iterator[Any], loss: Loss, progress: Progress) -> Iterator[int]:
        """Minibatch training in place; of a task whose loss is `EnergyMatching` the cross-entropy alone is taken of it.

        Raises:
            ModelRefused: a layer mixes the rows of a batch, or the model gives no scores for actions.
        """
        refuse_mixing(model)
        if self.rescale:
            rescale_(model, public=[p for name, p in named_parameters(model) if name in progress.public])
        training = Training(model, self.recipe, steps=progress.total)
        states, _ = demonstrated(next(batches))
        chains = _Chains(states, self)
        progress.keep(optimizer=training.optimizer, schedule=training.schedule, chains=chains)
        own = cloning if isinstance(loss, EnergyMatching) else loss

        def matched(model: nn.Module, batch: Any) -> Tensor:
            states, _ = demonstrated(batch)
            gap = occupancy_gap(model, states, chains.sampled(model, len(states)))
            return own(model, batch) + gap + gap**2

        yield from training_steps(training, batches, loss=matched, steps=progress)


class _Chains:
    """Samples that Langevin steps go on from, each begun within the range of some states.

    Args:
        states: shape (n, ...).
        settings: the recovery.
    """

    def __init__(self, states: Tensor, settings: PersistentEnergyMatching) -> None:
        self._range = torch.stack([states.amin(0), states.amax(0)])
        self._settings = settings
        self.states = within(self._range, settings.buffer)

    def sampled(self, model: nn.Module, number: int) -> Tensor:
        """Move so many of them, chosen at random, some of them begun anew; shape (number, ...)."""
        chosen = torch.randperm(len(self.states), device=self.states.device)[:number]
        begun = within(self._range, number)
        anew = torch.rand(number, device=begun.device) < self._settings.renewed
        start = torch.where(anew.reshape(-1, *[1] * (begun.dim() - 1)), begun, self.states[chosen])
        moved = self._settings.langevin.moved(model, start)
        self.states[chosen] = moved
        return moved

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes."""
        return {"states": self.states}

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Go on from a state."""
        self.states = state_dict["states"].clone()
