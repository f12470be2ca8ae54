"""Private training: its executor, the verb `train_private`, and the unlearner whose requests need no work."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge._workers import refuse_workers
from expunge.accounting import Budget, DPTraining, Mechanism, Relation, calibrate, guarantee
from expunge.certificate.digests import weights_digest
from expunge.certificate.mechanism import mechanism_to_dict
from expunge.certificate.record import RunRecord
from expunge.data import Examples, as_examples
from expunge.errors import ModelRefused, RunError, TaskError
from expunge.fingerprint import code_digest
from expunge.randomness.generators import secret_generator
from expunge.randomness.secret import Secret
from expunge.training.example_gradients import ExampleGradients, poisson_batches
from expunge.training.interruption import alone, drive, state_file
from expunge.training.loss import Loss
from expunge.training.noise import Noise
from expunge.training.randomness import build, coins_state, environment, fresh_coins, mode, restore_coins
from expunge.training.task import Task
from expunge.training.tensors import dtype_name
from expunge.training.unlearned import Unlearned
from expunge.training.weights import FlatWeights, clip_
from expunge.unlearners.costs import Costs
from expunge.unlearners.options import option
from expunge.unlearners.protocol import Quote
from expunge.unlearners.recalled import Procedure, Recalled
from expunge.unlearners.working import Run

__all__ = ["PrivateTraining", "noisy_steps", "train_private"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)  # of a training that nobody has asked anything of yet
# The settings of the descent: as a record names them, and as options.
_RECIPE = {"learning_rate": "private_lr", "momentum": "momentum", "expected_batch": "expected_batch"}


def noisy_steps(
    mechanism: DPTraining,
    theta: Tensor,
    gradients: Callable[[Tensor, Any], Iterator[Tensor]],
    batches: Iterator[Any],
    noise: Noise,
    descend: Callable[[Tensor, Tensor], object],
) -> Iterator[int]:
    """DP-SGD (Abadi et al. 2016, arXiv 1607.00133) on `theta`, in place; yields the steps done so far.

    Args:
        mechanism: its public configuration.
        theta: the weights, shape (d,), float64.
        gradients: (theta, batch) -> the gradients of the batch's examples, a row each, in parts of shape (b, d); no part
            where the batch is empty. May be overwritten.
        batches: Poisson samples of the data, at least as many as steps are left.
        noise: of scale `mechanism.noise_std`; its count says how many steps are done.
        descend: (theta, noisy sum of clipped gradients) changes theta, and looks at no data: post-processing.
    """
    for step in range(noise.count, mechanism.steps):
        total = torch.zeros_like(theta)
        for rows in gradients(theta, next(batches)):
            total.add_(clip_(rows, mechanism.sample_clip).sum(dim=0, dtype=torch.float64))
        descend(theta, noise.add_(total, released=True))
        yield step + 1


def train_private(
    make_model: Callable[[], nn.Module],
    data: Any,
    mechanism: DPTraining,
    *,
    loss: Loss,
    learning_rate: float,
    expected_batch: float,
    momentum: float = 0.0,
    at_once: int = 64,
    public: Sequence[str] = (),
    generator: torch.Generator | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Unlearned:
    """Train a fresh model on all data so that any `group_size` examples of them are unlearned from the start.

    Each step is v ← momentum v + (Σ_{i in batch} clip(g_i, C) + N(0, (νC)² I))/expected_batch, θ ← θ - learning_rate v, on
    a Poisson sample of the data. Nothing but the noisy sum sees data, so the optimiser is post-processing.

    Args:
        make_model: builds a model whose weights depend on no data that may be forgotten; called once, under `generator`.
        data: `Examples`, or tensors `(x, y)` or `{name: tensor}`, those that may be forgotten among them. A loader cannot be sampled.
        mechanism: a finished one, e.g. from `calibrate`.
        loss: `loss(model, batch)` returns the mean over the batch of a term for each example.
        learning_rate: of the descent.
        expected_batch: a public number by which the noisy sums are divided, e.g. sampling_rate times a round number of
            examples. Not sampling_rate times `len(data)`: with and without the forget set this must be one number.
        momentum: of the descent, in [0, 1).
        at_once: examples in one backward pass; a batch of any size is taken apart. Memory: as many gradients.
        public: patterns of parameters that no such data touched, left alone (a frozen backbone).
        generator: source of initialisation, batches, noise and all other coins, on the model's device, never to be
            published; by default a secret one, see `unlearn`.
        state: as in `unlearn`.

    Returns:
        The model, and a record for `issue`.

    Raises:
        MissingExtra: Opacus is not installed.
        ModelRefused: the proof cannot cover the model or the loss; the message names the remedy.
        NonFinite, RunError, StateError: see their docstrings. Nothing is returned then.
    """
    refuse_workers("train_private")
    if not isinstance(mechanism, DPTraining):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"train_private runs a DPTraining, not {_validate.shown(mechanism)}; use unlearn() or retrain()"
        )
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, batch) -> scalar tensor, not {_validate.shown(loss)}")
    _validate.positive(learning_rate=learning_rate, expected_batch=expected_batch)
    _validate.non_negative(momentum=momentum)
    if momentum >= 1:
        raise ValueError(f"momentum must be below 1, not {momentum!r}")
    examples = _examples(data)
    coins = secret_generator() if generator is None else generator
    model = build(make_model, coins)
    _refuse_buffers(model)
    weights = FlatWeights(model, public=public)
    if generator is None and weights.device.type != "cpu":
        coins = secret_generator(weights.device)
    secret = Secret.of(generator)
    noise = Noise(mechanism.noise_std, secret)
    sampling = secret.take("sampling")
    settings = {
        "mechanism": mechanism_to_dict(mechanism), "learning_rate": learning_rate, "momentum": momentum,
        "expected_batch": expected_batch, "at_once": at_once,
    }  # fmt: skip
    held = dict(model.named_parameters())
    code = {"loss": loss, "make_model": make_model, "public": [(name, held[name].detach()) for name in weights.public]}
    file = state_file(state, "train_private", model, examples, settings, code=code, drawn=True)
    with alone(state), fresh_coins(coins, weights.device), mode(model, training=True):
        if generator is None:
            # Dropout must hide who else was in the batch, and seeds of 32 bits can be tried.
            torch.set_rng_state(secret_generator().get_state())
        gradients = ExampleGradients(weights, loss, at_once=at_once, sample_clip=mechanism.sample_clip)
        remembered = code_digest(loss, strict=False)
        try:
            gradients.probe(examples)
            _refuse_memory(loss, remembered)
            descent = _Descent(learning_rate / expected_batch, momentum)

            def snapshot() -> dict[str, Any]:
                coins_now = coins_state(weights.device)
                held = {"theta": weights.theta, "velocity": descent.velocity}
                return held | {"noise": noise.state(), "sampling": sampling.reveal().hex(), "coins": coins_now}

            saved = file.load() if file else None
            if saved is not None:
                weights.theta.copy_(saved["theta"])
                descent.velocity = saved["velocity"]
                noise.restore(saved["noise"])
                sampling = Secret(bytes.fromhex(saved["sampling"]))
                restore_coins(saved["coins"], weights.device)
            begun = noise.count
            batches = poisson_batches(examples, sampling_rate=mechanism.sampling_rate, secret=sampling, skip=begun)
            steps = noisy_steps(mechanism, weights.theta, gradients, batches, noise, descent)
            done = begun + drive(steps, mechanism.steps - begun, mechanism.name, file, snapshot)
            _refuse_memory(loss, remembered)
        finally:
            gradients.close()
        if not bool(torch.isfinite(weights.theta).all()):
            raise RunError("the trained weights hold NaN or infinity: lower the learning rate or the noise")
        weights.release()
        if file:
            file.delete()
    recipe = {"learning_rate": learning_rate, "momentum": momentum, "expected_batch": expected_batch}
    return Unlearned(model, _record(mechanism, weights, noise, done, recipe))


def _record(
    mechanism: DPTraining, weights: FlatWeights, noise: Noise, steps_done: int, recipe: Mapping[str, float]
) -> RunRecord:
    """With the passes over the data that are to be expected, and how the descent went."""
    import opacus

    return RunRecord(
        mechanism=mechanism,
        steps_done=steps_done,
        noise=noise.record(),
        layers=weights.layers,
        weights_dtype=dtype_name(weights.dtype),
        center="zero",
        buffers="none",
        public=weights.public,
        certified=weights_digest(weights.model),
        environment=environment(weights.device) | {"opacus": opacus.__version__},
        coverage="any group",
        procedure={"training": {"epochs": steps_done * mechanism.sampling_rate, "recipe": dict(recipe)}},
    )


def _refuse_memory(loss: Loss, remembered: str) -> None:
    """Raise where the loss holds something else than before the first batch."""
    if code_digest(loss, strict=False) != remembered:
        raise ModelRefused(
            "the loss keeps something of the batches that it saw (a memory bank, a running mean, a log): gradients of "
            "other examples may then depend on it. Keep nothing in the loss, log outside"
        )


def _examples(data: Any) -> Examples:
    examples = as_examples(data)
    if examples is None:
        raise TypeError("train_private draws Poisson samples: pass Examples(x, y) or tensors, not a loader of batches")
    return examples


def _refuse_buffers(model: nn.Module) -> None:
    """Before `FlatWeights`, whose remedies (reset, public) do not make a layer's gradients those of single examples."""
    for name, _ in model.named_buffers():
        raise ModelRefused(
            f"buffer '{name}': private training takes models without buffers. In place of BatchNorm use GroupNorm or "
            "LayerNorm; keep a constant as a plain number or build it in forward"
        )


