"""What the noisy unlearners have in common: a mechanism on the trained weights, then recovery on the retained data."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from math import inf, sqrt
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.accounting import Bound, Budget, Claim, Mechanism, Relation, calibrate, delta_at, guarantee
from expunge.certificate.record import RunRecord
from expunge.data import Batches, Examples, as_examples
from expunge.data.coverage import check_disjoint, coverage_of, rows_held
from expunge.errors import ExpungeError, ModelRefused, StillRetained, TaskError
from expunge.fingerprint import code_digest, refuse_iterators, tensors_held
from expunge.recovery import FineTuning, Recipe, Recovery
from expunge.recovery.procedure import stated
from expunge.recovery.verbs import recover
from expunge.training.interruption import state_file
from expunge.training.peft_layers import refuse_rescale
from expunge.training.public_parts import keeping_public
from expunge.training.starts import STARTS, refuse_start, start_digests
from expunge.training.state import StateFile
from expunge.training.task import Task
from expunge.training.tensors import copied, named_parameters
from expunge.training.unlearned import Unlearned
from expunge.training.weights import FlatWeights, public_names
from expunge.unlearners.certified import Executor, run_executor
from expunge.unlearners.costs import Costs
from expunge.unlearners.heuristics.base import Heuristic
from expunge.unlearners.options import OPTIONS, option
from expunge.unlearners.protocol import KEEPS_NOTHING, Quote
from expunge.unlearners.recalled import EVERY_SETTING, Procedure, Recalled
from expunge.unlearners.retrain import train_from_scratch
from expunge.unlearners.working import Run

__all__ = ["Noisy"]

_TOLD = (
    "The released accuracy is also the work of the training after the noise. What a model that never saw data, and a retraining, "
    "reach with the same steps was not measured: expunge.compare measures both."
)
_Digests = dict[str, frozenset[str]]
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
        training_epochs: of `learn`; by default as many as of fine-tuning.
        finished: a finished mechanism, in place of one made from these options.
        recovery: in place of the fine-tuning that the options describe; `learn` alone goes on reading them then.
        start: a heuristic that changes the trained weights before the mechanism starts from them. The theorem holds for every
            start in the ball, so that the proof is the same, whatever it read.
    """

    name: ClassVar[str]
    reads: ClassVar[str] = "retained data"
    shares: ClassVar[bool] = True  # several workers can share its runs

    noise_std: float | None = None
    epochs: float = option("epochs")
    recovery_lr: float = option("recovery_lr")
    optimizer: str = option("optimizer")
    batch_size: int = option("batch_size")
    rescale: bool = option("rescale")
    trained: nn.Module | None = None
    training_epochs: float | None = None
    finished: Mechanism | None = None
    recovery: Recovery | None = None
    start: Heuristic | None = None

    def __post_init__(self) -> None:
        _validate.plain_numbers(self)
        self.recovers  # noqa: B018  names the field that is out of range
        if self.start is not None and not isinstance(self.start, Heuristic):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"start must be one of expunge.unlearners.heuristics, not {self.start!r:.100}")
        if self.start is not None and not self.start.weights_alone:
            raise ValueError(
                f"start={self.start!r} changes more than weights, and the mechanism starts from weights of the task's model"
            )
        if self.recovery is not None:
            stated(self.recovery)
            _validate.text(**{f"what recovery '{self.recovery.name}' reads": self.recovery.reads})
            self._refuse_unread()

    @property
    @abstractmethod
    def executor(self) -> Executor:
        """What carries the mechanism out, step by step."""

    @abstractmethod
    def with_noise(self, task: Task, noise_std: float) -> Mechanism:
        """The mechanism with this noise; more of it never proves less."""

    @property
    def recovers(self) -> Recovery:
        """The recovery that follows the mechanism."""
        if self.recovery is not None:
            return self.recovery
        return FineTuning(epochs=self.epochs, recipe=self.recipe, rescale=self.rescale)

    @property
    def recipe(self) -> Recipe:
        """Of fine-tuning, and of the training that `learn` makes."""
        if isinstance(self.recovery, FineTuning):
            return self.recovery.recipe
        return Recipe(optimizer=cast("Any", self.optimizer), learning_rate=self.recovery_lr, batch_size=self.batch_size)

    def _read(self) -> str:
        """What all of it reads, in words."""
        before = "" if self.start is None else f", and {self.start.reads} before the clip"
        after = "" if isinstance(self.recovers, FineTuning) else f"; the recovery reads {self.recovers.reads}"
        return self.reads + before + after

    def _refuse_unread(self) -> None:
        """Raise `ValueError` where an option was given that a recovery of its own leaves without effect."""
        tuned = ("recovery_lr", "optimizer") if isinstance(self.recovery, FineTuning) else ()
        for name in ("epochs", "rescale", *tuned):
            if getattr(self, name) != OPTIONS[name].default:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} would do nothing: recovery={self.recovery!r:.200} has its settings in itself"
                )

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
        if self.training_epochs is not None:
            return self.training_epochs
        return self.recovery.epochs if isinstance(self.recovery, FineTuning) else self.epochs

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """The unlearner of a finished mechanism; None where it is another one's."""
        if mechanism.name != cls.name:
            return None
        recipe, own, recovery, reads = procedure.recipe, procedure.batch_size, procedure.recovery, EVERY_SETTING
        trains: dict[str, Any] = {}
        if recovery is None:
            recovery = FineTuning(epochs=procedure.epochs, recipe=recipe, rescale=procedure.rescale)
        else:
            trains, reads = (
                {"recovery_lr": recipe.learning_rate, "optimizer": recipe.optimizer},
                reads - {"epochs", "rescale"},
            )
        unlearner = cls(
            finished=mechanism, recovery=recovery, training_epochs=procedure.training_epochs,
            batch_size=recipe.batch_size if own is None else own, start=procedure.start, **trains,
        )  # fmt: skip
        return Recalled(unlearner=unlearner, reads=reads)

    def on_one_weight(self, mechanism: Mechanism) -> Mechanism:
        """The same mechanism: its steps treat every number of weights alike."""
        return mechanism

    def starting_from(self, model: nn.Module) -> "Noisy":
        """With `model` in the place of the trained one, and no heuristic before it."""
        return replace(self, trained=model, start=None)

    def learn(self, task: Task, rows: Examples, run: Run) -> "Noisy":
        """Train a model on rows, to start from: from the task's centre, its public parts left as they are."""
        if task.make_model is None:
            raise TaskError("the task has no make_model: no model can be trained")
        with keeping_public(task) as own:
            done = train_from_scratch(
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
        size = self.recovers.batch_size
        after = self.recovers.total(costs.per_epoch(size))
        before = 0 if self.start is None else self.start.count(task)
        seconds = mechanism.gradient_steps * costs.step(self.batch_size) + after * costs.step(size)
        seconds += 0.0 if self.start is None else before * costs.step(self.start.batch_size)
        return Quote(
            unlearner=self.name, applies=proven.meets(budget), why=_words(proven, budget, gap), claim=proven,
            steps=before + mechanism.gradient_steps + after, seconds=seconds, gap=gap,
            noise_to_weight=_noise_to_weight(mechanism, weights.sizes),
            reads=self._read(),
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """The mechanism, then recovery; interrupted, the same call goes on in the midst of either."""
        Batches(task.retain, batch_size=self.batch_size, seed=0).per_epoch  # noqa: B018  raises where there is no length
        mechanism = self.mechanism(task, budget, relation)
        goes_on = run if isinstance(task.retain, Examples) else replace(run, folder=None)
        model, digests = self._started(task, budget, relation, goes_on)
        done = self._certified(task, model, mechanism, goes_on, digests)
        if run.on_epoch is not None:
            run.on_epoch(0, done.model)
        released = recover(
            done.model, task.retain, loss=task.loss, recovery=self.recovers, public=task.public,
            state=goes_on.state("recovery"), generator=run.generator(2), on_epoch=run.on_epoch,
        )  # fmt: skip
        before = {} if self.start is None else {"start": self.start.stated}
        procedure = {**done.record.procedure, **before, "recovery": stated(self.recovers)}
        record = replace(done.record, procedure=procedure)
        return replace(
            done, model=released, record=record, certified=done.model, told=(_TOLD,), recovered=_in_words(self.recovers)
        )

    def _refuse_void(self, task: Task) -> _Digests:
        """Refuse, before hours of work, a recovery that would void the certificate; returns the digests of the start.

        Raises:
            ModelRefused: it holds weights or statistics of the trained model.
            StillRetained: it holds forgotten rows.
        """
        start = start_digests(self._start(task), public=public_names(self._start(task), task.public))
        what = f"recovery '{self.recovers.name}'"
        if isinstance(self.recovers, FineTuning) and self.recovers.rescale:
            refuse_rescale(self._start(task))
        refuse_iterators(self.recovers, name=what)
        refuse_start(self.recovers, start, what=what)
        for name, held in ((f.name, getattr(self.recovers, f.name)) for f in fields(cast("Any", self.recovers))):
            if isinstance(held, Examples):
                _refuse_rows(held, task.forget, f"{what} in its setting '{name}'")
        rows = rows_held(tensors_held(self.recovers), task.forget)
        if rows:
            raise StillRetained(
                f"{what} holds {rows} rows with the content of rows to forget: it must read retained rows alone"
            )
        return start

    def _start(self, task: Task) -> nn.Module:
        return task.model if self.trained is None else self.trained

    def _started(self, task: Task, budget: Budget, relation: Relation, run: Run) -> tuple[nn.Module, _Digests]:
        """The model that the mechanism starts from, and the digests of what neither loss nor recovery may hold.

        With a heuristic before it these are of the trained weights and of those that the heuristic made: either is a function
        of the forgotten rows that no clip and no noise covers.
        """
        trained = self._refuse_void(task)
        if self.start is None:
            return self._start(task), trained
        refuse_start(task.loss, trained, what="the loss")
        before = code_digest(task.loss, name="loss", strict=False)
        model = self._warm(task, self.start, budget, relation, run)
        if code_digest(task.loss, name="loss", strict=False) != before:
            raise ModelRefused(
                "the loss changed while the heuristic called it: what it keeps of these calls would reach the mechanism around the clip. "
                "Give a loss that keeps nothing"
            )
        warm = start_digests(model, public=public_names(model, task.public))
        both = {name: trained.get(name, frozenset()) | warm.get(name, frozenset()) for name in trained | warm}
        return model, both

    def _warm(self, task: Task, start: Heuristic, budget: Budget, relation: Relation, run: Run) -> nn.Module:
        """The trained model with the weights that the heuristic made of it; an interrupted call's are taken from its state file.

        Nothing else is taken: public parts and buffers stay the trained model's, whatever the heuristic did to them.

        Raises:
            ModelRefused: it made weights of other names or shapes.
        """
        own = replace(task, model=self._start(task))
        rows = as_examples(task.forget)
        settings = {"start": start.stated, "public": list(task.public)}
        code = {"loss": task.loss, "forget": None if rows is None else list(rows.values)}
        kept = state_file(run.state("start"), "start", own.model, task.retain, settings, code=code)
        saved = kept.load() if kept is not None else None
        if saved is None:
            made = start.forget(own, budget, relation, Run(seed=run.seed)).model
            saved = {"weights": {name: p.detach() for name, p in named_parameters(made)}}
            if kept is not None:
                kept.save(saved)
        model, public = copied(own.model), public_names(own.model, task.public)
        covered = {name: p for name, p in named_parameters(model) if name not in public}
        weights: dict[str, Tensor] = {name: p for name, p in saved["weights"].items() if name not in public}
        if {name: p.shape for name, p in covered.items()} != {name: p.shape for name, p in weights.items()}:
            raise ModelRefused(f"the heuristic '{start.name}' made weights of other names or shapes than the model's")
        with torch.no_grad():
            for name, p in covered.items():
                p.copy_(weights[name])
        return model

    def _certified(self, task: Task, model: nn.Module, mechanism: Mechanism, run: Run, start: _Digests) -> Unlearned:
        """What the certificate speaks of; what an interrupted call finished is taken from its state file."""
        settings = {
            "mechanism": {"name": mechanism.name} | asdict(cast("Any", mechanism)), "batch": self.batch_size, "public": list(task.public),
            "buffers": task.buffers,
        }  # fmt: skip
        code = {"loss": task.loss, "center": task.center}
        kept = state_file(run.state("certified"), "certified", model, task.retain, settings, code=code)
        done = _finished(kept, model)
        if done is not None:  # the forget set may be another one by now
            STARTS.remember(done.model, start)
            return replace(
                done, record=replace(done.record, coverage=coverage_of(task.retain, task.forget), start=start)
            )
        done = run_executor(
            model, task.retain, mechanism, self.executor, loss=task.loss, forget=task.forget, batch_size=self.batch_size,
            public=task.public, buffers=cast("Any", task.buffers), center=task.center, state=run.state("run"),
            generator=run.generator(1, next(model.parameters()).device),
        )  # fmt: skip
        STARTS.remember(done.model, start)
        done = replace(done, record=replace(done.record, start=start))
        if kept is not None:
            record = json.dumps(done.record.to_dict())
            kept.save({"weights": done.model.state_dict(), "record": record, "start_clipped": done.start_clipped})
        return done


def _refuse_rows(held: Examples, forget: Any, what: str) -> None:
    try:
        check_disjoint(held, forget)
    except StillRetained as error:
        raise StillRetained(f"{what} holds rows to forget, by id or by content: {error}") from error


def _in_words(recovery: Recovery) -> str:
    """What a recovery that is no training on the retained data does, for the certificate."""
    if type(recovery) is FineTuning:
        return ""
    return f"declared by the issuer: the recovery '{recovery.name}', which reads {recovery.reads}, with fresh coins"


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
