"""Tangent features: the Jacobian in public directions, the same for a row in any batch, exact to forget on."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import expunge as ex
from expunge.certificate.digests import weights_digest
from expunge.data import Request
from expunge.errors import ModelRefused, NonFinite
from expunge.features.frozen_network import _near_a_border
from expunge.features.tangent import TangentFeatures, _sketch
from expunge.heads import AnalyticHead, ConvexHead

KEY = bytes(range(32))
OUTPUTS = 3


def network(seed: int = 0, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """A small convolutional one for 8x8 pictures, 3 outputs, 223 parameters, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), activation(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(16, 9), activation(), nn.Linear(9, OUTPUTS),
        )  # fmt: skip


def tiny(seed: int = 0) -> nn.Sequential:
    """3-4-2, 26 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def digits(n: int) -> tuple[Tensor, Tensor, list[str]]:
    data = load_digits()
    return torch.tensor(data.images[:n] / 16)[:, None], torch.tensor(data.target[:n]).long(), [str(k) for k in range(n)]


def make(module: nn.Module | None = None, **options: Any) -> TangentFeatures:
    standard: dict[str, Any] = {
        "shape": (1, 8, 8), "directions": 7, "seed": 1, "provenance": "a network drawn at random", "hidden": "5",
    }  # fmt: skip
    return TangentFeatures(network() if module is None else module, **(standard | options))


def make_tiny(module: nn.Module, **options: Any) -> TangentFeatures:
    return make(module, **({"shape": (3,), "hidden": None, "bias": False, "step": 2.0**-40} | options))


def dense(order: Tensor, entries: Tensor, parameters: int, directions: int) -> Tensor:
    """R, shape (P, directions), entry by entry from the definition."""
    r = torch.zeros(parameters, directions, dtype=torch.float64)
    for place, (parameter, entry) in enumerate(zip(order.tolist(), entries.tolist(), strict=True)):
        r[parameter, place % directions] += entry
    return r


def sketch(features: TangentFeatures) -> Tensor:
    return dense(features.order, features.signs, features.parameters_covered, features.directions)


def jacobian(module: nn.Module, x: Tensor, names: tuple[str, ...]) -> Tensor:
    """J(x), shape (n, outputs, P), by reverse mode over a whole batch."""
    own = copy.deepcopy(module).double().eval()
    held = {n: p.detach() for n, p in own.named_parameters()}
    parts = jacrev(lambda t: functional_call(own, held | t, (x.double(),)))({n: held[n] for n in names})
    return torch.cat([parts[n].flatten(2) for n in names], dim=2)


def move(module: nn.Module, names: tuple[str, ...], by: Tensor) -> nn.Module:
    """A float64 copy whose parameters `names` have moved by a flat vector."""
    moved = copy.deepcopy(module).double().requires_grad_(False)
    held = dict(moved.named_parameters())
    with torch.no_grad():
        for name, part in zip(names, by.split([held[n].numel() for n in names]), strict=True):
            held[name] += part.view_as(held[name])
    return moved


# What the features are.


@pytest.mark.parametrize("directions", [1, 2, 3, 7, 50, 223])
def test_the_features_are_the_explicit_jacobian_times_the_sketch(directions: int):
    """Fewer directions than outputs go forward, others in reverse; to half a step, and before rounding to 1e-14."""
    module, (x, _, _) = network(), digits(5)
    features = make(module, directions=directions, step=2.0**-40)
    assert features.mode == ("forward" if directions < OUTPUTS else "reverse")
    expected = jacobian(module, x, features.names) @ sketch(features)
    tangent = features(x)[:, : OUTPUTS * directions].view(5, OUTPUTS, directions)
    assert float((tangent - expected).abs().max()) <= 2.0**-41 + 1e-14
    in_a_block = features._raw(x, 16)[:, : OUTPUTS * directions].view(5, OUTPUTS, directions)
    assert float((in_a_block - expected).abs().max()) <= 1e-14


def test_a_feature_is_the_slope_of_an_output_along_its_direction():
    """Central differences in float64: error of order h², and of u/h."""
    module, (x, _, _) = network(), digits(4)
    features = make(module, step=2.0**-40, parameters=("0.*", "4.*"))
    r, h = sketch(features), 1e-5
    tangent = features(x)[:, : OUTPUTS * 7].view(4, OUTPUTS, 7)
    for j in range(7):
        forth, back = (move(module, features.names, side * h * r[:, j])(x) for side in (1, -1))
        assert float(((forth - back) / (2 * h) - tangent[:, :, j]).abs().max()) < 1e-9


def test_forward_and_reverse_mode_agree():
    features, (x, _, _) = make(directions=20), digits(6)
    reverse, forward = features._by_outputs(x), features._by_directions(x)
    for one, other in zip(reverse, forward, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) < 1e-14


def test_a_network_linear_in_its_parameters_is_its_own_linearisation():
    """f(x; w + R a) - f(x; w) = φ a without a remainder; with a hidden layer there is one."""
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rest: list[float] = []
    for module in (nn.Linear(3, 2).requires_grad_(False), tiny().requires_grad_(False)):
        features = make_tiny(module, directions=4)
        moved = move(module, features.names, sketch(features) @ a)
        step = features(x).view(5, 2, 4) @ a
        rest.append(float((moved(x) - copy.deepcopy(module).double()(x) - step).abs().max()))
    assert rest[0] < 1e-10
    assert rest[1] > 1e-2


def test_hidden_features_and_a_constant_stand_beside_the_tangents():
    module, (x, _, _) = network(), digits(5)
    features = make(module, step=2.0**-40)
    assert features.width == features(x).shape[1] == OUTPUTS * 7 + 9 + 1
    hidden = copy.deepcopy(module)[:6].double()(x).detach()
    assert float((features(x)[:, 21:30] - hidden).abs().max()) < 2.0**-40
    assert torch.equal(features(x)[:, 30], torch.ones(5, dtype=torch.float64))
    assert make(module, hidden=None, bias=False).width == OUTPUTS * 7


def test_a_public_hidden_layer_can_be_linearised_in_place_of_the_output():
    module, (x, _, _) = network(), digits(3)
    features = make(module, output="5", hidden=None, bias=False, step=2.0**-40, parameters=("0.*",), directions=40)
    expected = jacobian(module[:6], x, features.names) @ sketch(features)
    assert features.outputs == 9
    assert float((features(x).view(3, 9, 40) - expected).abs().max()) < 2.0**-40


def test_what_a_later_layer_does_in_place_reaches_no_hidden_feature():
    x, _, _ = digits(4)
    apart, within = (make(network(activation=lambda i=i: nn.ReLU(inplace=i)), hidden="4")(x) for i in (False, True))
    assert torch.equal(apart, within)
    assert bool((within[:, 21:30] < 0).any())


def test_every_parameter_has_one_direction_and_the_size_of_its_public_tensor():
    module = network()
    with torch.no_grad():
        module[0].bias.zero_()
    features = make(module, directions=50)
    r, at, squares = sketch(features), 0, 0.0
    assert torch.equal((r != 0).sum(1), torch.ones(223, dtype=torch.int64))
    assert set((r != 0).sum(0).tolist()) == {4, 5}
    assert abs(float(torch.sign(r).sum())) < 5 * 223**0.5
    overall = (sum(float(p.detach().double().square().sum()) for p in module.parameters()) / 223) ** 0.5
    for name, p in module.named_parameters():
        size = float(p.detach().square().mean().sqrt()) if name != "0.bias" else overall
        part = r[at : at + p.numel()]
        torch.testing.assert_close(part[part != 0].abs(), torch.full((p.numel(),), size, dtype=torch.float64))
        at, squares = at + p.numel(), squares + size**2 * p.numel()


def test_inner_products_are_those_of_the_scaled_jacobian_on_average_over_seeds():
    """Within five standard errors over 400 seeds; with one seed they are off."""
    module, (x, _, _) = network(), digits(2)
    full = make(module, directions=223, hidden=None, bias=False)(x)
    truth = float(full[0] @ full[1])
    j = jacobian(module, x, tuple(name for name, _ in module.named_parameters()))
    tensors = [p.detach() for p in module.parameters()]
    drawn = [j @ dense(*_sketch(tensors, 10, seed), 223, 10) for seed in range(400)]
    products = torch.stack([(phi[0] * phi[1]).sum() for phi in drawn])
    error = float(products.std()) / 20
    assert abs(float(products.mean()) - truth) < 5 * error
    assert 5 * error < 0.1 * truth < float(products.std())


def test_ridge_on_the_full_tangent_space_is_the_kernel_form():
    """With as many directions as parameters, primal ridge predicts what the dual of the scaled tangent kernel does."""
    module, coins = tiny(), torch.Generator().manual_seed(3)
    x, new = (torch.randn(n, 3, generator=coins, dtype=torch.float64) for n in (30, 7))
    y = torch.randn(30, 1, generator=coins, dtype=torch.float64)
    features = make_tiny(module, directions=26)
    head = AnalyticHead(ridge=0.1, grid=None)
    head.learn(features(x), y, ids=[str(k) for k in range(30)])
    sizes = torch.cat([torch.full((p.numel(),), float(p.detach().square().mean().sqrt())) for p in module.parameters()])
    scaled = [jacobian(module, rows, features.names) * sizes for rows in (x, new)]
    kernel = torch.einsum("icp,jcp->ij", scaled[0], scaled[0])
    across = torch.einsum("icp,jcp->ij", scaled[1], scaled[0])
    dual = across @ torch.linalg.solve(kernel + 0.1 * torch.eye(30, dtype=torch.float64), y)
    assert float((head.scores(features(new)) - dual).abs().max()) < 1e-9


# A row has its own features.


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("directions", [2, 40])
def test_a_row_has_the_same_features_in_any_batch_place_and_block(activation: Callable[[], nn.Module], directions: int):
    x, _, _ = digits(45)
    together = make(network(activation=activation), directions=directions)(x)
    for block in (1, 5, 16, 64):
        features = make(network(activation=activation), directions=directions, block=block)
        for where in (slice(0, 1), slice(44, 45), slice(7, 30), slice(None, None, 3), slice(None)):
            assert torch.equal(features(x[where]), together[where])
        assert torch.equal(features(x.flip(0)).flip(0), together)


def test_rounding_in_a_block_stays_far_below_what_is_allowed_for():
    """The largest difference between a row in a block and alone, in units of the allowance 2^-36: below 1/1000."""
    features, (x, _, _) = make(directions=40), digits(64)
    alone = torch.cat([features._raw(row[None], 1) for row in x])
    assert float((features._raw(x, 64) - alone).abs().max()) < 2.0**-46


def test_a_value_near_a_border_between_steps_is_found_and_others_are_not():
    step = 2.0**-16
    values = torch.tensor(
        [[0.5 * step, 0.0], [0.0, 0.0], [3.25 * step, -7 * step], [0.0, -2.5 * step], [800.5 * step, 9.0]]
    )
    values = values.double()
    assert _near_a_border(values, step).tolist() == [True, False, False, True, True]
    near = torch.tensor([[0.5 * step + 0.9 * 2.0**-36], [0.5 * step + 1.1 * 2.0**-36]], dtype=torch.float64)
    assert _near_a_border(near, step).tolist() == [True, False]
    # What is allowed grows with the largest feature of the row.
    assert _near_a_border(torch.cat([near[1:], near[1:] * 0 + 4.0], 1), step).tolist() == [True]


def test_rows_near_a_border_are_evaluated_alone(monkeypatch: pytest.MonkeyPatch):
    """Kernels that err by up to 2^-38 by the place in a block: borders are guarded. Without the guard features differ."""
    x, _, _ = digits(64)
    step = 2.0**-30  # about one row in two is near a border
    expected = make(step=step, block=1)(x)
    raw = TangentFeatures._raw

    def erring(self: TangentFeatures, piece: Tensor, block: int) -> Tensor:
        values = raw(self, piece, block)
        if block > 1:
            values[:, :30] += torch.linspace(-1, 1, len(piece), dtype=torch.float64)[:, None] * 2.0**-38
        return values

    monkeypatch.setattr(TangentFeatures, "_raw", erring)
    assert torch.equal(make(step=step, block=16)(x), expected)
    monkeypatch.setattr(
        "expunge.features.frozen_network._near_a_border", lambda v, s: torch.zeros(len(v), dtype=torch.bool)
    )
    assert not torch.equal(make(step=step, block=16)(x), expected)


def test_the_number_of_threads_does_not_matter():
    features, (x, _, _) = make(directions=40), digits(40)
    before = torch.get_num_threads()
    seen = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seen.append(features(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*seen)


def test_features_are_multiples_of_the_step():
    """And zero has one sign, as the two zeros have different bits."""
    features, (x, _, _) = make(step=2.0**-4), digits(20)
    values, finer = features(x), make(step=2.0**-40)(x)
    assert torch.equal(values * 16, torch.round(values * 16))
    assert float((values - finer).abs().max()) <= 2.0**-5 + 2.0**-40
    assert bool(((values == 0) & (finer < 0)).any())
    assert not bool((torch.signbit(values) & (values == 0)).any())


# Heads on them.


@pytest.mark.parametrize("grid", [True, False])
def test_forgetting_by_features_made_anew_is_retraining(grid: bool):
    """To 1e-10, and with the grid bit for bit; each forgotten row is evaluated in a batch of another size."""
    features, (x, y, ids) = make(network(1), directions=20), digits(300)
    options: dict[str, Any] = {"ridge": 1.0, "classes": 10, "provenance": features.provenance, "key": KEY}
    options |= {"grid": features.step} if grid else {}
    head, again = AnalyticHead(**options), AnalyticHead(**options)
    head.learn(features(x), y, ids=ids)
    before = head.weights
    for first, last in ((0, 1), (1, 18), (18, 40)):
        head.forget(features(x[first:last]), y[first:last], ids=ids[first:last])
    again.learn(features(x[40:]), y[40:], ids=ids[40:])
    assert float((head.weights - again.weights).abs().max()) <= 1e-10
    assert float((head.weights - before).abs().max()) > 1e-3
    if grid:
        assert torch.equal(head.weights, again.weights)
    # A certificate that names the network.
    done = head.unlearned()
    certificate = ex.issue(done.record, released=done.model)
    assert certificate.claim.kind is ex.Kind.EXACT
    assert weights_digest(network(1)) in certificate.to_json()


def test_features_of_a_network_in_training_mode_cannot_be_forgotten():
    """The case that must fail: dropout makes the features of a row new at every call, and the head refuses them."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Dropout(0.5), nn.Linear(20, OUTPUTS)).train()
    x, y, ids = digits(50)

    def naive(rows: Tensor) -> Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return copy.deepcopy(module)[:3](rows.float())

    features = make(module, hidden="2")
    for of, forgets in ((naive, False), (features, True)):
        head = AnalyticHead(ridge=1.0, classes=10, key=KEY)
        head.learn(of(x), y, ids=ids)
        torch.rand(1)
        if forgets:
            head.forget(of(x[:3]), y[:3], ids=ids[:3])
        else:
            with pytest.raises(ValueError, match="another X or Y"):
                head.forget(of(x[:3]), y[:3], ids=ids[:3])
    assert module.training


