"""Six kinds of request on the same rows, each with the model that learned everything."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

import expunge as ex
from leaders.sets import Setting, loss

__all__ = ["REQUESTS", "Coined", "Drawn", "Posed", "pose"]

SHARE = 0.02  # of the rows: random ones, a subgroup, wrong labels
CANDIDATES = 0.1  # of the rows; half of them are learned and to be forgotten, half are never seen
CANARIES = 0.03  # of the rows: candidates with a wrong label, which are learned by heart or not at all
_DRAW = 10_000_000  # between the coins of two draws
_APART = 5_000  # seeds of `Run` are 10,000 apart, too


@dataclass(frozen=True)
class Posed:
    """One request on one data set, from one seed: split, coins and training follow it.

    Args:
        setting: the data set and its network.
        train: its rows to learn.
        test: its rows to test.
        kind: one of `REQUESTS`.
        seed: of everything.
        draw: another training, noise and order of batches, on the same split.
    """

    setting: Setting
    train: ex.Examples
    test: ex.Examples
    kind: str
    seed: int
    draw: int = 0

    def coins(self, use: int) -> torch.Generator:
        """A generator for each use."""
        return torch.Generator().manual_seed(100_000 * (self.seed + 1) + 100 * list(REQUESTS).index(self.kind) + use)

    @property
    def run(self) -> int:
        """The seed of an unlearner's own coins."""
        return self.seed + 1_000 * self.draw

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
    def chosen(self) -> Tensor:
        """Positions of the rows to be forgotten."""
        return REQUESTS[self.kind](self)

    @cached_property
    def parts(self) -> tuple[ex.Examples, ex.Examples]:
        """What stays, and what is to be forgotten."""
        gone = torch.zeros(len(self.train), dtype=torch.bool)
        gone[self.chosen] = True
        return self.rows.take((~gone).nonzero()[:, 0]), self.rows.take(gone.nonzero()[:, 0])

    @property
    def ordinary(self) -> ex.Examples:
        """The forgotten rows on which accuracy is measured."""
        return self.parts[1]

    @cached_property
    def mislabelled(self) -> tuple[Tensor, Tensor] | None:
        """Forgotten rows that were learned with a wrong label, and the labels that are true; None where there are none."""
        if self.kind != "mislabelled":
            return None
        return self.parts[1].tensors[0], self.train.tensors[1][sorted(self.chosen.tolist())]

    @cached_property
    def task(self) -> ex.Task:
        """The trained model, its data and the request."""
        s, (retain, forget) = self.setting, self.parts
        return ex.Task(
            model=self.trained(self.rows, 2).model, loss=loss, make_model=s.make_model, held_out=self.test, training_epochs=s.epochs,
            retain=retain, forget=forget, features=s.layer(), provenance=f"{s.source}; {s.layer().provenance}",
        )  # fmt: skip

    def trained(self, rows: ex.Examples, use: int) -> ex.Unlearned:
        """The network from scratch."""
        s, coins = self.setting, self.coins(use)
        coins.manual_seed(coins.initial_seed() + _DRAW * self.draw)
        return ex.unlearners.train_from_scratch(
            s.make_model, rows, loss=loss, epochs=s.epochs, recipe=s.recipe, generator=coins
        )

    @cached_property
    def reference(self) -> nn.Module:
        """Trained on the retained rows, as long as the original."""
        return self.trained(self.parts[0], 3).model


