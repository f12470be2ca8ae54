"""The verb `recover`, and what drives the steps of every recovery and of retraining."""

import contextlib
import os
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from expunge import _validate
from expunge._workers import refuse_workers
from expunge.certificate.digests import weights_digest
from expunge.data import Batches, as_examples
from expunge.errors import ModelRefused, NonFinite, RunError
from expunge.fingerprint import refuse_iterators
from expunge.parallel import Workers, sharded, unwrapped
from expunge.parallel.sharding import local, refuse_layouts, reshard
from expunge.parallel.workers import ALONE
from expunge.randomness.generators import secret_generator
from expunge.recovery.fine_tuning import FineTuning
from expunge.recovery.procedure import stated
from expunge.recovery.progress import Progress
from expunge.recovery.protocol import Recovery
from expunge.recovery.training import Recipe
from expunge.training.hidden_states import hidden_state
from expunge.training.interruption import agree, alone, drive, state_file
from expunge.training.loss import Loss, check_loss
from expunge.training.randomness import fresh_coins, mode
from expunge.training.shared_batches import of_portion
from expunge.training.starts import STARTS
from expunge.training.statistics import keeps_statistics, running_norms
from expunge.training.tensors import copied, named_buffers, named_parameters, refuse_other_state
from expunge.training.weights import public_names

__all__ = ["recover", "train_", "underway"]

_LAZY = ("made by the first batch",)


