"""What the noisy unlearners have in common: a mechanism on the trained weights, then recovery on the retained data."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import inf, sqrt
from typing import Any, ClassVar, cast

from torch import nn

from expunge import _validate
from expunge.accounting import Bound, Budget, Claim, Mechanism, Relation, calibrate, delta_at, guarantee
from expunge.data import Batches, Examples
from expunge.data.coverage import coverage_of
from expunge.errors import ExpungeError, TaskError
from expunge.record import RunRecord
from expunge.recovery import Recipe
from expunge.recovery.fine_tuning import recover
from expunge.training.interruption import state_file
from expunge.training.public_parts import keeping_public
from expunge.training.state import StateFile
from expunge.training.task import Task
from expunge.training.unlearned import Unlearned
from expunge.training.weights import FlatWeights
from expunge.unlearners.certified import Executor, run_executor
from expunge.unlearners.costs import Costs
from expunge.unlearners.options import option
from expunge.unlearners.protocol import KEEPS_NOTHING, Quote
from expunge.unlearners.recalled import EVERY_SETTING, Procedure, Recalled
from expunge.unlearners.retrain import retrain
from expunge.unlearners.working import Run

__all__ = ["Noisy"]

_TOLD = (
    "The released accuracy is also the work of the training after the noise. What a model that never saw data, and a retraining, "
    "reach with the same steps was not measured: expunge.compare measures both."
)
_LARGEST = 1e300  # of a ratio that is still a number


@dataclass(frozen=True, kw_only=True)
class Noisy(ABC):
    """A noisy mechanism on a trained network, with recovery; each has a name, a file and a theorem of its own.

    Args:
        noise_std: of the noise; by default the least that meets the budget.
        epochs: of recovery.
        recovery_lr: its peak learning rate.
        optimizer: of recovery, "sgd" or "adamw".
        batch_size: examples a batch.
        rescale: whether recovery first brings each layer back to its initialisation scale.
        trained: a trained model to start from in place of the task's; set by `learn`.
        training_epochs: of `learn`; by default as many as of recovery.
        finished: a finished mechanism, in place of one made from these options.
        recovers: the whole recipe of recovery, in place of its learning rate, optimiser and batch size.
    """

    name: ClassVar[str]
    reads: ClassVar[str] = "retained data"

    noise_std: float | None = None
    epochs: float = option("epochs")
    recovery_lr: float = option("recovery_lr")
    optimizer: str = option("optimizer")
    batch_size: int = option("batch_size")
    rescale: bool = option("rescale")
    trained: nn.Module | None = None
    training_epochs: float | None = None
    finished: Mechanism | None = None
    recovers: Recipe | None = None

    def __post_init__(self) -> None:
        _validate.positive(epochs=self.epochs)
        self.recipe  # noqa: B018  names the field that is out of range

    @property
    @abstractmethod
    def executor(self) -> Executor:
        """What carries the mechanism out, step by step."""

    @abstractmethod
    def with_noise(self, task: Task, noise_std: float) -> Mechanism:
        """The mechanism with this noise; more of it never proves less."""

    @property
    def recipe(self) -> Recipe:
        """Of recovery."""
        if self.recovers is not None:
            return self.recovers
        return Recipe(optimizer=cast("Any", self.optimizer), learning_rate=self.recovery_lr, batch_size=self.batch_size)

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> Mechanism:
        """With the least noise that meets the budget, where none was given."""
        if self.finished is not None:
            return self.finished
        if self.noise_std is not None:
            return self.with_noise(task, self.noise_std)
        return calibrate(lambda std: self.with_noise(task, std), budget, relation=relation)

    @property
    def learns_for(self) -> float:
        """Epochs of the training that `learn` makes."""
        return self.epochs if self.training_epochs is None else self.training_epochs

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """The unlearner of a finished mechanism; None where it is another one's."""
        if mechanism.name != cls.name:
            return None
        recipe, own = procedure.recipe, procedure.batch_size
        unlearner = cls(
            finished=mechanism, recovers=recipe, epochs=procedure.epochs, training_epochs=procedure.training_epochs,
            rescale=procedure.rescale, batch_size=recipe.batch_size if own is None else own,
        )  # fmt: skip
        return Recalled(unlearner=unlearner, reads=EVERY_SETTING)

    def on_one_weight(self, mechanism: Mechanism) -> Mechanism:
        """The same mechanism: its steps treat every number of weights alike."""
        return mechanism

    def starting_from(self, model: nn.Module) -> "Noisy":
        """With `model` in the place of the trained one."""
        return replace(self, trained=model)

    def learn(self, task: Task, rows: Examples, run: Run) -> "Noisy":
        """Train a model on rows, to start from: from the task's centre, its public parts left as they are."""
        if task.make_model is None:
            raise TaskError("the task has no make_model: no model can be trained")
        with keeping_public(task) as own:
            done = retrain(
                cast("Any", own.make_model), rows, loss=task.loss, epochs=self.learns_for, recipe=self.recipe,
                generator=run.generator(4),
            )  # fmt: skip
        return replace(self, trained=done.model)

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """What it would prove and cost, and what of the weights survives the noise."""
        try:
            mechanism = self.mechanism(task, budget, relation)
            weights = FlatWeights(
                copy.deepcopy(task.model), public=task.public, center=task.center,
                reset_buffers=task.buffers == "reset",
            )  # fmt: skip
        except ExpungeError as error:
            return Quote(unlearner=self.name, applies=False, why=str(error))
        proven = guarantee(mechanism, delta=budget.delta, relation=relation)
        gap = delta_at(mechanism, 0.0)  # total variation: the most by which the chance of any event can differ
        steps = mechanism.gradient_steps + round(self.epochs * costs.per_epoch(self.batch_size))
        return Quote(
            unlearner=self.name, applies=proven.meets(budget), why=_words(proven, budget, gap),
            claim=proven, steps=steps, seconds=steps * costs.step(self.batch_size), gap=gap,
            noise_to_weight=_noise_to_weight(mechanism, weights.sizes), reads=self.reads,
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """The mechanism, then recovery; interrupted, the same call goes on in the midst of either."""
        Batches(task.retain, batch_size=self.batch_size, seed=0).per_epoch  # noqa: B018  raises where there is no length
        mechanism = self.mechanism(task, budget, relation)
        goes_on = run if isinstance(task.retain, Examples) else replace(run, folder=None)
        done = self._certified(task, mechanism, goes_on)
        if run.on_epoch is not None:
            run.on_epoch(0, done.model)
        released = recover(
            done.model, task.retain, loss=task.loss, epochs=self.epochs, recipe=self.recipe, rescale=self.rescale,
            public=task.public, state=goes_on.state("recovery"), generator=run.generator(2), on_epoch=run.on_epoch,
        )  # fmt: skip
        recovery = {"epochs": self.epochs, "rescale": self.rescale, "recipe": self.recipe.to_dict()}
        record = replace(done.record, procedure={**done.record.procedure, "recovery": recovery})
        return replace(done, model=released, record=record, certified=done.model, told=(_TOLD,))

    def _certified(self, task: Task, mechanism: Mechanism, run: Run) -> Unlearned:
        """What the certificate speaks of; what an interrupted call finished is taken from its state file."""
        model = task.model if self.trained is None else self.trained
        settings = {
            "mechanism": {"name": mechanism.name} | asdict(cast("Any", mechanism)), "batch": self.batch_size, "public": list(task.public),
            "buffers": task.buffers,
        }  # fmt: skip
        code = {"loss": task.loss, "center": task.center}
        kept = state_file(run.state("certified"), "certified", model, task.retain, settings, code=code)
        done = _finished(kept, model)
        if done is not None:  # the forget set may be another one by now
            return replace(done, record=replace(done.record, coverage=coverage_of(task.retain, task.forget)))
        done = run_executor(
            model, task.retain, mechanism, self.executor, loss=task.loss, forget=task.forget, batch_size=self.batch_size,
            public=task.public, buffers=cast("Any", task.buffers), center=task.center, state=run.state("run"),
            generator=run.generator(1, next(model.parameters()).device),
        )  # fmt: skip
        if kept is not None:
            record = json.dumps(done.record.to_dict())
            kept.save({"weights": done.model.state_dict(), "record": record, "start_clipped": done.start_clipped})
        return done


def _finished(kept: StateFile | None, model: nn.Module) -> Unlearned | None:
    """What the mechanism made before recovery was interrupted."""
    saved = kept.load() if kept is not None else None
    if saved is None:
        return None
    work = copy.deepcopy(model)
    work.load_state_dict(saved["weights"])
    return Unlearned(work, RunRecord.from_dict(json.loads(saved["record"])), saved["start_clipped"])


def _noise_to_weight(mechanism: Mechanism, sizes: Iterable[int]) -> float:
    """Infinite where nothing survives of the weights: steps that decay all of it, or so many that it underflows."""
    noise, survives = mechanism.output_noise_std * sqrt(min(sizes)), mechanism.surviving_norm
    return noise / survives if survives > noise / _LARGEST else inf


def _words(proven: Claim, budget: Budget, gap: float) -> str:
    if not isinstance(proven, Bound):
        return "nothing is proven of it"
    if not proven.meets(budget):
        return f"proves epsilon={proven.epsilon:.4g} only, {budget.epsilon:g} is asked"
    if gap < KEEPS_NOTHING:
        return "its noise leaves so little of the trained weights that training a new model for as long is as good, and exact"
    return "keeps some of the trained weights: any loss, any architecture"
