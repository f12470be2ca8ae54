"""What is released is what was noised, whatever a model or a loss does to its parameters in the meantime."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.errors import ModelRefused, RunError
from expunge.training.weights import FlatWeights

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


def late_buffer(m: Body) -> None:
    m.register_buffer("late", m.first.weight.detach().clone())


def late_parameter(m: Body) -> None:
    m.register_parameter("late", nn.Parameter(torch.ones(2)))


def late_module(m: Body) -> None:
    m.add_module("late", nn.Linear(2, 2))


def another_module(m: Body) -> None:
    m.first = nn.Linear(8, 16)


def gone(m: Body) -> None:
    weight = m.first.weight.detach().clone()
    del m.first.weight
    m.first.weight = weight


@pytest.mark.parametrize(
    ("meddle", "words"),
    [
        (late_buffer, "buffer 'late' appeared"),
        (late_parameter, "parameter 'late' appeared"),
        (late_module, "a module appeared"),
        (another_module, "module 'first' was replaced"),
        (gone, "parameter 'first.weight' went"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parts_that_appear_go_or_are_replaced_end_the_run_at_its_first_step(
    meddle: Callable[[Body], object], words: str
) -> None:
    """They would be released beside what was noised, or in its place."""
    with pytest.raises(RunError, match=words):
        unlearn(Body(meddle))


def test_a_buffer_that_appears_at_the_last_pass_is_refused_too() -> None:
    """Whenever it comes: here in the pass that estimates statistics, after all noise was drawn."""

    def late(m: Body) -> None:
        if not m.training:
            late_buffer(m)

    model = nn.Sequential(nn.BatchNorm1d(8), Body(late))
    with pytest.raises(RunError, match=r"'1\.late' appeared"):
        unlearn(model, buffers="reset")


def remembers_in_a_list(m: Body) -> None:
    m.settings.append(m.first.weight.detach().clone())


def remembers_in_a_dict(m: Body) -> None:
    m.settings[0]["now"] = m.first.weight.detach().numpy().copy()


def remembers_in_a_hook(m: Body) -> None:
    weight = m.first.weight.detach().clone()
    m.first.register_forward_hook(lambda module, inputs, output: output + 0 * weight.sum())


def remembers_on_a_parameter(m: Body) -> None:
    m.first.weight.before = m.first.weight.detach().clone()


@pytest.mark.parametrize(
    "meddle",
    [remembers_in_a_list, remembers_in_a_dict, remembers_in_a_hook, remembers_on_a_parameter],
    ids=lambda f: f.__name__,
)
def test_a_forward_pass_that_fills_a_container_is_refused_at_its_first_step(meddle: Callable[[Body], object]) -> None:
    """It would hold weights from between the steps."""
    model = Body(meddle)
    model.settings = [{}]
    with pytest.raises(ModelRefused, match=r"after one batch .* holds"):
        unlearn(model)


def test_what_a_forward_pass_leaves_in_an_attribute_is_gone_after_every_step() -> None:
    """Attention maps, hidden states: of no use to the next step, and not in the model that is returned."""
    seen: list[object] = []

    def remember(m: Body) -> None:
        seen.append(m.__dict__.get("kept"))
        m.kept, m.fresh, m.number = m.first.weight.detach().clone(), [m.last.bias.detach()], 3.5

    model = Body(remember)
    model.kept = None
    done = unlearn(model)
    assert seen == [None] * 3
    assert done.model.kept is None
    assert "fresh" not in vars(done.model)
    assert done.model.number == 3.5


def test_a_public_parameter_that_the_run_changes_is_refused() -> None:
    """Bit by bit, whether it takes part in the gradient or not."""

    def drift(m: Body) -> None:
        m.last.bias.data[0] += 1e-6

    with pytest.raises(RunError, match=r"'last\.bias' was declared public, but the run changes it"):
        unlearn(Body(drift), public=["last.bias"])
    done = unlearn(Body(), public=["last.*"])
    assert all(p.grad is None for p in done.model.parameters())


def test_a_release_that_does_not_hold_the_final_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last check stands on its own: a model that shows other values after the run is a RunError."""
    weights = FlatWeights(Body())
    monkeypatch.setattr(weights._placed, "part", lambda: weights.model.first.weight.data.fill_(0.0))
    weights._placed.flat.add_(1)
    monkeypatch.setattr(weights._placed, "settle", lambda: None)
    monkeypatch.setattr("expunge.training.weights.saved_tensors", lambda model: {
        name: torch.zeros_like(p) for name, p in model.named_parameters()
    })  # fmt: skip
    with pytest.raises(RunError, match="would be released with other values"):
        weights.release()


