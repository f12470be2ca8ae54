"""Five kinds of request on the same rows, each with the model that learned everything."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from compared.sets import Setting, loss
from torch import nn

import expunge as ex

__all__ = ["REQUESTS", "Posed"]

SHARE = 0.02  # of the rows: random ones, a subgroup, wrong labels


@dataclass(frozen=True)
class Posed:
    """One request on one data set, from one seed: split, coins and training follow it.

    Args:
        setting: the data set and its network.
        train: its rows to learn.
        test: its rows to test.
        kind: one of `REQUESTS`.
        seed: of everything.
    """

    setting: Setting
    train: ex.Examples
    test: ex.Examples
    kind: str
    seed: int

    def coins(self, use: int) -> torch.Generator:
        """A generator for each use."""
        return torch.Generator().manual_seed(100_000 * (self.seed + 1) + 100 * list(REQUESTS).index(self.kind) + use)

    @cached_property
    def rows(self) -> ex.Examples:
        """What is learned; of mislabelled rows with the wrong label."""
        x, y = self.train.tensors
        if self.kind != "mislabelled":
            return ex.Examples(x, y, ids=self.train.ids)
        wrong = y.clone()
        shift = torch.randint(1, self.setting.classes, (len(self.chosen),), generator=self.coins(1))
        wrong[self.chosen] = (y[self.chosen] + shift) % self.setting.classes
        return ex.Examples(x, wrong, ids=self.train.ids)

    @cached_property
    def chosen(self) -> torch.Tensor:
        """Positions of the rows to be forgotten."""
        return REQUESTS[self.kind](self)

    @cached_property
    def task(self) -> ex.Task:
        """The trained model, its data and the request."""
        gone = torch.zeros(len(self.train), dtype=torch.bool)
        gone[self.chosen] = True
        s, rows = self.setting, self.rows
        return ex.Task(
            model=self.trained(rows, 2), loss=loss, make_model=s.make_model, held_out=self.test, training_epochs=s.epochs,
            retain=rows.take((~gone).nonzero()[:, 0]), forget=rows.take(gone.nonzero()[:, 0]), features=s.layer(),
            provenance=f"{s.source}; {s.layer().provenance}",
        )  # fmt: skip

    def trained(self, rows: ex.Examples, use: int) -> nn.Module:
        """The network from scratch."""
        s = self.setting
        return ex.unlearners.train_from_scratch(
            s.make_model, rows, loss=loss, epochs=s.epochs, recipe=s.recipe, generator=self.coins(use)
        ).model

    @cached_property
    def reference(self) -> nn.Module:
        """Trained on the retained rows, as long as the original: what every number is held against."""
        return self.trained(self.task.retain, 3)


def _random(posed: Posed) -> torch.Tensor:
    return torch.randperm(len(posed.train), generator=posed.coins(0))[: int(SHARE * len(posed.train))]


def _one(posed: Posed) -> torch.Tensor:
    return torch.randperm(len(posed.train), generator=posed.coins(0))[:1]


def _class(posed: Posed) -> torch.Tensor:
    """All rows of one class, another one each seed."""
    return (posed.train.tensors[1] == posed.seed % posed.setting.classes).nonzero()[:, 0]


def _subgroup(posed: Posed) -> torch.Tensor:
    """The rows next to a random one."""
    x = posed.train.tensors[0].flatten(1)
    centre = x[int(torch.randint(len(x), (1,), generator=posed.coins(0)))]
    return (x - centre).norm(dim=1).argsort()[: int(SHARE * len(x))]


REQUESTS: dict[str, Callable[[Posed], torch.Tensor]] = {
    "random rows": _random, "one row": _one, "a class": _class, "a subgroup": _subgroup, "mislabelled": _random,
}  # fmt: skip
