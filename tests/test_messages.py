"""A message says what was given in one short line: of an array or a network what it is, not what it holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import expunge as ex
import sample_tasks
from expunge import _validate

TENSOR = torch.arange(10_000.0).reshape(100, 100)
NETWORK = nn.Sequential(*(nn.Linear(3, 3) for _ in range(50)))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (TENSOR, "Tensor of shape (100, 100)"),
        (TENSOR.numpy(), "ndarray of shape (100, 100)"),
        (0.25, "0.25"),
        (np.float64(0.25), "np.float64(0.25)"),
        (torch.tensor(3.0), "tensor(3.)"),
        ("a name", "'a name'"),
        (None, "None"),
    ],
)
def test_a_value_is_shown_as_what_it_is(value: object, told: str):
    assert _validate.shown(value) == told


@pytest.mark.parametrize("value", [NETWORK, "x" * 9999, list(range(9999)), [TENSOR] * 9, {"a": TENSOR}, 10**200])
def test_a_long_value_is_one_short_line(value: object):
    assert len(_validate.shown(value)) <= 120
    assert "\n" not in _validate.shown(value)


@pytest.mark.parametrize("value", [TENSOR, NETWORK, [TENSOR]], ids=["tensor", "network", "list"])
@pytest.mark.parametrize(
    "call",
    [
        lambda value: ex.OutputPerturbation(init_clip=value, noise_std=1.0),
        lambda value: ex.Budget(value, 1e-5),
        lambda value: ex.Recipe(batch_size=value),
        lambda value: ex.unlearn(sample_tasks.task(), None, value),
        lambda value: ex.unlearn(sample_tasks.make_model(), sample_tasks.everything(), value, loss=sample_tasks.loss),
        lambda value: replace(sample_tasks.task(), loss=[value]),
        lambda value: ex.Examples(torch.zeros(2), ids=[value, value]),
        lambda value: ex.ConvexHead(regularization=value),
        lambda value: ex.compose([value], delta=1e-5),
    ],
)
def test_a_wrong_argument_is_refused_in_a_message_that_can_be_read(call, value: object):
    with pytest.raises((TypeError, ValueError, ex.errors.ExpungeError)) as refused:
        call(value)
    said = str(refused.value)
    assert len(said) < 400
    assert said.count("\n") == 0
    assert "9999" not in said