def test_the_convex_head_retrains_on_them():
    features, (x, y, ids) = make(network(1), directions=10), digits(200)
    options: dict[str, Any] = {
        "loss": "logistic", "regularization": 1e-2, "classes": 10, "residual": 1e-9, "noise_std": 1e-3,
        "provenance": features.provenance, "bias": False,
    }  # fmt: skip
    head, again = ConvexHead(**options), ConvexHead(**options)
    phi = features(x)
    head.fit(ex.Examples(phi, y, ids=ids))
    done = head.unlearn(ex.Examples(phi[20:], y[20:], ids=ids[20:]), Request.rows(ids[:20]))
    again.fit(ex.Examples(features(x[20:]), y[20:], ids=ids[20:]))
    assert float((head.solution.weights - again.solution.weights).abs().max()) <= 2 * 1e-9 / 1e-2
    assert ex.issue(done.record, released=done.model).claim.kind is not ex.Kind.NONE


def test_without_a_reason_the_certificate_proves_nothing():
    features, (x, y, ids) = make(provenance=""), digits(50)
    assert features.provenance == ""
    head = AnalyticHead(ridge=1.0, classes=10, provenance=features.provenance)
    head.learn(features(x), y, ids=ids)
    done = head.unlearned()
    assert ex.issue(done.record, released=done.model, unchecked="a test").claim.kind is ex.Kind.NONE


