"""Losses and models that some verb could not train: refused in our words, or trained by all of them."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
from expunge.errors import ModelRefused
from training.small import Body, data, loss, unlearn

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
