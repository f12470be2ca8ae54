"""What `FlatWeights` covers, and what it refuses."""

from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from expunge.accounting import GradientClipping
from expunge.certificate.digests import weights_digest
from expunge.errors import ModelRefused, NonFinite, OutputError
from expunge.training.descent import Descent
from expunge.training.weights import FlatWeights, clip_, save_weights
from expunge.unlearners.gradient_clipping import noisy_steps as gradient_clipping


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))


def buffer() -> nn.Module:
    model = net()
    model.register_buffer("seen", torch.zeros(2))
    return model


def hidden_buffer() -> nn.Module:
    model = net()
    model.register_buffer("seen", torch.zeros(2), persistent=False)
    return model


def frozen() -> nn.Module:
    model = net()
    model[0].weight.requires_grad_(False)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def tied_as_two() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.detach())
    return model


def overlapping() -> nn.Module:
    store = torch.zeros(10)
    model = nn.Module()
    model.a, model.b = nn.Parameter(store[:6]), nn.Parameter(store[4:])
    return model


def plain_tensor() -> nn.Module:
    model = net()
    model[0].memory = torch.ones(3)
    return model


def mixed() -> nn.Module:
    model = net()
    model[2].double()
    return model


def half() -> nn.Module:
    return net().half()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


def empty() -> nn.Module:
    return nn.Sequential(nn.ReLU())


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (batch_norm, "buffers='reset'"),
        (buffer, r"public=\['seen'\]"),
        (hidden_buffer, r"public=\['seen'\]"),
        (frozen, r"requires_grad=True.*public=\['0.weight'\]"),
        (tied_as_two, "are two parameters: tie them as one"),
        (overlapping, "its own copy"),
        (plain_tensor, "register it as a parameter"),
        (mixed, "use one dtype"),
        (half, r"model\.float\(\)"),
        (lazy, "run one batch"),
        (empty, "no trainable parameter"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_that_the_proof_cannot_cover_is_refused_with_the_remedy(
    make: Callable[[], nn.Module], remedy: str
) -> None:
    """Anything that noise would not reach is a ModelRefused whose message says what to do."""
    with pytest.raises(ModelRefused, match=remedy):
        FlatWeights(make())


def test_one_parameter_under_two_names_is_covered_once() -> None:
    """Tied weights are one coordinate each, named by the first name, public by either where they are frozen."""
    weights = FlatWeights(tied())
    assert weights.names == ["0.weight", "0.bias", "1.bias"]
    assert len(weights.theta) == 16 + 4 + 4
    model = tied()
    model[0].weight.requires_grad_(False)
    assert FlatWeights(model, public=["1.weight"]).public == ("0.weight", "1.weight")
    with pytest.raises(ModelRefused, match="are two parameters"):
        FlatWeights(tied(), public=["1.weight"])


def test_a_tied_parameter_that_is_replaced_under_one_name_is_put_back_under_both() -> None:
    """What a loss puts in the place of the second name is gone at the next step and at release."""
    model = tied()
    weights = FlatWeights(model)
    held = model[0].weight
    model[1].weight = nn.Parameter(torch.ones(4, 4))
    assert weights.replaced == "0.weight"
    weights.write()
    weights.release()
    assert model[0].weight is held
    assert model[1].weight is held


def test_buffers_that_are_refused_are_named_all_at_once() -> None:
    """One run tells of all of them, not of one after another."""
    model = net()
    model.register_buffer("one", torch.ones(2))
    model.register_buffer("two", torch.ones(2))
    with pytest.raises(ModelRefused, match=r"'one' \(and 1 more: 'two'\).*public=\['one', 'two'\]"):
        FlatWeights(model)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    """A typing error in public=[...] is named, not ignored."""
    with pytest.raises(ModelRefused, match=r"'bakcbone\.\*' matches no parameter or buffer"):
        FlatWeights(net(), public=["bakcbone.*"])


def test_a_string_of_patterns_is_refused() -> None:
    """public='0.weight' would be read as letters: a TypeError."""
    with pytest.raises(TypeError, match="sequence"):
        FlatWeights(net(), public="0.weight")


def test_each_remedy_is_accepted() -> None:
    """What the refusals advise works."""
    assert FlatWeights(batch_norm(), reset_buffers=True).theta.numel() == 45
    assert FlatWeights(buffer(), public=["seen"]).public == ("seen",)
    weights = FlatWeights(frozen(), public=["0.weight"])
    assert weights.layers == (("0.bias", 5), ("2.weight", 15), ("2.bias", 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    """NaN or infinity in the weights, or in the centre, is a NonFinite."""
    broken = net()
    with torch.no_grad():
        broken[2].bias[1] = bad
    with pytest.raises(NonFinite, match="centre"):
        FlatWeights(net(), center=broken)
    with pytest.raises(NonFinite, match="weights"):
        FlatWeights(broken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_model_follows_theta_and_theta_never_the_model(dtype: torch.dtype) -> None:
    """What is written to theta reaches the model by `write`; what is done to the model reaches theta by nothing."""
    model = net(dtype=dtype)
    before = flat(model)
    weights = FlatWeights(model)
    assert torch.equal(weights.theta.to(dtype), before)
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == 1
    with torch.no_grad():
        model[0].weight.fill_(9.0)
    assert torch.equal(weights.theta.to(dtype), before)
    weights.theta.fill_(2.0)
    weights.write()
    assert bool((flat(model) == 2).all())
    assert weights.center_digest == "zero"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_theta_is_float64_whatever_the_model_is(dtype: torch.dtype) -> None:
    """Rounding to the model's type happens on the way to the model and never in theta."""
    model = net(dtype=dtype)
    weights = FlatWeights(model)
    assert weights.theta.dtype == torch.float64
    weights.theta.fill_(1 + 2.0**-30)
    weights.write()
    assert bool((flat(model) == 1).all())
    assert bool((weights.theta == 1 + 2.0**-30).all())
    assert all(p.dtype == dtype for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_far_below_the_resolution_of_the_model_add_up(dtype: torch.dtype) -> None:
    """A thousand steps of 2^-40 move theta by a thousand times that: the drift of the proof is that of the steps taken."""
    weights = FlatWeights(net(dtype=dtype))
    weights.theta.fill_(1.0)
    m = GradientClipping(
        init_clip=1e3, grad_clip=1.0, learning_rate=2.0**-40, weight_decay=0.0, steps=1000, noise_std=2.0**-60
    )
    part = 0.5 / len(weights.theta) ** 0.5

    class Silent:
        count = 0

        def add_(self, theta: Tensor, *, released: bool = False, after: Descent) -> Tensor:
            return after.apply_(theta)

    for _ in gradient_clipping(
        m, weights.theta, lambda theta, batch: torch.full_like(theta, part).float(), repeat(None), Silent()
    ):
        pass
    assert torch.allclose(
        weights.theta, torch.full_like(weights.theta, 1 - 1000 * part * 2.0**-40), rtol=0, atol=2.0**-42
    )


def test_the_digest_of_a_centre_is_what_it_always_was(tmp_path: Path) -> None:
    """Of a float32 model's centre in float32, as certificates issued before have it."""
    model, center = net(0), net(1)
    safetensors.torch.save_file({"center": flat(center)}, tmp_path / "center.safetensors")
    assert FlatWeights(model, center=center).center_digest == weights_digest(tmp_path / "center.safetensors")


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_center_is_subtracted_and_written_back(as_dict: bool) -> None:
    """Theta is relative to the centre, the model is not."""
    model, center = net(0), net(1)
    difference, checkpoint = flat(model) - flat(center), flat(center)
    weights = FlatWeights(model, center=center.state_dict() if as_dict else center)
    assert torch.allclose(weights.theta, difference.double(), rtol=0, atol=1e-7)
    weights.theta.zero_()
    weights.write()
    assert torch.equal(flat(model), checkpoint)
    assert weights.center_digest.startswith("sha256:")
    assert torch.equal(flat(center), checkpoint)


def test_a_center_of_another_shape_is_refused() -> None:
    """A centre that lacks a covered parameter names it."""
    with pytest.raises(ModelRefused, match=r"center: '0.bias' must have shape \(5,\), found nothing"):
        FlatWeights(net(), center={"0.weight": torch.zeros(5, 6)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_gradient_is_that_of_autograd(dtype: torch.dtype) -> None:
    """The flat gradient is the one torch computes, and is not accumulated over calls."""
    model, x = net(dtype=dtype), torch.ones(2, 6, dtype=dtype)

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        return m(batch).square().sum()

    loss(model, x).backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    model.zero_grad()
    weights = FlatWeights(model)
    gradient = weights.gradient(loss)
    for _ in range(2):  # the first call looks the model through, and collects otherwise
        found = gradient(weights.theta, x)
        assert found.dtype == dtype
        assert torch.allclose(found, expected.to(found.dtype))


@pytest.mark.parametrize("loses", ["its storage", "itself", "its gradient", "its dtype"])
def test_the_gradient_of_a_parameter_that_the_loss_moves_is_collected(loses: str) -> None:
    """Of whatever is registered after the backward pass, at the values that the loss gave it."""
    model, x = net(), torch.ones(2, 6)

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        if loses == "its storage":
            m[0].weight.data = m[0].weight.data.clone()
        elif loses == "itself":
            m[0].weight = nn.Parameter(m[0].weight.detach().clone())
        elif loses == "its gradient":
            m.zero_grad(set_to_none=True)
        else:
            m.double()
        return m(batch.to(m[0].weight.dtype)).square().sum()

    model(x).square().sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    weights = FlatWeights(net())
    gradient = weights.gradient(loss)
    for _ in range(3):
        assert torch.allclose(gradient(weights.theta, x), expected, rtol=1e-5)


def test_release_gives_every_parameter_storage_of_its_own() -> None:
    """After release theta and model no longer share memory, and no gradient is left."""
    model = net()
    weights = FlatWeights(model)
    weights.gradient(lambda m, x: m(x).sum())(weights.theta, torch.ones(2, 6))
    weights.theta.fill_(0.5)
    weights.release()
    weights.theta.fill_(9.0)
    assert bool((flat(model) == 0.5).all())
    parameters = list(model.parameters())
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)
    assert all(p.untyped_storage().nbytes() == p.numel() * 4 for p in parameters)
    assert all(p.grad is None for p in parameters)
    FlatWeights(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("radius", [1e-6, 0.3, 1.0, 1e4])
def test_a_clip_never_exceeds_its_radius(dtype: torch.dtype, radius: float) -> None:
    """Whatever the scale, each row ends inside the ball, measured in float64, in its own direction."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(400, 257, dtype=torch.float64, generator=generator)
    scales = radius * 10 ** torch.linspace(-3, 6, 400, dtype=torch.float64)
    x = (x / x.norm(dim=1, keepdim=True) * scales[:, None]).to(dtype)
    original = x.clone()
    assert clip_(x, radius) is x
    norms = torch.linalg.vector_norm(x.double(), dim=1)
    assert bool((norms <= radius).all())
    small = torch.linalg.vector_norm(original.double(), dim=1) < radius * (1 - 1e-5)
    assert torch.equal(x[small], original[small])
    assert bool((norms[~small] > radius * (1 - 3e-6)).all())
    wide = original.double()
    cosines = (x.double() * wide).sum(dim=1) / (norms * torch.linalg.vector_norm(wide, dim=1))
    assert float(cosines.min()) > 1 - 1e-9


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_clip_of_nan_or_infinity_raises(bad: float) -> None:
    """No clip bounds a NaN: NonFinite, also where only one row of many has it."""
    x = torch.ones(3, 4)
    x[1, 2] = bad
    with pytest.raises(NonFinite, match="NaN or infinity"):
        clip_(x, 1.0)


def test_a_clip_of_values_whose_float32_norm_overflows_still_lands_inside() -> None:
    """The norm is taken in float64, so weights of 1e30 are clipped and not called infinite."""
    x = clip_(torch.full((1000,), 1e30), 1.0)
    assert 1 - 3e-6 < float(x.double().norm()) <= 1


def test_saved_weights_have_the_digest_of_the_model_and_are_never_overwritten(tmp_path) -> None:
    """`save_weights` returns the digest that certificates use, and refuses a path that exists."""
    model, path = net(), tmp_path / "model.safetensors"
    assert save_weights(model, path) == weights_digest(model) == weights_digest(path)
    with pytest.raises(OutputError):
        save_weights(model, path)


@pytest.mark.parametrize("held", [[torch.zeros(2)], {"a": torch.zeros(2)}, [nn.Linear(2, 2)], ([torch.zeros(1)],)])
def test_tensors_and_modules_hidden_in_containers_are_refused(held: object):
    model = net()
    model.held = held
    with pytest.raises(ModelRefused, match="no state dict shows"):
        FlatWeights(model)


def test_a_recurrent_network_whose_list_of_weights_is_torchs_own_is_accepted():
    assert FlatWeights(nn.LSTM(3, 4)).theta.numel() == sum(p.numel() for p in nn.LSTM(3, 4).parameters())