def recover(
    model: nn.Module,
    retain: Any,
    *,
    loss: Loss,
    recovery: Recovery | None = None,
    epochs: float | None = None,
    recipe: Recipe | None = None,
    rescale: bool | None = None,
    public: Sequence[str] = (),
    generator: torch.Generator | None = None,
    state: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    copy: bool = True,
) -> nn.Module:
    """Run a recovery on an unlearned model and the retained data: post-processing, the certificate stays as it is.

    Args:
        model: from `unlearn`. Not the original one, which no recovery makes certified.
        retain: the retained data, as in `unlearn`.
        loss: as in `unlearn`; it must not know the original model.
        recovery: how; by default `FineTuning` of the three that follow.
        epochs: of fine-tuning, by default 5.
        recipe: of fine-tuning.
        rescale: of fine-tuning.
        public: as in `unlearn`: their statistics stay as they are and their parameters are not rescaled. Frozen layers'
            statistics stay in any case. Whether a parameter is trained is said by its `requires_grad`.
        generator: source of batch order and other coins; by default a fresh one.
        state: as in `unlearn`.
        on_epoch: called with (epochs done, model in evaluation mode) after every epoch, for curves.
        copy: train a copy.

    Raises:
        ModelRefused: loss or recovery hold weights or statistics of the model before unlearning, or those are in the outcome; the
            recovery holds what cannot be looked into, or left on the model more than weights.
        NonFinite: the loss or a weight is NaN or infinite.
        RunError: the recovery yields other steps than it told, or changes names, shapes or types of the model.
        StateError: see `unlearn`.
        TypeError: the recovery is none, see `stated`.
        ValueError: `recovery` and an option of fine-tuning are both given.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in (("epochs", epochs), ("recipe", recipe), ("rescale", rescale))
        if value is not None
    }
    if recovery is not None and given:
        raise ValueError(f"recovery and {', '.join(given)} were given: a recovery has its settings in itself")
    model = unwrapped(model, Workers.here())
    declared = public_names(model, public)
    work = copied(model) if copy else model
    STARTS.remember(work, STARTS.start_of(model))
    how = FineTuning(**given) if recovery is None else recovery
    train_(work, retain, loss, how, generator, state, on_epoch, label="recover", public=declared)
    return work


def train_(
    model: nn.Module,
    retain: Any,
    loss: Loss,
    recovery: Recovery,
    generator: torch.Generator | None,
    state: str | os.PathLike[str] | None,
    on_epoch: Callable[[int, nn.Module], None] | None,
    *,
    label: str,
    public: Sequence[str] = (),
    make_model: Callable[[], nn.Module] | None = None,
) -> None:
    """Drive the steps of a recovery on a model in place, with a bar, state files and one generator for all coins.

    Args:
        model: to be trained.
        retain: as in `recover`, as loss, recovery, generator, state, on_epoch and public.
        loss: likewise.
        recovery: likewise.
        generator: likewise.
        state: likewise.
        on_epoch: likewise.
        label: of the bar and the state file.
        public: likewise.
        make_model: that built the model, where its weights are drawn by this run.
    """
    workers = Workers.here()
    check_loss(loss)
    settings: dict[str, Any] = {"settings": stated(recovery), "public": list(public)}
    reshard(model)
    if workers.several or sharded(model):
        _refuse_unshared(model, retain, recovery, public, workers)
    refuse_other_state(model)  # what could not be saved in the end
    STARTS.refuse(loss, model, what="the loss")
    refuse_iterators(recovery, name=f"recovery '{recovery.name}'")
    STARTS.refuse(recovery, model, what=f"recovery '{recovery.name}'")
    form, hidden = _form(model), hidden_state(model)
    coins = generator if generator is not None else secret_generator()
    per_epoch = Batches(retain, batch_size=recovery.batch_size, seed=0).per_epoch
    total = _total(recovery, per_epoch)
    settings |= {"steps": total, "batch": recovery.batch_size}
    code = {"loss": loss, "recovery": recovery, "make_model": make_model}
    agree(workers, label, model, retain, settings | {"state": state is not None}, code=code)

    def with_epochs(steps: Iterator[int]) -> Iterator[int]:
        for done in steps:
            if on_epoch is not None and (done % per_epoch == 0 or done == total):
                with mode(model, training=False), torch.no_grad():
                    on_epoch(-(-done // per_epoch), model)
                reshard(model)
            yield done

    with alone(state, workers):
        file = state_file(state, label, model, retain, settings, code=code, drawn=make_model is not None)
        saved = workers.share(file.load) if file else None
        with underway(model, retain, loss, recovery, coins, public=public, saved=saved, workers=workers) as (
            progress,
            steps,
        ):
            drive(with_epochs(steps), total - progress.done, label, file, progress.state, workers)
            reshard(model)
            _refuse_spoiled(model, form, recovery.name)
            _refuse_hidden(model, recovery.name, before=hidden)
        if file and workers.first:
            file.delete()
    if workers.several:
        workers.agree({"the weights that the run made": weights_digest(model)})
    for parameter in model.parameters():
        parameter.grad = None


@contextlib.contextmanager
def underway(
    model: nn.Module,
    retain: Any,
    loss: Loss,
    recovery: Recovery,
    coins: torch.Generator,
    *,
    public: Collection[str] = (),
    saved: dict[str, Any] | None = None,
    workers: Workers = ALONE,
) -> Generator[tuple[Progress, Iterator[int]]]:
    """Give the steps of a recovery, and how far they have come, under coins of their own and in training mode.

    Args:
        model: to be changed in place.
        retain: the retained data.
        loss: `loss(model, batch)` -> scalar tensor.
        recovery: whose steps.
        coins: source of batch order and of the global generators' seeds.
        public: names of parameters and buffers that carry no noise.
        saved: what `Progress.state` returned before an interruption.
        workers: that share the run.
    """
    frozen = keeps_statistics(model, public)
    total = _total(recovery, Batches(retain, batch_size=recovery.batch_size, seed=0).per_epoch)
    with fresh_coins(coins, next(model.parameters()).device, workers) as seed, mode(model, training=True):
        for norm in frozen:
            norm.eval()
        progress = Progress(
            model,
            retain,
            batch_size=recovery.batch_size,
            seed=seed,
            total=total,
            public=public,
            saved=saved,
            workers=workers,
        )
        shared = loss
        if sharded(model):
            shared = of_portion(loss, workers.size)  # fully_shard averages what is to be added up
        elif workers.several:
            shared = of_portion(loss)
        steps = recovery.steps(model, progress.batches, shared, progress)
        yield progress, progress.through(steps, recovery.name)


def _refuse_unshared(
    model: nn.Module, retain: Any, recovery: Recovery, public: Collection[str], workers: Workers
) -> None:
    """Raise `RunError` where several workers are to share what they cannot."""
    if type(recovery) is not FineTuning:
        refuse_workers(f"recovery '{recovery.name}'")
    if as_examples(retain) is None:
        refuse_workers("data from a loader, which makes batches of its own,")
    refuse_layouts(model, workers)
    if len(running_norms(model)) > len(keeps_statistics(model, public)):
        refuse_workers("a model whose running statistics are estimated in training (BatchNorm)")


def _total(recovery: Recovery, per_epoch: int) -> int:
    total = recovery.total(per_epoch)
    _validate.whole(total=total)
    return total


def _refuse_spoiled(model: nn.Module, form: dict[str, Any], name: str) -> None:
    """Raise where the outcome is not the model that was given, with finite weights of its own."""
    found = _form(model)
    for key in form.keys() | found.keys():
        if form.get(key) != found.get(key) and form.get(key) != _LAZY:
            raise RunError(
                f"recovery '{name}' changed '{key}' from {form.get(key)} to {found.get(key)}: it works on the model in place"
            )
    for key, parameter in named_parameters(model):
        if not bool(torch.isfinite(local(parameter).detach()).all()):
            raise NonFinite(f"recovery '{name}' left NaN or infinity in '{key}'")
    STARTS.refuse_outcome(model, what=f"recovery '{name}'")


def _refuse_hidden(model: nn.Module, name: str, *, before: str | None) -> None:
    """Raise where the recovery left on the model what no file of weights shows: hooks, attributes, extra state.

    Args:
        model: after the recovery.
        name: of the recovery.
        before: what the model held then, as `hidden_state` says it.
    """
    refuse_other_state(model)
    found = hidden_state(model)
    if found not in (None, before):
        raise ModelRefused(f"after recovery '{name}' {found}: what is released would be more than the model's weights")


def _form(model: nn.Module) -> dict[str, Any]:
    """Shape, type and place of every tensor, by name."""
    return {name: _form_of(t) for name, t in (*named_parameters(model), *named_buffers(model))}


def _form_of(tensor: Tensor) -> tuple[Any, ...]:
    return _LAZY if is_lazy(tensor) else (tuple(tensor.shape), tensor.dtype, tensor.device)
