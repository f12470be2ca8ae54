"""How far a recovery has come, and what it needs to go on after an interruption."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from expunge.data import Batches
from expunge.errors import RunError
from expunge.parallel.sharding import is_sharded, like, sharded, take_, whole
from expunge.parallel.workers import ALONE, Workers
from expunge.training.randomness import coins_state, restore_coins
from expunge.training.shared_batches import Portion, portions

__all__ = ["Progress", "Stateful"]


class Stateful(Protocol):
    """Anything with a state: an optimiser, its schedule, a module."""

    def state_dict(self) -> Any:
        """All that is needed to go on."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Go on from a state."""
        ...


class Progress:
    """The steps of one recovery, as `for step in progress:` goes through them, and what is kept between them.

    What a recovery does before its loop is done again when an interrupted run goes on: with the same weights, batches and
    coins, hence with the same outcome. At the head of the loop model, batches, coins and everything that was given to
    `keep` are then brought to where they were. So a run ends at the same bits whether it was interrupted or not.

    Args:
        model: that is changed.
        retain: the retained data.
        batch_size: rows of a batch, where they are `Examples`.
        seed: of the batches' order.
        total: number of steps.
        public: names of parameters and buffers that carry no noise.
        saved: what `state` returned before the interruption.
        workers: that share the run.

    Attributes:
        adding: workers whose gradients are to be added up; those of parameters in shards are, by `fully_shard`.
        total: number of steps.
        done: steps that are done.
        batches: of the retained rows.
        public: names of parameters and buffers that carry no noise.
    """

    def __init__(
        self,
        model: nn.Module,
        retain: Any,
        *,
        batch_size: int,
        seed: int,
        total: int,
        public: Collection[str] = (),
        saved: dict[str, Any] | None = None,
        workers: Workers = ALONE,
    ) -> None:
        self._parted = sharded(model)
        self.adding = ALONE if self._parted else workers
        self.total, self.public = total, frozenset(public)
        self.done: int = saved["done"] if saved else 0
        self._seed: int = saved["seed"] if saved else seed
        self.batches = _Stream(retain, batch_size=batch_size, seed=self._seed)
        self._model, self._saved, self._looping = model, saved, False
        self._kept: dict[str, Stateful] = {}
        self._device = next(model.parameters()).device
        self.batches.portioned = (
            partial(portions, workers=workers, seed=self._seed, device=self._device)
            if workers.several or self._parted
            else None
        )
        if saved:
            restore_coins(saved["begun"], self._device)
        self._begun: dict[str, Any] = coins_state(self._device)

    @property
    def retained(self) -> int | None:
        """How many retained rows there are; None where they are no `Examples` but batches of a loader."""
        return self.batches.length

    @property
    def rows(self) -> Tensor | None:
        """Positions among the retained rows of the batch that was taken last, (b,); None where a loader makes the batches."""
        return self.batches.rows

    def keep(self, **things: Stateful) -> None:
        """Have the state of optimisers, schedules, averages and the like saved, and restored at the head of the loop.

        Args:
            things: by name; what changes in the loop, the model apart, and has `state_dict` and `load_state_dict`.

        Raises:
            TypeError: something has no state, or a name is given twice.
            RunError: the loop has begun.
        """
        if self._looping:
            raise RunError(f"progress.keep({', '.join(things)}) comes too late: call it before `for step in progress`")
        for name, thing in things.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")) or name in self._kept:
                raise TypeError(
                    f"progress.keep({name}=...) takes a thing with state_dict and load_state_dict, each name once"
                )
            self._kept[name] = thing

    def __iter__(self) -> Iterator[int]:
        """The numbers of the steps to be done, counted from 1."""
        if self._looping:
            raise RunError("`for step in progress` was begun a second time: it goes through all steps once")
        self._looping = True
        self._restore()
        return iter(range(self.done + 1, self.total + 1))

    def through(self, steps: Iterator[int], name: str) -> Iterator[int]:
        """Count the steps of a recovery.

        Args:
            steps: of `Recovery.steps`.
            name: of the recovery.

        Raises:
            RunError: they do not count up by one to `total`, or do not come from `for step in progress`.
        """
        for done in steps:
            if not self._looping:
                raise RunError(f"recovery '{name}' does not go through its steps by `for step in progress`")
            if done != self.done + 1 or done > self.total:
                raise RunError(f"recovery '{name}' yields {done!r} after {self.done} of {self.total} steps")
            self.done = done
            yield done
        if not self._looping or self.done != self.total:
            raise RunError(f"recovery '{name}' ended after {self.done} of {self.total} steps")

    def state(self) -> dict[str, Any]:
        """Everything needed to go on after the step that is done; to be written before the next one."""
        return {
            "done": self.done, "seed": self._seed, "taken": self.batches.taken, "begun": self._begun, "coins": coins_state(self._device),
            "model": _whole(self._model.state_dict()), "kept": {name: _whole(thing.state_dict()) for name, thing in self._kept.items()},
        }  # fmt: skip

    def _restore(self) -> None:
        if self._saved is None:
            return
        saved, self._saved = self._saved, None
        if self._parted:
            for name, tensor in self._model.state_dict().items():
                take_(tensor, saved["model"][name])
        else:
            self._model.load_state_dict(saved["model"])
        for name, thing in self._kept.items():
            thing.load_state_dict(_cut(thing, saved["kept"][name]))
        self.batches.seek(saved["taken"])
        restore_coins(saved["coins"], self._device)


def _whole(state: Any) -> Any:
    """A state with everything in shards gathered; all workers call it."""
    if isinstance(state, Tensor):
        return whole(state).cpu() if is_sharded(state) else state
    if isinstance(state, dict):
        return {key: _whole(part) for key, part in cast("dict[Any, Any]", state).items()}
    return state


def _cut(thing: Stateful, state: Any) -> Any:
    """A state of `_whole`, for this worker: what an optimiser keeps of a parameter is cut as the parameter is."""
    if not isinstance(thing, torch.optim.Optimizer):
        return state
    parameters: list[Tensor] = [p for group in thing.param_groups for p in group["params"]]
    if not any(is_sharded(p) for p in parameters):
        return state

    def cut(of: Tensor, value: Any) -> Any:
        return like(of, value) if isinstance(value, Tensor) and value.shape == of.shape else value

    kept = {k: {name: cut(parameters[k], v) for name, v in own.items()} for k, own in state["state"].items()}
    return {**state, "state": kept}


class _Stream:
    """Batches, counted."""

    def __init__(self, retain: Any, **how: int) -> None:
        self._retain, self._how, self.taken = retain, how, 0
        self._now: Iterator[tuple[Tensor | None, Any]] | None = None
        self.portioned: Callable[..., Iterator[Portion]] | None = None  # what several workers make of the batches
        self.rows: Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._now is None:
            numbered = Batches(self._retain, skip=self.taken, **self._how).numbered()
            if self.portioned is not None:
                whole = (batch for _, batch in numbered)
                numbered = ((None, portion) for portion in self.portioned(whole, done=self.taken))
            self._now = numbered
        self.rows, batch = next(self._now)
        self.taken += 1
        return batch

    @property
    def length(self) -> int | None:
        """Of the data, in rows."""
        examples = Batches(self._retain, **self._how).examples
        return None if examples is None else len(examples)

    def seek(self, taken: int) -> None:
        """Go on behind so many batches."""
        self._now, self.taken = None, taken