@dataclass(frozen=True)
class Coined(Posed):
    """A request whose rows coins have chosen: the audit guesses these coins from the released model.

    A tenth of the rows are candidates. A fair coin decides for each whether it is learned and to be forgotten, or never
    seen. Some of them are canaries: they have a wrong label.
    """

    def coins(self, use: int) -> torch.Generator:
        """A generator for each use; other seeds than the requests without coins."""
        return torch.Generator().manual_seed(10_000 * (self.seed + 1) + use)

    @property
    def run(self) -> int:
        """The seed of an unlearner's own coins, none of which is one of `coins`: noise drawn from these would follow them."""
        return self.seed + _APART

    @cached_property
    def _order(self) -> Tensor:
        return torch.randperm(len(self.train), generator=self.coins(0))

    @cached_property
    def candidates(self) -> ex.Examples:
        """Learned and to be forgotten, or never seen; canaries first."""
        x, y = self.train.tensors
        rows = self._order[: int(CANDIDATES * len(self.train))]
        wrong = torch.randint(1, self.setting.classes, (self.canaries,), generator=self.coins(11))
        labels = y[rows].clone()
        labels[: self.canaries] = (labels[: self.canaries] + wrong) % self.setting.classes
        return ex.Examples(x[rows], labels, ids=[self.train.ids[row] for row in rows.tolist()])

    @property
    def canaries(self) -> int:
        """How many candidates have a wrong label."""
        return int(CANARIES * len(self.train))

    @cached_property
    def members(self) -> Tensor:
        """The coins, shape (candidates,), bool."""
        return torch.rand(len(self.candidates), generator=self.coins(1)) < 0.5

    @cached_property
    def rows(self) -> ex.Examples:
        """What is learned."""
        return self.parts[0] + self.parts[1]

    @cached_property
    def chosen(self) -> Tensor:
        """Positions of the rows to be forgotten."""
        return self._order[: len(self.candidates)][self.members]

    @cached_property
    def parts(self) -> tuple[ex.Examples, ex.Examples]:
        """What stays, under the names that candidates have, and the candidates that were learned."""
        rows = self.train.take(self._order[len(self.candidates) :])
        return rows.renamed(rows.ids), self.candidates.take(self.members.nonzero().flatten())

    @cached_property
    def ordinary(self) -> ex.Examples:
        """Those to be forgotten that have their own label."""
        return self.candidates.take(self.members[self.canaries :].nonzero().flatten() + self.canaries)

    @cached_property
    def mislabelled(self) -> tuple[Tensor, Tensor] | None:
        """The canaries that were learned, and the labels that are true."""
        own = self.members[: self.canaries].nonzero().flatten()
        return self.candidates.tensors[0][own], self.train.tensors[1][self._order[own]]


@dataclass(frozen=True)
class Drawn(Posed):
    """Another training on other coins each draw: which of the request's rows are learned and to be forgotten, and which never seen."""

    @cached_property
    def _named(self) -> ex.Examples:
        return ex.Examples(*self.train.tensors, ids=self.train.ids)

    @cached_property
    def candidates(self) -> ex.Examples:
        """The request's rows."""
        return self._named.take(self.chosen.sort().values)

    @cached_property
    def members(self) -> Tensor:
        """The coins of this draw, shape (candidates,), bool."""
        coins = self.coins(4)
        coins.manual_seed(coins.initial_seed() + _DRAW * self.draw)
        return torch.rand(len(self.candidates), generator=coins) < 0.5

    @cached_property
    def parts(self) -> tuple[ex.Examples, ex.Examples]:
        """What stays in every draw, and the candidates that were learned in this one."""
        stays = torch.ones(len(self.train), dtype=torch.bool)
        stays[self.chosen] = False
        return self._named.take(stays.nonzero()[:, 0]), self.candidates.take(self.members.nonzero()[:, 0])

    @cached_property
    def rows(self) -> ex.Examples:
        """What is learned."""
        return self.parts[0] + self.parts[1]


def pose(setting: Setting, train: ex.Examples, test: ex.Examples, kind: str, seed: int) -> Posed:
    """The request of a kind."""
    return (Coined if kind == "canaries" else Posed)(setting, train, test, kind, seed)


def _random(posed: Posed) -> Tensor:
    return torch.randperm(len(posed.train), generator=posed.coins(0))[: int(SHARE * len(posed.train))]


def _one(posed: Posed) -> Tensor:
    return torch.randperm(len(posed.train), generator=posed.coins(0))[:1]


def _class(posed: Posed) -> Tensor:
    """All rows of one class, another one each seed."""
    return (posed.train.tensors[1] == posed.seed % posed.setting.classes).nonzero()[:, 0]


def _subgroup(posed: Posed) -> Tensor:
    """The rows next to a random one."""
    x = posed.train.tensors[0].flatten(1)
    centre = x[int(torch.randint(len(x), (1,), generator=posed.coins(0)))]
    return (x - centre).norm(dim=1).argsort()[: int(SHARE * len(x))]


def _coined(posed: Posed) -> Tensor:
    return posed.chosen


REQUESTS: dict[str, Callable[[Posed], Tensor]] = {
    "random rows": _random, "one row": _one, "a class": _class, "a subgroup": _subgroup, "mislabelled": _random,
    "canaries": _coined,
}  # fmt: skip
