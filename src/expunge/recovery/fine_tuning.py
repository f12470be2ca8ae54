"""Fine-tuning on the retained data: the plain recovery after a certified stage, and the loop that retraining shares with it."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from expunge import _validate
from expunge.data import Batches
from expunge.randomness.generators import secret_generator
from expunge.recovery.rescale import rescale_
from expunge.recovery.training import Recipe, Training, training_steps
from expunge.training.interruption import alone, drive, state_file
from expunge.training.loss import Loss, check_loss
from expunge.training.randomness import coins_state, fresh_coins, mode, restore_coins
from expunge.training.starts import STARTS
from expunge.training.statistics import keeps_statistics
from expunge.training.tensors import copied, named_parameters, refuse_other_state
from expunge.training.weights import public_names

__all__ = ["recover", "train_"]


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
    work = copied(model) if copy else model
    STARTS.remember(work, STARTS.start_of(model))
    STARTS.refuse(loss, work)
    if rescale:
        rescale_(work, public=[p for name, p in named_parameters(work) if name in declared])
    label = "recover, rescaled" if rescale else "recover"
    train_(work, retain, loss, epochs, recipe or Recipe(), generator, state, on_epoch, label=label, public=declared)
    return work


def train_(
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
    """Train a model in place for some epochs, with a bar, state files and one generator for all coins.

    Args:
        model: to be trained.
        retain: as in `recover`, as loss, epochs, recipe, generator, state, on_epoch and public.
        loss: likewise.
        epochs: likewise.
        recipe: likewise.
        generator: likewise.
        state: likewise.
        on_epoch: likewise.
        label: of the bar and the state file.
        public: likewise.
        make_model: that built the model, where its weights are drawn by this run.
    """
    _validate.positive(epochs=epochs)
    check_loss(loss)
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
