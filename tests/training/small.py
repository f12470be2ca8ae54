"""A small model, its data and its loss, as the tests of this room take them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex

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