class Recurrent(nn.Module):
    """An LSTM that lays its weights out anew before every use, as cuDNN likes them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.lstm.flatten_parameters()
        for parameter in self.lstm.parameters():  # what flatten_parameters does on an accelerator
            parameter.data = parameter.data.clone()
        return self.last(self.lstm(x[:, None])[0][:, -1])


def test_a_recurrent_network_that_flattens_its_weights_is_noised_whole() -> None:
    """Its own list of weights and the registered ones stay the same objects."""
    done = unlearn(Recurrent())
    lstm = done.model.lstm
    assert all(a is b for a, b in zip(lstm._flat_weights, lstm.parameters(), strict=True))
    assert all(float(p.detach().std()) > 0.5 * SIGMA for p in lstm.parameters())


class Selective(Body):
    """Shows an optimiser its last layer alone."""

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return ((n, p) for n, p in super().named_parameters(*args, **kwargs) if not n.startswith("first"))


class Reticent(Body):
    """Shows its last layer alone, in its state dict too."""

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        return ((n, m) for n, m in super().named_modules(*args, **kwargs) if n != "first")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {n: t for n, t in super().state_dict(*args, **kwargs).items() if not n.startswith("first")}


class Banked(Body):
    """Does not show its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.ones(20, 8))

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        return iter(())

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {n: t for n, t in super().state_dict(*args, **kwargs).items() if n != "bank"}


def test_layers_that_a_model_does_not_list_are_covered_all_the_same() -> None:
    """A class that overrides `named_parameters` keeps no layer from clip and noise."""
    model = Selective()
    done = unlearn(model)
    assert {name for name, _ in done.record.layers} == {
        f"{a}.{b}" for a in ("first", "last") for b in ("weight", "bias")
    }
    assert float(done.model.first.weight.detach().std()) > SIGMA / 2


@pytest.mark.parametrize("mechanism", [GRADIENT, OUTPUT])
def test_parts_that_neither_lists_nor_state_dict_show_are_refused(mechanism: ex.Mechanism) -> None:
    """They would stay in the model as they were trained, and recovery would build on them."""
    with pytest.raises(ModelRefused, match=r"does not show 'first\.weight'"):
        unlearn(Reticent(), mechanism)
    with pytest.raises(ModelRefused, match="buffer 'bank' may carry data"):
        unlearn(Banked(), mechanism)


TRAINED: dict[str, Tensor] = {}


class Rewinds(Body):
    """Brings its trained weights back whenever its mode is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "training" and TRAINED:
            self.first.weight.data = TRAINED["first"].clone()


def test_weights_that_come_back_with_the_modes_after_the_run_are_seen() -> None:
    """Modes are restored after the release; a model's own code may run then."""
    model = Rewinds()
    TRAINED["first"] = model.first.weight.detach().clone()
    try:
        with pytest.raises(RunError, match=r"'first\.weight' would be released with other values"):
            unlearn(model, OUTPUT)
    finally:
        TRAINED.clear()


@pytest.mark.parametrize("part", ["covered", "public"])
def test_a_tensor_on_the_meta_device_is_refused_by_name(part: str) -> None:
    """It has a shape and no value; nothing is torch's own error."""
    model = Body()
    model.first = nn.Linear(8, 16, device="meta")
    with pytest.raises(ModelRefused, match=r"'first\.weight' is on the meta device"):
        unlearn(model, public=["first.*"] if part == "public" else [])
