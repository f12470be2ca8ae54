"""A small task on CartPole: two demonstrators who balance, and one who steers off the track."""

from functools import cache
from typing import Any

import torch
from torch import nn

import expunge as ex
from expunge.policies import Demonstrator, EnergyMatching, Langevin, demonstrations

WHO = {"steady": (Demonstrator(), 2), "shaky": (Demonstrator(slips=0.2), 2), "astray": (Demonstrator(goal=3.0), 3)}
LOSS = EnergyMatching(langevin=Langevin(steps=2))
ASTRAY = ex.Request.groups(["astray"])
RECIPE = ex.Recipe(optimizer="adamw", learning_rate=0.01, batch_size=32)


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))


def seeded(make: Any = make_model, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


@cache
def shown() -> ex.Examples:
    return demonstrations(WHO, seed=0, longest=60)


@cache
def task() -> ex.Task:
    coins = torch.Generator().manual_seed(0)
    model = ex.retrain(make_model, shown(), loss=LOSS, epochs=4, recipe=RECIPE, generator=coins).model
    held_out = demonstrations({"steady": (Demonstrator(), 2)}, seed=1, longest=60)
    return ex.Task(
        model=model, data=shown(), held_out=held_out, loss=LOSS, make_model=make_model, training_epochs=4,
    )  # fmt: skip