class _Descent:
    """Heavy ball on noisy sums, from rest."""

    def __init__(self, step: float, momentum: float) -> None:
        self._step, self._momentum = step, momentum
        self.velocity: Tensor | None = None

    def __call__(self, theta: Tensor, noisy_sum: Tensor) -> None:
        held = self.velocity
        self.velocity = noisy_sum.clone() if held is None else held.mul_(self._momentum).add_(noisy_sum)
        theta.add_(self.velocity, alpha=-self._step)


@dataclass(frozen=True, kw_only=True)
class PrivateTraining:
    """Train privately on all data: any group of at most `group_size` rows is then unlearned before it asks.

    Args:
        sample_clip: the L2 radius for the gradient of each example alone.
        noise_multiplier: noise over that radius; by default the least that meets the budget.
        sampling_rate: the chance of every example to be in a batch.
        expected_batch: a public number by which the noisy sums are divided, see `train_private`; None in audits, where
            `learn` takes sampling_rate times the rows that stay in any case.
        private_steps: steps of the training.
        group_size: the most rows that a request may hold.
        private_lr: learning rate.
        momentum: of the descent.
    """

    name: ClassVar[str] = DPTraining.name
    keeps: ClassVar[bool] = True
    reads: ClassVar[str] = "all data, once; nothing at a request"

    noise_multiplier: float | None = None
    sample_clip: float = option("sample_clip")
    sampling_rate: float = option("sampling_rate")
    private_steps: int = option("private_steps")
    expected_batch: float | None = option("expected_batch")
    group_size: int = option("group_size")
    private_lr: float = option("private_lr")
    momentum: float = option("momentum")
    trained: Unlearned | None = None

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> DPTraining:
        """With the least noise that meets the budget, where none was given."""
        if self.noise_multiplier is not None:
            return self._with(self.noise_multiplier)
        return calibrate(self._with, budget, relation=relation)

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """The training of a certificate, whose mechanism covers any descent; None for another's mechanism.

        Certificates of before hold nothing of the descent: there its options are the default ones.
        """
        if not isinstance(mechanism, DPTraining):
            return None
        held = procedure.of_training
        if held.keys() == _RECIPE.keys():
            descent: dict[str, Any] = {_RECIPE[name]: value for name, value in held.items()}
            assumed: dict[str, Any] = {}
        else:
            descent = {"expected_batch": None}
            assumed = {
                "learning_rate": cls.private_lr, "momentum": cls.momentum,
                "expected_batch": "sampling_rate times the retained rows",
            }  # fmt: skip
        unlearner = cls(
            noise_multiplier=mechanism.noise_multiplier, sample_clip=mechanism.sample_clip,
            sampling_rate=mechanism.sampling_rate, private_steps=mechanism.steps, group_size=mechanism.group_size,
            **descent,
        )  # fmt: skip
        return Recalled(unlearner=unlearner, reads=frozenset(), assumed=assumed)

    def released(self) -> Unlearned:
        """The privately trained model: nothing is done at a request.

        Raises:
            RunError: nothing was learned yet.
        """
        if self.trained is None:
            raise RunError("nothing is trained yet: call learn, or forget")
        return self.trained

    def learn(self, task: Task, rows: Examples, run: Run) -> "PrivateTraining":
        """Train on rows; what is released for any later request is this very model."""
        stay = as_examples(task.retain)
        own = self
        if self.expected_batch is None and stay is not None:
            own = replace(self, expected_batch=max(1.0, self.sampling_rate * len(stay)))
        mechanism = self.mechanism(task, _BUDGET, Relation.RETRAINED)
        return replace(self, trained=own._train(task, rows, mechanism, Run(seed=run.seed)))

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """The whole private training; a request after it costs nothing."""
        why = self._refusal(task)
        if why:
            return Quote(unlearner=self.name, applies=False, why=why)
        if find_spec("opacus") is None:
            return Quote(unlearner=self.name, applies=False, why="it needs Opacus: pip install 'expunge[dp]'")
        if self.trained is not None:
            return self._kept(self.trained, budget, relation)
        proven = guarantee(self.mechanism(task, budget, relation), delta=budget.delta, relation=relation)
        seconds = self.private_steps * costs.step(max(1, round(self.sampling_rate * len(task.everything()))))
        return Quote(
            unlearner=self.name, applies=proven.meets(budget), claim=proven, steps=self.private_steps, seconds=seconds, reads=self.reads,
            gap=0.0,  # nothing of the trained model is kept
            why=f"trains anew on all rows, so that no later request of at most {self.group_size} rows needs anything; timed "
            "without the gradients of single examples, which take longer",
        )  # fmt: skip

    def _kept(self, trained: Unlearned, budget: Budget, relation: Relation) -> Quote:
        """Of a model that was trained privately already."""
        proven = guarantee(trained.record.mechanism, delta=budget.delta, relation=relation)
        return Quote(
            unlearner=self.name, applies=proven.meets(budget), claim=proven, steps=0, seconds=0.0, reads=self.reads,
            why=f"the model was trained privately: nothing is to be done for at most {self.group_size} rows",
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """The privately trained model as it is; where there is none, it is trained on all rows of the task."""
        why = self._refusal(task)
        if why:
            raise TaskError(why)
        if self.trained is not None:
            return self.trained
        return self._train(task, task.everything(), self.mechanism(task, budget, relation), run)

    def _refusal(self, task: Task) -> str:
        if task.make_model is None:
            return "the task has no make_model"
        if not isinstance(task.retain, Examples) or not isinstance(task.forget, Examples):
            return "private training draws Poisson samples: it needs task.retain and task.forget as Examples"
        if len(task.forget) > self.group_size:
            return f"the request names {len(task.forget)} rows, group_size={self.group_size} at most are covered"
        return ""

    def _train(self, task: Task, rows: Examples, mechanism: DPTraining, run: Run) -> Unlearned:
        if task.make_model is None:
            raise TaskError("the task has no make_model")
        if self.expected_batch is None:
            raise ValueError("expected_batch must be a public number, not None: see train_private")
        return train_private(
            task.make_model, rows, mechanism, loss=task.loss, learning_rate=self.private_lr, expected_batch=self.expected_batch,
            momentum=self.momentum, public=task.public, state=run.state("run"), generator=run.generator(1),
        )  # fmt: skip

    def _with(self, noise_multiplier: float) -> DPTraining:
        return DPTraining(
            sample_clip=self.sample_clip, noise_multiplier=noise_multiplier, sampling_rate=self.sampling_rate,
            steps=self.private_steps, group_size=self.group_size,
        )  # fmt: skip
