"""The one training loop of a trace: what trains, retrains and replays, so that all three agree bit for bit."""

import contextlib
import copy
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge import _validate
from expunge._progress import track
from expunge.certificate.digests import digest_tensors, weights_digest
from expunge.data import Examples
from expunge.errors import ModelRefused, StateError
from expunge.fingerprint import code_digest, model_digest
from expunge.recovery.training import Recipe, Training, one_cycle
from expunge.trace.identity import machine, repeatable, written_whole
from expunge.trace.schedule import Law, Schedule, name_tags
from expunge.trace.store import File, Folder
from expunge.training.loss import Loss, backward
from expunge.training.randomness import build, fork_coins, mode, seed_coins
from expunge.training.state import Pace, StateFile
from expunge.training.tensors import digest_bytes, tensor_infos

__all__ = ["Augment", "Engine", "Program", "Settings", "load_model"]

# augment(batch, generator) -> batch; all its coins come from the generator.
Augment = Callable[[Any, torch.Generator], Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The public configuration of a traced training, fixed without the forgotten data.

    Args:
        steps: of each epoch.
        recipe: optimiser and the one-cycle schedule over all steps; its batch_size is not used.
        smallest_batch: a step with fewer records leaves weights and optimiser as they are; 2 for BatchNorm.
        law: of the schedule.
        stages: steps of each stage that has a one-cycle schedule of its own; empty for one over all steps.
    """

    steps: tuple[int, ...]
    recipe: Recipe
    smallest_batch: int = 1
    law: Law = "aes-256"
    stages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _validate.whole(smallest_batch=self.smallest_batch)
        if self.stages and sum(self.stages) != sum(self.steps):
            raise ValueError(f"stages must have {sum(self.steps)} steps together, not {sum(self.stages)}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready fields."""
        recipe = self.recipe.to_dict()
        plain = {"steps": list(self.steps), "recipe": recipe, "smallest_batch": self.smallest_batch, "law": self.law}
        return plain | ({"stages": list(self.stages)} if self.stages else {})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Settings":
        """The settings of `to_dict`; those of an earlier version name no law."""
        return cls(
            steps=tuple(plain["steps"]), recipe=Recipe(**plain["recipe"]), smallest_batch=plain["smallest_batch"],
            law=plain.get("law", "hmac-sha256"), stages=tuple(plain.get("stages", ())),
        )  # fmt: skip

    def factor(self) -> Callable[[int], float]:
        """What the peak learning rate is multiplied by at each step."""
        stages = self.stages or (sum(self.steps),)
        starts, cycles = (0, *accumulate(stages)), [one_cycle(count) for count in stages]

        def at(step: int) -> float:
            stage = bisect_right(starts, step) - 1
            return cycles[stage](step - starts[stage])

        return at

    def schedule(self, key: bytes) -> Schedule:
        """When each record is used."""
        return Schedule(key, self.steps, law=self.law)


@dataclass(frozen=True, kw_only=True)
class Program:
    """The caller's code: a trace knows it by its digests, and needs it again for a replay."""

    make_model: Callable[[], nn.Module]
    loss: Loss
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise TypeError(
                f"loss must be a function loss(model, batch) -> scalar tensor, not {_validate.shown(self.loss)}"
            )
        if self.augment is not None and not callable(self.augment):
            raise TypeError(
                f"augment must be a function augment(batch, generator) -> batch, not {_validate.shown(self.augment)}"
            )

    def digests(self, model: nn.Module) -> dict[str, str]:
        """What must be the same in a replay; `model` is what `make_model` built, whose class may be local to it.

        Raises:
            ModelRefused: the code holds something with a state that no digest sees.
        """
        return {
            "make_model": code_digest(self.make_model, name="make_model") + model_digest(model),
            "loss": code_digest(self.loss, name="loss"),
            "augment": "none" if self.augment is None else code_digest(self.augment, name="augment"),
        }


class Engine:
    """A training that can be brought to any checkpoint and go on.

    Step t is a function of the state before it, of the records that the schedule assigns to t, and of coins that depend
    on key and t alone; never of what earlier steps consumed.

    Args:
        program: model, loss and augmentation.
        data: holds every record of `first_epochs`, and maybe others, which are not used.
        first_epochs: name -> the epoch from which the record takes part.
        settings: the public configuration.
        key: secret.

    Attributes:
        tags: of the names of the records of `first_epochs`, in the order of the data.
    """

    def __init__(
        self, program: Program, data: Examples, first_epochs: Mapping[str, int], settings: Settings, key: bytes
    ) -> None:
        self._program, self._data, self.settings = program, data, settings
        self.schedule = settings.schedule(key)
        rows = [row for row, name in enumerate(data.ids) if name in first_epochs]
        self._names = [data.ids[row] for row in rows]
        self.tags = name_tags(key, self._names)
        self._rows = np.asarray(rows, dtype=np.int64)
        self._first_epochs = np.asarray([first_epochs[name] for name in self._names], dtype=np.int64)
        self.model = build(program.make_model, torch.Generator().manual_seed(self.schedule.seed("initialisation")))
        kept = self.model.state_dict()
        beside = {name: buffer for name, buffer in self.model.named_buffers() if name not in kept}
        self.initial = weights_digest(self.model) + (code_digest(beside, name="buffers") if beside else "")
        self.code = program.digests(self.model)
        self.device = next(self.model.parameters()).device
        self.machine = machine(self.device)
        self._training = Training(self.model, settings.recipe, steps=self.schedule.total)
        self._factor = settings.factor()
        self._begun = {name: digest_bytes(tensor) for name, tensor in _untrained(self.model).items()}

    def run(
        self, folder: Folder, *, version: int, start: File | None, save_at: Sequence[int], resume: StateFile, label: str
    ) -> tuple[File, ...]:
        """Train from a checkpoint, or from the initialisation, to the end; the checkpoints written on the way.

        Args:
            folder: where they go.
            version: of the trace that is being made.
            start: the checkpoint to begin with; None for the initialisation.
            save_at: numbers of steps done at which a checkpoint is wanted.
            resume: where an interrupted run left off; deleted by the caller once the manifest is written.
            label: of the bar.

        Raises:
            ModelRefused: model, loss or augmentation keep state that no checkpoint holds.
            NonFinite: the loss is NaN or infinite; nothing of the trace has changed then.
            StateError: the checkpoint is missing or was altered.
        """
        saved = resume.load()
        done, written = 0, list[File]()
        if saved is not None:
            done, written = int(saved["done"]), [File(**file) for file in saved["written"]]
            self._restore(saved["state"])
        elif start is not None:
            done = start.step
            self._restore(folder.read_state(start))
        wanted = {step for step in save_at if step > done}
        with self._borrowed():
            pace = Pace()
            for step in track(self._steps(done), total=self.schedule.total - done, label=label):
                if step in wanted or step == done + 1:
                    self._refuse_state()
                if step in wanted:
                    written.append(folder.write_state(f"v{version}-step{step}.pt", step, self._state()))
                pace.save(lambda step=step: resume.save(self._unfinished(step, written)))
        for parameter in self.model.parameters():
            parameter.grad = None
        self._refuse_state()
        return tuple(written)

    def _refuse_state(self) -> None:
        """Raise unless model, loss and augmentation hold what they held before the first step."""
        for name, now in self._program.digests(self.model).items():
            if now != self.code[name]:
                raise ModelRefused(
                    f"{name} keeps something from one step to the next (a counter, a log, a cache, an attribute): a replay "
                    "begins in the middle and would not find it as it was. Keep state in buffers of the network, log outside"
                )

    def _unfinished(self, step: int, written: list[File]) -> dict[str, Any]:
        return {"done": step, "written": [asdict(f) for f in written], "state": self._state()}

    @contextlib.contextmanager
    def _borrowed(self) -> Generator[None]:
        """Global generators, modes and switches, all of which come back."""
        with fork_coins(self.device), mode(self.model, training=True), repeatable():
            yield

    def batches(self, done: int = 0) -> Iterator[NDArray[np.int64]]:
        """The rows of the data that each step uses, from step `done` on."""
        schedule = self.schedule
        for epoch in range(schedule.epochs):
            if schedule.starts[epoch + 1] <= done:
                continue
            found = schedule.epoch(epoch, self._names, self._first_epochs, tags=self.tags)
            for rows in found[max(0, done - schedule.starts[epoch]) :]:
                yield self._rows[rows]

    def _steps(self, done: int) -> Iterator[int]:
        for step, rows in enumerate(self.batches(done), start=done):
            self._step(step, rows)
            yield step + 1

    def _step(self, step: int, rows: NDArray[np.int64]) -> None:
        if len(rows) < self.settings.smallest_batch:
            return  # no decay and no momentum either, so that the step depends on nothing
        optimizer = self._training.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.settings.recipe.learning_rate * self._factor(step)
        with written_whole():
            batch: Any = self._data.batch(torch.from_numpy(rows))
        if self._program.augment is not None:
            coins = torch.Generator(self._data.values[0].device).manual_seed(self.schedule.seed("augmentation", step))
            self._seed("augmentation beside its generator", step)
            batch = self._program.augment(batch, coins)
        self._seed("step", step)
        optimizer.zero_grad()
        backward(self._program.loss, self.model, batch)
        self._training.update()

    def _seed(self, purpose: str, step: int) -> None:
        """Set the global generators to the coins of this step."""
        bits = 32 if self.settings.law == "aes-256" else 64
        seed_coins(self.schedule.seed(purpose, step), self.device, numpy_bits=bits)

    def _state(self) -> dict[str, Any]:
        """Everything the next step depends on; buffers that `state_dict` leaves out are among it.

        What is not trained and is as `make_model` built it (a public base) is left out, and known by its digest.
        """
        kept = self.model.state_dict()
        extra = {name: b for name, b in self.model.named_buffers() if name not in kept}
        untrained = _untrained(self.model)
        same = {name for name, digest in self._begun.items() if digest_bytes(untrained[name]) == digest}
        state = {
            "model": {name: tensor for name, tensor in kept.items() if name not in same},
            "buffers": {name: tensor for name, tensor in extra.items() if name not in same},
            "optimizer": self._training.optimizer.state_dict(),
        }
        return state | ({"as_built": _digest_of(untrained, same)} if same else {})

    def _restore(self, state: dict[str, Any]) -> None:
        load_model(self.model, state)
        self._training.optimizer.load_state_dict(state["optimizer"])

    def final_state(self) -> dict[str, Any]:
        """The finished model, without its optimiser."""
        return {name: part for name, part in self._state().items() if name != "optimizer"}

    def state_bytes(self) -> int:
        """About how large a checkpoint will be: the model, and one or two numbers a weight for the optimiser."""
        tensors: list[Tensor] = [*(p for p in self.model.parameters() if p.requires_grad), *self.model.buffers()]
        trained = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        recipe = self.settings.recipe
        slots = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
        return sum(t.numel() * t.element_size() for t in tensors) + slots * trained + 1024 * (len(tensors) + 4)


def load_model(model: nn.Module, state: dict[str, Any]) -> None:
    """Bring a model, as it was built, to a checkpoint's weights and buffers.

    Raises:
        StateError: what the checkpoint leaves out is not what it was in the training.
    """
    buffers = dict(model.named_buffers())
    if "as_built" in state:
        untrained = _untrained(model)
        same = untrained.keys() - state["model"].keys() - state["buffers"].keys()
        if _digest_of(untrained, same) != state["as_built"]:
            raise StateError(
                "parts that are not trained (a public base) are not what they were in the training: make_model must build the same"
            )
        model.load_state_dict(copy.copy(state["model"]), strict=False)
    else:
        model.load_state_dict(copy.copy(state["model"]))
    with torch.no_grad():
        for name, value in state["buffers"].items():
            buffers[name].copy_(value)


def _untrained(model: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters, under every name, and buffers."""
    frozen = {name: p for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return frozen | dict(model.named_buffers(remove_duplicate=False))


def _digest_of(tensors: Mapping[str, Tensor], names: Collection[str]) -> str:
    return digest_tensors(tensor_infos({name: tensors[name] for name in names}))
