"""The verbs: `unlearn`, `recover`, `retrain`, and the control `null_start`.

No mechanism reads the forgotten data: where a verb takes them, it is for the check that `retain` holds none of them, which
the record states as its `coverage`. Each uses one generator for all its coins: noise, batch order, dropout; the
global generators of torch are forked, and left as they were.
"""

import copy as copying
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.accounting import DPTraining, Mechanism, Retrain
from expunge.coins import build, coins_state, environment, fresh_coins, mode, restore_coins
from expunge.data import Batches, as_examples, check_disjoint
from expunge.errors import ModelRefused, RunError
from expunge.loss import Loss, scalar_loss
from expunge.methods import EXECUTORS, FlatWeights, Noise, secret_generator
from expunge.methods.starts import Starts, start_digests
from expunge.methods.statistics import average_, keeps_statistics, reset_, running_norms
from expunge.methods.tensors import (
    dtype_name,
    named_buffers,
    named_parameters,
    refuse_other_state,
    saved_tensors,
)
from expunge.methods.weights import public_names, refuse_uncovered
from expunge.record import (
    NO_NOISE,
    UNCHECKED,
    RunRecord,
    mechanism_to_dict,
    weights_digest,
)
from expunge.recovery.rescale import rescale_
from expunge.recovery.training import Recipe, Training, training_steps
from expunge.running import alone, drive, state_file

__all__ = ["Unlearned", "noiseless_record", "null_start", "recover", "retrain", "unlearn"]

_log = logging.getLogger("expunge")
_starts = Starts()


@dataclass(frozen=True)
class Unlearned:
    """What `unlearn` and `retrain` return.

    Args:
        model: with the certified weights.
        record: what `issue` needs.
        start_clipped: whether the trained weights lay outside the ball. It depends on the forgotten data, so it is
            told to the operator and kept out of the record.
    """

    model: nn.Module
    record: RunRecord
    start_clipped: bool = False


