"""A loss that holds the trained weights is refused: a teacher would carry the forgotten data past clip and noise."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.errors import ModelRefused

COINS = torch.Generator().manual_seed(0)
DATA = (torch.randn(64, 8, generator=COINS), torch.randint(3, (64,), generator=COINS))
CLIPPED = ex.ModelClipping(model_clip=1.0, learning_rate=0.1, weight_decay=0.0, steps=3, noise_std=50.0)
OUTPUT = ex.OutputPerturbation(init_clip=1.0, noise_std=50.0)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 3))


def plain(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def taught(model: nn.Module, batch: Any, teacher: Any) -> Tensor:
    return (model(batch[0]) - teacher(batch[0])).square().mean()


class Trainer:
    """Keeps the model that it trained."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return taught(model, batch, self.model)


GLOBAL: list[nn.Module] = []


def by_a_global(model: nn.Module, batch: Any) -> Tensor:
    return taught(model, batch, GLOBAL[0])


def as_a_global(model: nn.Module) -> Any:
    GLOBAL[:] = [model]
    return by_a_global


HOLDS: dict[str, Callable[[nn.Module], Any]] = {
    "closure": lambda m: lambda model, batch: taught(model, batch, m),
    "copy": lambda m: lambda model, batch, t=copy.deepcopy(m): taught(model, batch, t),  # noqa: B008
    "partial": lambda m: functools.partial(taught, teacher=copy.deepcopy(m)),
    "method": lambda m: Trainer(m).loss,
    "global": as_a_global,
    "half precision": lambda m: functools.partial(taught, teacher=copy.deepcopy(m).half()),
    "state dict": lambda m: (
        lambda model, batch, s=m.state_dict(): taught(  # noqa: B008
            model, batch, lambda x: x @ s["0.weight"].T
        )
    ),
}


@pytest.mark.parametrize("holds", HOLDS.values(), ids=HOLDS.keys())
@pytest.mark.parametrize("mechanism", [CLIPPED, OUTPUT], ids=["model clipping", "output perturbation"])
def test_a_loss_that_holds_the_trained_weights_is_refused(
    holds: Callable[[nn.Module], Any], mechanism: ex.Mechanism
) -> None:
    """In the run and in the recovery, wherever it holds them."""
    model = net()
    try:
        loss = holds(model)
        with pytest.raises(ModelRefused, match=r"the loss holds the trained weights \('0\.weight'\)"):
            ex.unlearn(model, DATA, mechanism, loss=loss)
        done = ex.unlearn(model, DATA, mechanism, loss=plain)
        with pytest.raises(ModelRefused, match="the loss holds the trained weights"):
            ex.recover(done.model, DATA, loss=loss, epochs=1)
        again = ex.recover(done.model, DATA, loss=plain, epochs=1)
        with pytest.raises(ModelRefused, match="the loss holds the trained weights"):
            ex.recover(again, DATA, loss=loss, epochs=1)
    finally:
        GLOBAL.clear()


def test_teachers_of_other_weights_and_the_model_itself_are_no_fault() -> None:
    """A public teacher; and a loss that names the very model that is changed in place."""
    public = net()
    ex.unlearn(net(), DATA, CLIPPED, loss=functools.partial(taught, teacher=public))
    model = net()
    done = ex.unlearn(model, DATA, CLIPPED, loss=lambda _, batch: plain(model, batch), copy=False)
    assert done.model is model


HELD: list[nn.Module] = []


def test_a_retraining_from_a_model_that_its_builder_holds_is_refused():
    """It would start from the trained weights, and be certified exact."""
    trained = net()
    HELD[:] = [trained]
    inner = nn.Linear(8, 3)
    builders: dict[str, Callable[[], nn.Module]] = {
        "a closure": lambda: trained,
        "a global": lambda: HELD[0],
        "a part": lambda: nn.Sequential(inner),
        "a default": lambda model=trained: model,
        "a partial": functools.partial(getattr, Trainer(trained), "model"),
        "a method": trained.double,
        "a view of it": lambda: nn.Sequential(_of(trained[0].weight.data.view(3, 8))),  # type: ignore[index]
    }
    for builder in builders.values():
        with pytest.raises(ModelRefused, match="hands out weights that it holds"):
            ex.retrain(builder, DATA, loss=plain, epochs=1)
    ex.retrain(net, DATA, loss=plain, epochs=1)


def _of(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(8, 3)
    layer.weight = nn.Parameter(weight)
    return layer


def test_a_frozen_part_may_be_shared_by_fresh_models():
    backbone = nn.Linear(8, 8).requires_grad_(False)
    before = backbone.weight.clone()
    done = ex.retrain(lambda: nn.Sequential(backbone, nn.Linear(8, 3)), DATA, loss=plain, epochs=1)
    assert torch.equal(backbone.weight, before)
    assert done.record.mechanism == ex.Retrain()


def test_a_builder_may_keep_what_it_makes_but_not_hand_it_out_again():
    built: list[nn.Module] = []

    def new() -> nn.Module:
        built.append(net())
        return built[-1]

    def once() -> nn.Module:
        return built[-1] if built else new()

    for _ in range(2):
        ex.retrain(new, DATA, loss=plain, epochs=1)
    with pytest.raises(ModelRefused, match="hands out weights that it holds"):
        ex.retrain(once, DATA, loss=plain, epochs=1)
