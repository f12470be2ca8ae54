"""The main job on real data that ships with scikit-learn: forget 10 % of the digits, certify, verify, report."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.accounting import Budget, Mechanism, Relation
from expunge.data import Examples, split
from expunge.errors import MissingExtra
from expunge.features import RandomFeatures
from expunge.recovery import Recipe
from expunge.training.task import Task
from expunge.unlearners.gradient_clipping import GradientClipping
from expunge.unlearners.model_clipping import ModelClipping
from expunge.unlearners.output_perturbation import OutputPerturbation
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.retrain import train_from_scratch

__all__ = ["RECIPE", "digits", "mechanisms", "training", "unlearners"]

RECIPE = Recipe(learning_rate=0.4, batch_size=128)
_EPOCHS = 30  # of the network
_HELD_OUT, _FORGET = 360, 144  # a fifth held out; forget a tenth of the 1,437 trained on


def digits(seed: int = 0) -> Task:
    """A small network trained on scikit-learn's digits (1,797 real 8x8 images), a random tenth of them to be forgotten."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtra("the demo needs scikit-learn's digits: pip install 'expunge[demo]'") from error
    data = load_digits()  # pyright: ignore[reportUnknownVariableType]
    images: Tensor = torch.as_tensor(data.data / 16, dtype=torch.float32)  # pyright: ignore
    labels: Tensor = torch.as_tensor(data.target)  # pyright: ignore
    coins = torch.Generator().manual_seed(seed)
    held_out, forget, retain = split(
        Examples(images, labels, ids=range(len(images))), [_HELD_OUT, _FORGET], generator=coins
    )
    everything = retain + forget
    trained = train_from_scratch(
        make_model, everything, loss=cross_entropy, epochs=_EPOCHS, recipe=RECIPE, generator=coins
    )
    layer = RandomFeatures(64, 512, seed=0)
    return Task(
        model=trained.model, retain=retain, forget=forget, held_out=held_out, loss=cross_entropy, make_model=make_model,
        features=layer, provenance=f"pixels; {layer.provenance}", training_epochs=_EPOCHS,
    )  # fmt: skip


def make_model() -> nn.Module:
    """An untrained 64-64-10 network (4,810 weights)."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of a batch (images, labels)."""
    return F.cross_entropy(model(batch[0]), batch[1])


def unlearners(epochs: int) -> dict[str, Unlearner]:
    """Noisy ones, with so many epochs after them. Their radii were fixed before any model was trained."""
    recovery = training(epochs)
    ways = (
        GradientClipping(init_clip=0.5, grad_clip=1.0, learning_rate=0.01, weight_decay=20.0, steps=20, **recovery),
        ModelClipping(model_clip=0.5, learning_rate=0.1, weight_decay=0.0, steps=20, **recovery),
        OutputPerturbation(init_clip=0.5, **recovery),
    )
    return {way.name: way for way in ways}


def training(epochs: float) -> dict[str, Any]:
    """The options of an unlearner that trains, or recovers, for so many epochs as the digits' own network was trained."""
    return {"epochs": epochs, "recovery_lr": RECIPE.learning_rate, "batch_size": RECIPE.batch_size}


def mechanisms(budget: Budget) -> dict[str, Mechanism]:
    """The mechanisms of `unlearners`, calibrated to the budget."""
    task = digits(0)
    return {name: way.mechanism(task, budget, Relation.RETRAINED) for name, way in unlearners(5).items()}
