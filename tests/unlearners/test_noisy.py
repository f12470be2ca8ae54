"""What the noisy unlearners learn by hand: a trained model whose public parts are those of the public checkpoint."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
from expunge.errors import ModelRefused
from expunge.unlearners import OutputPerturbation
from expunge.unlearners.working import Run

OPTIONS: dict[str, Any] = {"epochs": 1, "batch_size": 10, "recovery_lr": 0.5}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.front(x)).relu())


def drawn(seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network()


def loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def task(**options: Any) -> ex.Task:
    coins = torch.Generator().manual_seed(0)
    rows = ex.Examples(torch.randn(40, 4, generator=coins), torch.arange(40) % 2, ids=range(40))
    model = drawn(1)
    with torch.no_grad():
        model.norm.running_mean.fill_(0.25)
    parts = {"retain": rows.take(range(30)), "forget": rows.take(range(30, 40))}
    return ex.Task(**({"model": model, "loss": loss, "make_model": Network, **parts} | options))


def test_public_parts_are_the_tasks_own_after_learning_and_after_forgetting() -> None:
    own = task(public=("front.*", "norm.*"))
    learned = OutputPerturbation(**OPTIONS).learn(own, own.retain + own.forget, Run(seed=0))
    done = learned.forget(own, ex.Budget(8.0, 1e-5), ex.Relation.RETRAINED, Run(seed=0))
    kept = own.model.state_dict()
    for made in (learned.trained, done.model):
        state = made.state_dict()
        for name in ("front.weight", "front.bias", "norm.weight", "norm.bias", "norm.running_mean"):
            assert torch.equal(state[name], kept[name]), name
        assert not torch.equal(state["last.weight"], kept["last.weight"])
    assert set(done.record.public) >= {"front.weight", "front.bias"}


def test_training_begins_at_the_centre() -> None:
    centre = drawn(3)
    own = task(center=centre, buffers="reset")
    still = OutputPerturbation(**(OPTIONS | {"recovery_lr": 1e-12})).learn(own, own.retain, Run(seed=0)).trained
    torch.testing.assert_close(still.last.weight, centre.last.weight, rtol=0, atol=1e-9)


def test_without_public_parts_all_is_trained() -> None:
    own = task(buffers="reset")
    learned = OutputPerturbation(**OPTIONS).learn(own, own.retain, Run(seed=0)).trained
    assert not torch.equal(learned.front.weight, own.model.front.weight)
    assert all(p.requires_grad for p in learned.parameters())


def test_a_builder_that_makes_no_such_public_part_is_refused() -> None:
    own = task(public=("front.*",), buffers="reset", make_model=lambda: nn.Linear(4, 2))
    with pytest.raises(ModelRefused, match=r"make_model builds no 'front\.\w+'"):
        OutputPerturbation(**OPTIONS).learn(own, own.retain, Run(seed=0))