def test_tangents_tell_the_digits_apart_better_than_the_hidden_features_alone():
    features, (x, y, ids) = make(network(1), directions=40), digits(900)
    phi, accuracy = features(x), list[float]()
    for rows in (phi[:, -10:], phi):
        head = AnalyticHead(ridge=1e-3, classes=10)
        head.learn(rows[300:], y[300:], ids=ids[300:])
        accuracy.append(float((head.predict(rows[:300]) == y[:300]).double().mean()))
    assert accuracy[1] > accuracy[0] + 0.1


# What is public, what is left alone.


def test_a_seed_decides_the_features_and_nothing_of_the_callers_is_changed():
    module, (x, _, _) = network().train(), digits(10)
    module[0].weight.requires_grad_(True)
    state, digest = torch.get_rng_state(), weights_digest(module)
    first, same, other = make(module, seed=3), make(module, seed=3), make(module, seed=4)
    values = first(x.requires_grad_())
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_digest(module) == digest
    assert module.training
    assert module[0].weight.dtype == torch.float32
    assert module[0].weight.requires_grad
    assert module[0].weight.grad is None
    assert not module[5]._forward_hooks
    assert not values.requires_grad
    assert torch.equal(values, same(x))
    assert not torch.equal(values, other(x))
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(first(x), values)