def unlearn(
    model: nn.Module,
    retain: Any,
    mechanism: Mechanism,
    *,
    loss: Loss,
    forget: Any = None,
    batch_size: int = 128,
    public: Sequence[str] = (),
    buffers: Literal["refuse", "reset"] = "refuse",
    center: nn.Module | dict[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    state: str | os.PathLike[str] | None = None,
    copy: bool = True,
) -> Unlearned:
    """Run a mechanism on a trained model and its retained data.

    Args:
        model: trained on retained and forgotten data.
        retain: the retained data: `Examples`, tensors `(x, y)`, or a loader of batches. Never the forgotten data.
        mechanism: a finished one, e.g. from `calibrate`.
        loss: `loss(model, batch)` returns a scalar tensor.
        forget: the forgotten rows, or their ids: read before the run to check that `retain` holds none of them, and never by
            the mechanism (see `check_disjoint`). Without them the record says "unchecked", and `issue` asks for words.
        batch_size: examples a batch, where the data are `Examples`.
        public: patterns of parameters and buffers that do not depend on the forgotten data; left alone.
        buffers: "refuse" models with buffers that may carry data, or "reset" BatchNorm statistics and estimate them
            again on the retained data.
        center: a public checkpoint at the ball's centre; by default zero.
        generator: source of noise and all other coins, on the model's device, never to be published. On the CPU
            `torch.Generator.manual_seed` keeps 32 bits of its seed: for a release leave this out, and a secret one is
            made.
        state: a file from which an interrupted call, repeated with the same arguments, goes on bit for bit; secret,
            deleted at the end.
        copy: work on a copy; False changes `model` itself and leaves it undefined if the run fails.

    Raises:
        StillRetained: `retain` holds forgotten rows.
        ModelRefused, NonFinite, RunError, StateError: see their docstrings; a loss that holds the trained weights (as a
            teacher) is a `ModelRefused` too. Nothing is returned then.
    """
    executor = EXECUTORS.get(type(mechanism))
    if executor is None:
        instead: dict[type[Mechanism], str] = {Retrain: "use retrain()", DPTraining: "use train_private()"}
        remedy = instead.get(type(mechanism), f"known: {[m.name for m in EXECUTORS]}")
        raise TypeError(f"unlearn cannot run {mechanism!r}; {remedy}")
    if buffers not in ("refuse", "reset"):
        raise ValueError(f"buffers must be 'refuse' or 'reset', not {buffers!r}")
    _check_loss(loss)
    # Before the copy, which parts what shares memory and fails in torch's words on some of what is refused here.
    refuse_uncovered(model, public_names(model, public), reset_buffers=buffers == "reset")
    if buffers == "reset":
        Batches(retain, batch_size=batch_size, seed=0).per_epoch  # noqa: B018  a loader without length: told before the run
    coverage = _coverage(retain, forget)
    work = _copied(model) if copy else model
    weights = FlatWeights(work, public=public, center=center, reset_buffers=buffers == "reset")
    start = start_digests(weights)
    _starts.remember(work, start)
    _starts.refuse(loss, work)
    reset_(weights.norms)
    start_clipped = _outside(weights.theta, mechanism.start_radius)
    if start_clipped:
        _log.warning("the trained weights lie outside the ball and are clipped to init_clip=%g", mechanism.start_radius)
    coins = secret_generator(weights.device) if generator is None else generator
    with alone(state), fresh_coins(coins, weights.device) as seed, mode(work, training=True):
        noise = Noise(mechanism.noise_std, generator)
        for norm in running_norms(work):
            norm.train(norm in weights.norms)  # statistics declared public stay as they are
        settings = {
            "mechanism": mechanism_to_dict(mechanism), "batch": batch_size, "public": list(weights.public),
            "center": weights.center_digest, "buffers": buffers,
        }  # fmt: skip
        file = state_file(state, "unlearn", work, retain, settings, code={"loss": loss})
        saved = file.load() if file else None
        if saved is not None:
            seed = saved["seed"]
            weights.theta.copy_(saved["theta"])
            noise.restore(saved["noise"])
            restore_coins(saved["coins"], weights.device)
        batches = Batches(retain, batch_size=batch_size, seed=seed, skip=noise.count)
        steps = executor(mechanism, weights.theta, weights.gradient(loss), iter(batches), noise)

        def snapshot() -> dict[str, Any]:
            coins_now = coins_state(weights.device)
            return {"seed": seed, "theta": weights.theta, "noise": noise.state(), "coins": coins_now}

        begun = noise.count
        done = begun + drive(steps, mechanism.gradient_steps - begun, f"unlearn: {mechanism.name}", file, snapshot)
        if not bool(torch.isfinite(weights.theta).all()):
            raise RunError("the unlearned weights hold NaN or infinity")
        if weights.norms:
            _estimate_statistics(weights, Batches(retain, batch_size=batch_size, seed=seed), loss)
        weights.release()
        if file:
            file.delete()
    weights.check_released()  # the modes that were restored may be a model's own code
    record = RunRecord(
        mechanism=mechanism,
        steps_done=done,
        noise=noise.record(),
        layers=weights.layers,
        weights_dtype=dtype_name(weights.dtype),
        center=weights.center_digest,
        buffers="reset" if weights.norms else "public" if any(True for _ in named_buffers(work)) else "none",
        public=weights.public,
        certified=weights_digest(work),
        environment=environment(weights.device),
        procedure={} if as_examples(retain) is None else {"batch_size": batch_size},
        estimated=weights.estimated,
        start=start,
        coverage=coverage,
    )
    return Unlearned(work, record, start_clipped)


def recover(
    model: nn.Module,
    retain: Any,
    *,
    loss: Loss,
    epochs: float = 5,
    recipe: Recipe | None = None,
    rescale: bool = False,
    public: Sequence[str] = (),
    generator: torch.Generator | None = None,
    state: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    copy: bool = True,
) -> nn.Module:
    """Train an unlearned model on the retained data: post-processing, the certificate stays as it is.

    Args:
        model: from `unlearn`. Not the original one, which no recovery makes certified.
        retain: the retained data, as in `unlearn`.
        loss: as in `unlearn`; it must not know the original model.
        epochs: passes over the retained data; the learning rate's one cycle ends with them.
        recipe: optimiser and schedule.
        rescale: first bring each layer back to its initialisation scale (`recovery.rescale_`).
        public: as in `unlearn`: their statistics stay as they are and their parameters are not rescaled. Frozen layers'
            statistics stay in any case. Whether a parameter is trained is said by its `requires_grad`.
        generator: source of batch order and other coins; by default a fresh one.
        state: as in `unlearn`.
        on_epoch: called with (epochs done, model in evaluation mode) after every epoch, for curves.
        copy: train a copy.
    """
    declared = public_names(model, public)
    work = _copied(model) if copy else model
    _starts.remember(work, _starts.start_of(model))
    _starts.refuse(loss, work)
    if rescale:
        rescale_(work, public=[p for name, p in named_parameters(work) if name in declared])
    label = "recover, rescaled" if rescale else "recover"
    _train(work, retain, loss, epochs, recipe or Recipe(), generator, state, on_epoch, label=label, public=declared)
    return work


def retrain(
    make_model: Callable[[], nn.Module],
    retain: Any,
    *,
    loss: Loss,
    forget: Any = None,
    epochs: float = 5,
    recipe: Recipe | None = None,
    generator: torch.Generator | None = None,
    state: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> Unlearned:
    """Train a fresh model on the retained data alone: exact unlearning, and the yardstick of every other method.

    Args:
        make_model: builds a model whose weights ignore the forgotten data; called once, under `generator`.
        retain: the retained data, as in `unlearn`.
        loss: as in `unlearn`.
        forget: as in `unlearn`.
        epochs: passes over the retained data.
        recipe: optimiser and schedule.
        generator: source of initialisation, batch order and other coins.
        state: as in `unlearn`.
        on_epoch: as in `recover`.
    """
    coverage = _coverage(retain, forget)
    coins = generator if generator is not None else secret_generator()
    model = build(make_model, coins)
    how = recipe or Recipe()
    _train(model, retain, loss, epochs, how, coins, state, on_epoch, label="retrain", make_model=make_model)
    record = noiseless_record(Retrain(), model, coverage=coverage)
    return Unlearned(model, replace(record, procedure={"training": {"epochs": epochs, "recipe": how.to_dict()}}))


def noiseless_record(mechanism: Mechanism, model: nn.Module, *, coverage: str = UNCHECKED) -> RunRecord:
    """The record of a run without noise and without counted steps: retraining, or another lane that draws none.

    Args:
        mechanism: that was run.
        model: with its output.
        coverage: how it was checked that no forgotten row took part, see `RunRecord`.
    """
    first = next(model.parameters())
    held = dict(named_parameters(model))
    estimated = tuple(name for name in saved_tensors(model) if name not in held)
    return RunRecord(
        mechanism=mechanism,
        steps_done=0,
        noise=NO_NOISE,
        layers=tuple((name, p.numel()) for name, p in held.items() if p.numel()),
        weights_dtype=dtype_name(first.dtype),
        center="zero",
        buffers="reset" if estimated else "none",
        public=(),
        certified=weights_digest(model),
        environment=environment(first.device),
        estimated=estimated,
        coverage=coverage,
    )


def null_start(
    model: nn.Module,
    *,
    public: Sequence[str] = (),
    buffers: Literal["refuse", "reset"] = "refuse",
    center: nn.Module | dict[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of `model` at the centre of the ball: the start that never saw any data.

    Put through the same `unlearn` and `recover`, it is the control of every experiment: a certificate that covers the
    whole ball covers this start too, so the trained start can beat it only within the bound.
    """
    work = copying.deepcopy(model)
    weights = FlatWeights(work, public=public, center=center, reset_buffers=buffers == "reset")
    weights.theta.zero_()
    reset_(weights.norms)
    weights.release()
    return work


def _train(
    model: nn.Module,
    retain: Any,
    loss: Loss,
    epochs: float,
    recipe: Recipe,
    generator: torch.Generator | None,
    state: str | os.PathLike[str] | None,
    on_epoch: Callable[[int, nn.Module], None] | None,
    *,
    label: str,
    public: Sequence[str] = (),
    make_model: Callable[[], nn.Module] | None = None,
) -> None:
    _validate.positive(epochs=epochs)
    _check_loss(loss)
    refuse_other_state(model)  # what could not be saved in the end
    frozen = keeps_statistics(model, public)
    device = next(model.parameters()).device
    coins = generator if generator is not None else secret_generator()
    with alone(state), fresh_coins(coins, device) as seed, mode(model, training=True):
        for norm in frozen:
            norm.eval()
        per_epoch = Batches(retain, batch_size=recipe.batch_size, seed=seed).per_epoch
        total = max(1, round(epochs * per_epoch))
        training = Training(model, recipe, steps=total)
        settings = {"recipe": recipe.to_dict(), "steps": total, "public": list(public)}
        code = {"loss": loss, "make_model": make_model}
        file = state_file(state, label, model, retain, settings, code=code, drawn=make_model is not None)
        saved = file.load() if file else None
        if saved is not None:
            seed = saved["seed"]
            training.restore(saved["training"])
            restore_coins(saved["coins"], device)

        def snapshot() -> dict[str, Any]:
            return {"seed": seed, "training": training.state(), "coins": coins_state(device)}

        def with_epochs(steps: Iterator[int]) -> Iterator[int]:
            for done in steps:
                if on_epoch is not None and (done % per_epoch == 0 or done == total):
                    with mode(model, training=False), torch.no_grad():
                        on_epoch(-(-done // per_epoch), model)
                yield done

        batches = Batches(retain, batch_size=recipe.batch_size, seed=seed, skip=training.done)
        steps = with_epochs(training_steps(training, iter(batches), loss=loss))
        drive(steps, total - training.done, label, file, snapshot)
        if file:
            file.delete()
    for parameter in model.parameters():
        parameter.grad = None


def _coverage(retain: Any, forget: Any) -> str:
    return UNCHECKED if forget is None else check_disjoint(retain, forget)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copying.deepcopy(model)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelRefused(f"the model cannot be copied ({error}); with copy=False it is changed itself") from error


def _estimate_statistics(weights: FlatWeights, batches: Batches, loss: Loss) -> None:
    """Statistics of the final weights on the retained data, as plain averages over one epoch."""

    def passes() -> Iterator[Callable[[], object]]:
        stream = iter(batches)
        for _ in range(batches.per_epoch):
            weights.write(with_grad=False)
            batch = next(stream)
            yield lambda batch=batch: scalar_loss(loss, weights.model, batch)

    with mode(weights.model, training=False):
        average_(weights.norms, passes())


def _outside(theta: Tensor, radius: float) -> bool:
    return bool(torch.linalg.vector_norm(theta, dtype=torch.float64) > radius)


def _check_loss(loss: object) -> None:
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, batch) -> scalar tensor, not {loss!r}")
