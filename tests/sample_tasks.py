"""Small tasks on digits, each named as a command names it: `sample_tasks:task`."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import expunge as ex

RECIPE = ex.Recipe(learning_rate=0.1)


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def other_loss(model: nn.Module, batch: Any) -> Tensor:
    return 2 * nn.functional.cross_entropy(model(batch[0]), batch[1])


def augment(batch: Any, generator: torch.Generator) -> Any:
    return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]


@cache
def everything() -> ex.Examples:
    """What the model was trained on: 300 rows."""
    digits = load_digits()
    x, y = torch.tensor(digits.data[:400] / 16).float(), torch.tensor(digits.target[:400]).long()
    return ex.Examples(x, y, ids=[f"patient {i}" for i in range(400)]).take(range(300))


@cache
def task() -> ex.Task:
    """Forget patients 0 to 29."""
    digits = load_digits()
    held_out = ex.Examples(
        torch.tensor(digits.data[400:500] / 16).float(), torch.tensor(digits.target[400:500]).long()
    )  # fmt: skip
    layer = ex.RandomFeatures(64, 24, seed=0)
    coins = torch.Generator().manual_seed(0)
    model = ex.retrain(make_model, everything(), loss=loss, epochs=5, recipe=RECIPE, generator=coins).model
    return ex.Task(
        model=model, retain=everything().take(range(30, 300)), forget=everything().take(range(30)), held_out=held_out,
        loss=loss, make_model=make_model, features=layer, provenance=f"pixels; {layer.provenance}",
    )  # fmt: skip


def later() -> ex.Task:
    """The next request: patients 30 to 39."""
    return replace(task(), retain=everything().take(range(40, 300)), forget=everything().take(range(30, 40)))


def unmeasured() -> ex.Task:
    """Without held-out data."""
    return replace(task(), held_out=None)


def unparted() -> ex.Task:
    """All data, and no request."""
    return replace(task(), data=everything(), retain=None, forget=None)


def mixed() -> ex.Task:
    """Patients 20 to 39, of whom 20 to 29 belong to the first request."""
    return replace(task(), retain=everything().take(range(40, 300)), forget=everything().take(range(20, 40)))


def fewer() -> ex.Task:
    """A retain set that lacks a row."""
    return replace(task(), retain=everything().take(range(31, 300)))


def altered() -> ex.Task:
    x = everything().tensors[0].clone()
    x[50, 3] += 0.25
    rows = ex.Examples(x, everything().tensors[1], ids=everything().ids)
    return replace(task(), retain=rows.take(range(30, 300)))


def nines(forget_them: bool) -> ex.Task:
    rows = everything()
    nine = rows.tensors[1] == 9
    gone = nine if forget_them else (rows.tensors[1] != 9) & (torch.arange(300) < 30)
    kept = ~nine if forget_them else ~nine & ~gone
    return replace(task(), retain=rows.take(kept.nonzero()[:, 0]), forget=rows.take(gone.nonzero()[:, 0]))


def all_nines_forgotten() -> ex.Task:
    return nines(True)


def only_without_nines() -> ex.Task:
    """The same retained rows; the forget set names none of the nines."""
    full, others = nines(True), task().held_out.take(task().held_out.tensors[1] != 9)
    return replace(full, forget=ex.Examples(*others.tensors, ids=[f"visitor {i}" for i in range(len(others))]))


def undeclared() -> ex.Task:
    return replace(task(), provenance="")


def other_provenance() -> ex.Task:
    return replace(later(), provenance="another map")


def without_features() -> ex.Task:
    return replace(task(), features=None)


def without_make_model() -> ex.Task:
    return replace(task(), make_model=None)


def loader() -> ex.Task:
    return replace(task(), retain=list(task().retain.chunks(50)))


def doubled_loss() -> ex.Task:
    return replace(task(), loss=other_loss)


def augmented() -> ex.Task:
    return replace(task(), augment=augment)


def hopeless() -> ex.Task:
    """No unlearner applies: buffers, no map, no make_model."""
    return replace(task(), features=None, make_model=None, model=nn.BatchNorm1d(64))
