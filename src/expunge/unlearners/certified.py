"""Run a noisy mechanism on a trained model: the certified stage.

No mechanism reads the forgotten data: where a verb takes them, it is for the check that `retain` holds none of them, which
the record states as its `coverage`. One generator serves all coins: noise, batch order, dropout; the global generators of
torch are forked, and left as they were.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from expunge._workers import refuse_workers
from expunge.accounting import MECHANISMS, Mechanism
from expunge.certificate.digests import weights_digest
from expunge.certificate.format import refuse_too_long
from expunge.certificate.record import RunRecord
from expunge.data import Batches, as_examples
from expunge.data.coverage import coverage_of
from expunge.errors import ModelRefused, RunError
from expunge.parallel import Workers, sharded, unwrapped
from expunge.parallel.sharding import Part, refuse_layouts, reshard
from expunge.randomness.generators import secret_generator
from expunge.training.interruption import agree, alone, drive, state_file
from expunge.training.loss import Loss, check_loss, scalar_loss
from expunge.training.noise import Noise
from expunge.training.pieces import all_finite, norm
from expunge.training.randomness import coins_state, environment, fresh_coins, mode, restore_coins
from expunge.training.sharded_weights import ShardedWeights
from expunge.training.shared_batches import of_portion, portions
from expunge.training.starts import STARTS, refuse_rows, start_digests
from expunge.training.statistics import average_, reset_, running_norms
from expunge.training.tensors import copied, dtype_name, named_buffers
from expunge.training.unlearned import Unlearned
from expunge.training.weights import FlatWeights, public_names, refuse_uncovered

__all__ = ["Executor", "run_executor"]

_log = logging.getLogger("expunge")

Executor = Callable[..., Iterator[int]]
"""From (mechanism, theta, gradient, batches, noise) to the steps done; see `expunge.testing.check_executor`."""


def run_executor(
    model: nn.Module,
    retain: Any,
    mechanism: Mechanism,
    executor: Executor,
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
    """Run an executor of a mechanism on a trained model and its retained data.

    The executor takes (mechanism, theta, gradient, batches, noise), changes theta in place, and yields the steps done so far.
    All else is as in `run.unlearn`.

    Raises:
        RunError: as there; and other steps than its own are given to a mechanism of the closed table.
    """
    workers = Workers.here()
    if buffers not in ("refuse", "reset"):
        raise ValueError(f"buffers must be 'refuse' or 'reset', not {buffers!r}")
    if MECHANISMS.get(mechanism.name) is type(mechanism):  # of others no certificate is issued
        _refuse_other_steps(mechanism, executor)
        refuse_too_long(mechanism)
    check_loss(loss)
    model = unwrapped(model, workers)
    parted = sharded(model)
    if workers.several or parted:
        reshard(model)
        refuse_layouts(model, workers)
        _refuse_unshared(retain, mechanism, executor, buffers, parted=parted)
    # Before the copy, which parts what shares memory and fails in torch's words on some of what is refused here.
    refuse_uncovered(model, public_names(model, public), reset_buffers=buffers == "reset")
    if buffers == "reset":
        Batches(retain, batch_size=batch_size, seed=0).per_epoch  # noqa: B018  a loader without length: told before the run
    coverage = coverage_of(retain, forget)
    refuse_rows((loss, model, dict(named_buffers(model))), forget, what="the loss or the model")
    work = copied(model) if copy else model
    weights = (
        ShardedWeights(work, public=public, center=center, workers=workers)
        if parted
        else FlatWeights(work, public=public, center=center, reset_buffers=buffers == "reset", workers=workers)
    )
    start = start_digests(work, public=weights.public)
    STARTS.remember(work, start)
    STARTS.refuse(loss, work, what="the loss")
    reset_(weights.norms)
    start_clipped = _outside(weights.theta, mechanism.start_radius)
    if start_clipped:
        _log.warning("the trained weights lie outside the ball and are clipped to init_clip=%g", mechanism.start_radius)
    coins = secret_generator(weights.device) if generator is None else generator
    settings = {
        "mechanism": {"name": mechanism.name} | asdict(cast("Any", mechanism)), "batch": batch_size, "public": list(weights.public),
        "center": weights.center_digest, "buffers": buffers,
    }  # fmt: skip
    agree(workers, "unlearn", work, retain, settings | {"state": state is not None}, code={"loss": loss}, forget=forget)
    with alone(state, workers), fresh_coins(coins, weights.device, workers) as seed, mode(work, training=True):
        noise = Noise(mechanism.noise_std, workers.secret(generator))
        for norm in running_norms(work):
            norm.train(norm in weights.norms)  # statistics declared public stay as they are
        file = state_file(state, "unlearn", work, retain, settings, code={"loss": loss})
        saved = workers.share(file.load) if file else None
        if saved is not None:
            seed = saved["seed"]
            weights.load(saved["theta"])
            noise.restore(saved["noise"])
            restore_coins(saved["coins"], weights.device)
        batches = Batches(retain, batch_size=batch_size, seed=seed, skip=noise.count)
        given, lossy = _shared(batches, loss, workers, seed, weights, noise.count)
        steps = executor(mechanism, weights.theta, weights.gradient(lossy), iter(given), noise)

        def snapshot() -> dict[str, Any]:
            coins_now = coins_state(weights.device)
            return {"seed": seed, "theta": weights.whole_theta(), "noise": noise.state(), "coins": coins_now}

        begun = noise.count
        done = begun + drive(
            steps, mechanism.gradient_steps - begun, f"unlearn: {mechanism.name}", file, snapshot, workers
        )
        if not all_finite(weights.theta):
            raise RunError("the unlearned weights hold NaN or infinity")
        if isinstance(weights, FlatWeights) and weights.norms:
            _estimate_statistics(weights, Batches(retain, batch_size=batch_size, seed=seed), loss)
        weights.release()
        if file and workers.first:
            file.delete()
    weights.check_released()  # the modes that were restored may be a model's own code
    certified = weights_digest(work)
    workers.agree({"the weights that the run made": certified})
    record = RunRecord(
        mechanism=mechanism,
        steps_done=done,
        noise=noise.record(),
        layers=weights.layers,
        weights_dtype=dtype_name(weights.dtype),
        center=weights.center_digest,
        buffers="reset" if weights.norms else "public" if any(True for _ in named_buffers(work)) else "none",
        public=weights.public,
        certified=certified,
        environment=environment(weights.device, workers.size),
        procedure={} if as_examples(retain) is None else {"batch_size": batch_size},
        estimated=weights.estimated,
        start=start,
        coverage=coverage,
    )
    return Unlearned(work, record, start_clipped)


def _shared(
    batches: Batches, loss: Loss, workers: Workers, seed: int, weights: FlatWeights | ShardedWeights, done: int
) -> tuple[Iterable[Any], Loss]:
    """Batches and loss of one worker: all rows, or its portion of each batch."""
    if not workers.several:
        return batches, loss
    scale = workers.size if isinstance(weights, ShardedWeights) else 1  # fully_shard averages what is to be added up
    return portions(batches, workers, seed=seed, device=weights.device, done=done), of_portion(loss, scale)


def _refuse_unshared(retain: Any, mechanism: Mechanism, executor: Executor, buffers: str, *, parted: bool) -> None:
    """Raise `RunError` where several workers are to share what they cannot."""
    if MECHANISMS.get(mechanism.name) is not type(mechanism):
        refuse_workers(f"an executor of somebody's own ({getattr(executor, '__name__', 'executor')})")
    if parted and hasattr(mechanism, "block_sizes"):
        raise ModelRefused(
            f"'{mechanism.name}' moves one block of the weights at a time, which is not made for parameters in shards: use "
            "DistributedDataParallel, or another mechanism"
        )
    if parted and buffers == "reset":
        raise ModelRefused("buffers='reset' is not made for parameters in shards")
    if buffers == "reset":
        refuse_workers("buffers='reset'")
    if as_examples(retain) is None:
        refuse_workers("data from a loader, which makes batches of its own,")


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
    length = norm(theta) if isinstance(theta, Part) else torch.linalg.vector_norm(theta, dtype=torch.float64)
    return bool(length > radius)


def _refuse_other_steps(mechanism: Mechanism, executor: Executor) -> None:
    """Raise `RunError` where a theorem of the closed table would be put on steps that are not its own."""
    from expunge.unlearners.executors import EXECUTORS  # late: the executors' files run what is in this one

    if EXECUTORS.get(type(mechanism)) is not executor:
        raise RunError(
            f"'{mechanism.name}' is proved for the steps that expunge runs, and other steps were given: a certificate would speak "
            "of a run that did not take place. Give them a mechanism of their own, of which no certificate is issued"
        )
