"""A public network as a feature map: what it says of a row is the row's own, and exact to forget by."""

import copy
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import expunge as ex
from expunge.certificate.digests import weights_digest
from expunge.errors import ModelRefused, NonFinite
from expunge.features import PublicNetwork


def network(seed: int = 0) -> nn.Sequential:
    """A small residual-free network for 8x8 pictures; layer 4 pools, layer 6 has 3 outputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 9, 3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 3),
        )  # fmt: skip
        module(torch.rand(50, 1, 8, 8))  # statistics of BatchNorm
    return module


def digits(n: int) -> tuple[Tensor, Tensor, list[str]]:
    data = load_digits()
    return torch.tensor(data.images[:n] / 16)[:, None], torch.tensor(data.target[:n]).long(), [str(k) for k in range(n)]


def make(module: nn.Module | None = None, **options: Any) -> PublicNetwork:
    standard: dict[str, Any] = {"shape": (1, 8, 8), "provenance": "a network drawn at random"}
    return PublicNetwork(network() if module is None else module, **(standard | options))


@pytest.mark.parametrize(("output", "width", "last"), [(None, 3, 7), ("4", 9, 5), ("3", 9 * 36, 4), ("1", 6 * 64, 2)])
def test_the_features_are_the_output_of_the_network_or_of_a_layer_before_it(output: str | None, width: int, last: int):
    """To half a step; what the next layer does in place does not reach them."""
    module, (x, _, _) = network(), digits(20)
    features = make(module, output=output)
    assert features.width == width
    expected = copy.deepcopy(module).double().eval()[:last](x).flatten(1).detach()
    values = features(x)
    assert values.shape == (20, width)
    assert values.dtype == torch.float64
    assert float((values - expected).abs().max()) <= 2.0**-17 + 1e-12
    assert torch.equal(values / 2.0**-16, torch.round(values / 2.0**-16))


@pytest.mark.parametrize("output", [None, "4"])
def test_a_row_has_the_same_features_in_any_batch_place_and_block(output: str | None):
    x, _, _ = digits(45)
    together = make(output=output)(x)
    for block in (1, 5, 64):
        features = make(output=output, block=block)
        for where in (slice(0, 1), slice(44, 45), slice(7, 30), slice(None, None, 3), slice(None)):
            assert torch.equal(features(x[where]), together[where])
        assert torch.equal(features(x.flip(0)).flip(0), together)


def test_rows_near_a_border_are_evaluated_alone(monkeypatch: pytest.MonkeyPatch):
    """Kernels that err by up to 2^-38 by the place in a block: borders are guarded. Without the guard features differ."""
    x, _, _ = digits(64)
    step = 2.0**-30
    expected = make(step=step, block=1)(x)
    raw = PublicNetwork.raw

    def erring(self: PublicNetwork, rows: Tensor) -> Tensor:
        return raw(self, rows) + torch.linspace(-1, 1, len(rows), dtype=torch.float64)[:, None] * 2.0**-38 * (
            len(rows) > 1
        )

    monkeypatch.setattr(PublicNetwork, "raw", erring)
    assert torch.equal(make(step=step, block=16)(x), expected)
    monkeypatch.setattr(
        "expunge.features.frozen_network._near_a_border", lambda v, s: torch.zeros(len(v), dtype=torch.bool)
    )
    assert not torch.equal(make(step=step, block=16)(x), expected)


def test_forgetting_by_features_made_anew_is_retraining_bit_for_bit():
    module = network()
    features, (x, y, ids) = make(module, output="4"), digits(200)
    head, again = (
        ex.AnalyticHead(ridge=1.0, classes=10, provenance=features.provenance, grid=features.step) for _ in range(2)
    )
    head.learn(features(x), y, ids=ids)
    for first, last in ((0, 1), (1, 18), (18, 40)):
        head.forget(features(x[first:last]), y[first:last], ids=ids[first:last])
    again.learn(features(x[40:]), y[40:], ids=ids[40:])
    assert torch.equal(head.weights, again.weights)
    done = head.unlearned()
    certificate = ex.issue(done.record, released=done.model)
    assert certificate.claim.kind is ex.Kind.EXACT
    assert weights_digest(module) in certificate.to_json()


def test_a_task_forgets_by_it_and_takes_its_provenance():
    x, y, ids = digits(120)
    features = make(output="4")
    rows = ex.Examples(x, y, ids=ids)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, dtype=torch.float64))
    task = ex.Task(model=model, data=rows, loss=lambda model, batch: model(batch[0]).sum(), features=features)
    done = ex.unlearn(task, ex.Request.rows(ids[:7]), "grid_ridge")
    assert done.record.mechanism.provenance == features.provenance
    assert done.predict(x).shape == (120, 10)


def test_the_callers_network_is_left_as_it_is_and_changes_to_it_reach_no_feature():
    module, (x, _, _) = network().train(), digits(10)
    digest, state = weights_digest(module), torch.get_rng_state()
    features = make(module)
    values = features(x.requires_grad_())
    assert (weights_digest(module), module.training, module[0].weight.dtype) == (digest, True, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert not values.requires_grad
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(features.train()(x), values)
    assert torch.equal(copy.deepcopy(features)(x), values)
    assert features(x[:0]).shape == (0, features.width)


def test_the_provenance_names_network_output_and_reason():
    module = network()
    assert make(module, output="4").provenance == (
        f"a network drawn at random; network {weights_digest(module)} frozen, output 4, step 1.52587890625e-05"
    )
    assert "output of the network" in make(module).provenance
    assert make(module, provenance="").provenance == ""


class _Strange(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        out = self.layer(x)
        if self.way == "draws":
            return nn.functional.dropout(out, 0.5, training=True)
        if self.way == "counts":
            self.seen += 1
        if self.way == "twice":
            return self.layer(x) + out
        if self.way == "flattened":
            return out.reshape(-1)
        ways = {"couples": out - out.mean(0), "infinite": out / torch.zeros(()), "sums": out.sum(0, keepdim=True)}
        return {"logits": out} if self.way == "mapping" else ways.get(self.way, out)


@pytest.mark.parametrize(
    ("way", "options", "error", "message"),
    [
        ("draws", {}, ModelRefused, "random numbers"),
        ("counts", {}, ModelRefused, "seen"),
        ("couples", {}, ModelRefused, "see one another"),
        ("infinite", {}, NonFinite, "not finite"),
        ("mapping", {}, ModelRefused, "one tensor"),
        ("sums", {}, ModelRefused, "a row of outputs for each row"),
        ("flattened", {}, ModelRefused, "a row of outputs for each row"),
        ("twice", {"output": "layer"}, ModelRefused, "runs 2 times"),
        ("none", {"output": "other"}, ValueError, "must name a submodule"),
        ("none", {"step": 0.001}, ValueError, "power of two"),
        ("none", {"block": 0}, ValueError, "block"),
        ("none", {"provenance": "two\nlines"}, ValueError, "provenance"),
        ("none", {"shape": (0,)}, ValueError, "shape"),
    ],
)
def test_what_is_no_function_of_a_row_is_refused(
    way: str, options: dict[str, Any], error: type[Exception], message: str
):
    module, state = _Strange(way), torch.get_rng_state()
    with pytest.raises(error, match=message):
        make(module, **({"shape": (3,)} | options))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_named_layer_may_lie_in_a_network_that_returns_no_tensor():
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    assert make(_Strange("mapping"), shape=(3,), output="layer")(x).shape == (5, 2)


def test_batch_statistics_casts_and_changed_weights_are_refused():
    x, _, _ = digits(3)
    batch = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False))
    with pytest.raises(ModelRefused, match="1 has no running statistics"):
        make(batch)
    with pytest.raises(TypeError, match="features of the public network must stay float64"):
        make().float()(x)
    features = make()
    with torch.no_grad():
        features.network[0].weight[0, 0, 0, 0] += 1e-9
    with pytest.raises(ModelRefused, match="were changed"):
        features(x)
    for name, value in (("output", "2"), ("step", 0.5), ("shape", (1,))):
        with pytest.raises(AttributeError, match="cannot become"):
            setattr(features, name, value)
