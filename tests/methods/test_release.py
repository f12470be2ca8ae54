"""What is released is what was noised, whatever a model or a loss does to its parameters in the meantime."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex

SIGMA = 50.0
GRADIENT = ex.GradientClipping(
    init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=0.0, steps=3, noise_std=SIGMA
)
MODEL = ex.ModelClipping(model_clip=1.0, learning_rate=0.1, weight_decay=0.0, steps=3, noise_std=SIGMA)
OUTPUT = ex.OutputPerturbation(init_clip=1.0, noise_std=SIGMA)


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    coins = torch.Generator().manual_seed(0)
    return torch.randn(64, 8, generator=coins).to(dtype), torch.randint(3, (64,), generator=coins)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]).float(), batch[1])


def unlearn(model: nn.Module, mechanism: ex.Mechanism = GRADIENT, **options: Any) -> ex.Unlearned:
    options = {"loss": loss, "batch_size": 16, "generator": torch.Generator().manual_seed(1)} | options
    dtype = next(model.parameters()).dtype
    return ex.unlearn(model, options.pop("data", data(dtype)), mechanism, **options)


class Body(nn.Module):
    """Two layers, and something that `before` does to the model in every forward pass."""

    def __init__(self, before: Callable[["Body"], object] = lambda _: None) -> None:
        super().__init__()
        self.first, self.last, self.before = nn.Linear(8, 16), nn.Linear(16, 3), before

    def forward(self, x: Tensor) -> Tensor:
        self.before(self)
        return self.last(torch.relu(self.first(x.to(self.first.weight.dtype))).to(self.last.weight.dtype))


def repoint(m: Body) -> None:
    m.first.weight.data = torch.renorm(m.first.weight.data, 2, 0, 1.0)


def new_parameter(m: Body) -> None:
    m.first.weight = nn.Parameter(F.normalize(m.first.weight.detach()))


def in_place(m: Body) -> None:
    with torch.no_grad():
        m.first.weight.add_(1e6)


def in_place_data(m: Body) -> None:
    m.first.weight.data.clamp_(-0.01, 0.01)


def assigned(m: Body) -> None:
    m.load_state_dict({name: torch.full_like(t, 0.1) for name, t in m.state_dict().items()}, assign=True)


def cast(m: Body) -> None:
    m.double()


def laid_out(m: Body) -> None:
    m.first.weight.data = m.first.weight.data.t().contiguous().t()


def swapped(m: Body) -> None:
    m.first.weight.data, m.last.bias.data = m.first.weight.data.clone(), m.last.bias.data.clone()


def set_storage(m: Body) -> None:
    with torch.no_grad():
        m.first.weight.set_(torch.full((16, 8), 0.2, dtype=m.first.weight.dtype))


def frozen(m: Body) -> None:
    m.first.requires_grad_(requires_grad=False)


def without_gradients(m: Body) -> None:
    m.zero_grad(set_to_none=True)


MEDDLERS = [
    repoint, new_parameter, in_place, in_place_data, assigned, cast, laid_out, swapped, set_storage, frozen, without_gradients,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:grad and param do not obey the gradient layout")
@pytest.mark.parametrize("meddle", MEDDLERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("mechanism", [GRADIENT, MODEL], ids=lambda m: m.name)
def test_whatever_a_model_does_to_its_parameters_what_is_released_carries_the_noise(
    meddle: Callable[[Body], object], dtype: torch.dtype, mechanism: ex.Mechanism
) -> None:
    """Every covered tensor is the final iterate's, of the noise's scale and of the model's own dtype; the certificate holds."""
    model = Body(meddle).to(dtype)
    done = unlearn(model, mechanism)
    for name, parameter in done.model.named_parameters():
        assert parameter.dtype == dtype
        assert parameter.requires_grad
        moved = (parameter - dict(model.named_parameters())[name]).detach().float()
        draws = 1 if mechanism is MODEL else 3
        assert float(moved.norm()) < 6 * SIGMA * (draws * moved.numel()) ** 0.5
        if moved.numel() > 10:
            assert float(moved.norm()) > 0.5 * SIGMA * moved.numel() ** 0.5, name
    certificate = ex.issue(done.record, released=done.model, unchecked="a test")
    ex.verify(certificate, weights=done.model, certified_weights=done.model)


@pytest.mark.parametrize("meddle", [repoint, new_parameter, in_place], ids=lambda f: f.__name__)
@pytest.mark.parametrize("place", ["hook", "loss"])
def test_a_hook_or_a_loss_that_moves_the_weights_is_no_way_around_the_noise(
    meddle: Callable[[Body], object], place: str
) -> None:
    """What a pre-forward hook or the loss itself does is put back as what the forward pass does."""
    model = Body()
    if place == "hook":
        model.register_forward_pre_hook(lambda module, _: meddle(module))

    def meddling(m: nn.Module, batch: Any) -> Tensor:
        if place == "loss":
            meddle(m)
        return loss(m, batch)

    done = unlearn(model, loss=meddling)
    moved = (done.model.first.weight - model.first.weight).detach()
    assert 0.5 * SIGMA < float(moved.std()) < 3 * SIGMA


def test_a_loss_that_moves_the_weights_does_not_escape_the_clip() -> None:
    """Two runs of one seed, one of a loss that pushes the weights: they differ by no more than the clip allows."""
    still, pushed = unlearn(Body()), unlearn(Body(in_place))
    copied = copy.deepcopy(still.model)
    for one, two in zip(copied.parameters(), pushed.model.parameters(), strict=True):
        assert float((one - two).detach().norm()) <= 2 * (1.0 + 3 * 0.1) + 1e-3