def test_training_mode_of_what_surrounds_it_does_not_reach_the_network():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, OUTPUTS))
    module(digits(30)[0].float())
    features, (x, _, _) = make(module.train(), hidden="3"), digits(20)
    values = features(x)
    assert torch.equal(nn.Sequential(features).train()(x), values)
    assert features.training
    features.network[3].train()
    with pytest.raises(ModelRefused, match="training mode"):
        features(x)


def test_the_provenance_names_network_sketch_and_reason():
    module = network()
    text = make(module, parameters=("0.*", "*.bias"), output="6").provenance
    assert text.isprintable()
    for part in ("a network drawn at random", weights_digest(module), "0.* *.bias (4 tensors, 52 parameters)", "7 directions",
                 "seed 1", "output 6", "hidden 5", "step 1.52587890625e-05"):  # fmt: skip
        assert part in text


def test_no_row_gives_no_features_and_a_copy_gives_the_same():
    features, (x, _, _) = make(), digits(3)
    assert features(x[:0]).shape == (0, features.width)
    assert torch.equal(copy.deepcopy(features)(x), features(x))


# Refusals.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"directions": 0}, ValueError, "directions"),
        ({"directions": 224}, ValueError, "at most 223"),
        ({"directions": 2.5}, TypeError, "directions"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**32}, ValueError, "seed"),
        ({"step": 0.001}, ValueError, "power of two"),
        ({"step": 0.0}, ValueError, "step"),
        ({"block": 0}, ValueError, "block"),
        ({"shape": (1, 8, 0)}, ValueError, "shape"),
        ({"provenance": " "}, ValueError, "provenance"),
        ({"provenance": None}, TypeError, "provenance"),
        ({"parameters": "0.*"}, TypeError, "sequence of patterns"),
        ({"parameters": ("0.*", "9.*")}, ValueError, r"'9\.\*' matches none"),
        ({"parameters": ()}, ValueError, "at least one pattern"),
        ({"hidden": "17"}, ValueError, "hidden"),
        ({"output": "17"}, ValueError, "output"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make(**options)


class _Strange(nn.Module):
    """A network that is no function of a row, in the way that is named."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(3, 2).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        out = self.layer(x)
        if self.way == "draws":
            return nn.functional.dropout(out, 0.5, training=True)
        if self.way == "counts":
            self.seen += 1
        if self.way == "couples":
            return out - out.mean(0)
        if self.way == "twice":
            return self.layer(x) + out
        if self.way == "infinite":
            return out / torch.zeros(())
        if self.way == "branches":
            return out if float(out.sum()) > 1e9 else -out
        return {"logits": out} if self.way == "mapping" else out


@pytest.mark.parametrize(
    ("way", "error", "message"),
    [
        ("draws", ModelRefused, "random numbers"),
        ("counts", ModelRefused, "seen"),
        ("couples", ModelRefused, "see one another"),
        ("twice", ModelRefused, "runs 2 times"),
        ("infinite", NonFinite, "not finite"),
        ("branches", ModelRefused, "torch.func"),
        ("mapping", ModelRefused, "one tensor"),
    ],
)
def test_a_network_that_is_no_function_of_a_row_is_refused(way: str, error: type[Exception], message: str):
    state = torch.get_rng_state()
    module = _Strange(way)
    torch.set_rng_state(state)
    with pytest.raises(error, match=message):
        make_tiny(module, directions=2, hidden="layer")
    assert torch.equal(torch.get_rng_state(), state)
    assert float(module.seen) == 0
    make_tiny(_Strange("none"), directions=2, hidden="layer")


def test_batch_statistics_and_weights_that_are_not_finite_are_refused():
    batch = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    with pytest.raises(ModelRefused, match="1 has no running statistics"):
        make_tiny(batch)
    module = tiny()
    with torch.no_grad():
        module[2].weight[0, 0] = torch.nan
    with pytest.raises(NonFinite, match=r"2\.weight"):
        make_tiny(module)


def test_rows_that_cannot_be_used_are_refused_and_change_nothing():
    features, (x, _, _) = make(), digits(40)
    values = features(x)
    for wrong in (x[0], x.flatten(1), x[:, :, :7]):
        with pytest.raises(ValueError, match=r"\(n, 1, 8, 8\)"):
            features(wrong)
    for wrong in (x.to(torch.complex64), x.numpy(), x.long()):
        with pytest.raises(TypeError, match="x must be a tensor of real numbers"):
            features(wrong)
    broken = x.clone()
    broken[33, 0, 0, 0] = torch.inf
    with pytest.raises(NonFinite, match="x holds"):
        features(broken)
    with pytest.raises(ValueError, match="larger step"):
        make(network(activation=nn.Identity))(x * 1e18)
    assert torch.equal(features(x), values)


def test_a_row_whose_features_overflow_is_named():
    module = nn.Sequential(nn.Linear(3, 2), nn.Softplus(), nn.Linear(2, 2))
    x = torch.ones(20, 3, dtype=torch.float64)
    x[18] = 1e308
    with torch.no_grad():
        module[0].weight.fill_(1e10)
    with pytest.raises(NonFinite, match="row 18"):
        make_tiny(module, block=4, step=1.0)(x)


def test_a_cast_module_and_changed_weights_are_refused():
    x, _, _ = digits(3)
    with pytest.raises(TypeError, match="float32"):
        make().float()(x)
    with pytest.raises(TypeError, match="float16"):
        make().half()(x)
    features = make()
    with torch.no_grad():
        features.network[0].weight[0, 0, 0, 0] += 1e-9
    with pytest.raises(ModelRefused, match="were changed"):
        features(x)
    features = make()
    features.signs.neg_()
    with pytest.raises(ModelRefused, match="were changed"):
        features(x)
