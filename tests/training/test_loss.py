"""Losses and models that some verb could not train: refused in our words, or trained by all of them."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.errors import ModelRefused

GRADIENT = ex.GradientClipping(
    init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=0.0, steps=3, noise_std=50.0
)


def data() -> tuple[Tensor, Tensor]:
    coins = torch.Generator().manual_seed(0)
    return torch.randn(64, 8, generator=coins), torch.randint(3, (64,), generator=coins)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def unlearn(model: nn.Module, **options: Any) -> ex.Unlearned:
    options = {"loss": loss, "batch_size": 16} | options
    return ex.unlearn(model, options.pop("data", data()), GRADIENT, **options)


class Body(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


BAD_LOSSES = {
    "detached": lambda m, b: loss(m, b).detach(),
    "no_grad": torch.no_grad()(loss),
    "errors": lambda m, b: (m(b[0]).argmax(1) != b[1]).float().mean(),
    "another model": lambda m, b, other=Body(): loss(other, b),  # noqa: B008
    "a leaf": lambda m, b: 2 * torch.ones((), requires_grad=True),
    "inputs": lambda m, b: b[0].clone().requires_grad_().sum(),
}


@pytest.mark.parametrize("bad", BAD_LOSSES.values(), ids=BAD_LOSSES.keys())
def test_a_loss_without_a_way_to_the_weights_is_refused_in_our_words(bad: Any) -> None:
    """A TypeError from every verb that trains, before anything is spent."""
    for run in (
        lambda: unlearn(Body(), loss=bad),
        lambda: ex.recover(Body(), data(), loss=bad),
        lambda: ex.retrain(Body, data(), loss=bad),
    ):
        with pytest.raises(
            TypeError, match=r"loss\(model, batch\) (returned a number without a gradient|does not depend)"
        ):
            run()


class Sparse(nn.Module):
    """Sparse gradients, and parameters that hold nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(10, 8, sparse=True), nn.Linear(8, 3)
        self.none, self.wide = nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bag(x)) + self.none.sum() + self.wide.sum()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_sparse_gradients_and_empty_parameters_pass_through_every_verb(optimizer: str) -> None:
    """From the run to the verified certificate of the recovered model."""
    x, y = torch.randint(10, (64, 5), generator=torch.Generator().manual_seed(0)), data()[1]
    recipe = ex.Recipe(optimizer=optimizer, max_grad_norm=1.0, learning_rate=0.01)
    for done in (
        unlearn(Sparse(), data=(x, y)),
        ex.retrain(Sparse, (x, y), loss=loss, epochs=1, recipe=recipe),
    ):
        released = ex.recover(done.model, (x, y), loss=loss, epochs=1, recipe=recipe, rescale=True)
        ex.verify(ex.issue(done.record, released=released, unchecked="a test"), weights=released)
        assert all(size > 0 for _, size in done.record.layers)


def test_a_model_that_cannot_be_copied_says_so() -> None:
    """A lock in an attribute: the remedy is to work on the model itself."""
    model = Body()
    model.guard = threading.Lock()
    with pytest.raises(ModelRefused, match=r"cannot be copied .*copy=False"):
        unlearn(model)
    assert unlearn(model, copy=False).model is model
