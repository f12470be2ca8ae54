"""The maps of this package keep the contract of feature maps; each way in which a map can break it is named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from expunge.features import FeatureMap, PublicNetwork, RandomFeatures, TangentFeatures
from expunge.testing import ContractViolation, check_feature_map

ROWS = torch.tensor(load_digits().data[:40] / 16)
PUBLIC = "a network drawn at random"


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 3))


class Mine(nn.Module):
    """Somebody's own: a function of rows, with a line about it."""

    def __init__(
        self, of: Callable[[Tensor], Any], provenance: Any = "public", module: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.of, self.provenance, self.module = of, provenance, module

    def forward(self, x: Tensor) -> Any:
        return self.of(x)


@pytest.mark.parametrize(
    "features",
    [
        RandomFeatures(64, 20, seed=0),
        RandomFeatures(64, 20, seed=0, keep_inputs=True),
        PublicNetwork(network(), shape=(64,), provenance=PUBLIC),
        PublicNetwork(network(), shape=(64,), provenance="", output="2", block=5),
        TangentFeatures(network(), shape=(64,), provenance=PUBLIC, directions=3, seed=0, hidden="2"),
        Mine(lambda x: x.float() * 3),
        Mine(lambda x: (x * 16).long()),
    ],
    ids=lambda features: features.extra_repr() or "mine",
)
def test_a_map_with_rows_of_its_own_keeps_the_contract(features: FeatureMap) -> None:
    assert isinstance(features, FeatureMap)
    state = torch.get_rng_state()
    check_feature_map(features, ROWS)
    assert torch.equal(torch.get_rng_state(), state)
    assert features.training


def test_a_map_of_no_module_keeps_it_too() -> None:
    class Plain:
        provenance = "columns as they are"

        def __call__(self, rows: Tensor) -> Tensor:
            return rows

    check_feature_map(Plain(), ROWS)
    assert not isinstance(lambda rows: rows, FeatureMap)


# What must fail


class FittedLate(Mine):
    """Scales by what it is first called on."""

    mean: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None:
            self.mean = x.double().mean(0)
        return x.double() - self.mean


class Stateful(Mine):
    """Its features or its provenance change as it is used."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.of == "words":
            self.provenance = f"public, call {self.calls}"
            return x
        return x + (self.calls > 45)


def trained(width: int = 64) -> nn.Module:
    return nn.Linear(width, 4, dtype=torch.float64)


class Mode(nn.Module):
    """A network in evaluation mode that `train()` reaches."""

    provenance = PUBLIC

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        state = torch.get_rng_state()
        try:
            return self.layer(x)
        finally:
            torch.set_rng_state(state)  # so that only the features tell


def in_place(x: Tensor) -> Tensor:
    return x.add_(1e-9)


BROKEN: dict[str, tuple[Any, str]] = {
    "no provenance": (nn.Identity(), "has a provenance.*None"),
    "a provenance of two lines": (Mine(lambda x: x, "public\nand so on"), "has a provenance.*one line"),
    "a provenance beyond what a certificate takes": (Mine(lambda x: x, "a" * 1001), "has a provenance.*1000"),
    "a provenance that changes": (Stateful("words"), "its provenance stays"),
    "one that is fitted at its first call": (FittedLate(None), "is fixed before it sees a row"),
    "no tensor": (Mine(lambda x: x.numpy()), "returns a tensor"),
    "one axis": (Mine(lambda x: x.sum(1)), "has shape"),
    "three axes": (Mine(lambda x: x[:, None]), "has shape"),
    "no column": (Mine(lambda x: x[:, :0]), "has shape"),
    "one row for all": (Mine(lambda x: x[:1]), "has shape"),
    "complex numbers": (Mine(lambda x: x.to(torch.complex64)), "is exact in float64"),
    "infinity": (Mine(lambda x: 1 / x), "is finite"),
    "a trained layer": (Mine(trained(), module=None), "without a gradient"),
    "the same for all rows": (Mine(lambda x: torch.ones(len(x), 3)), "tells rows apart"),
    "coins of torch": (Mine(lambda x: x + 0 * torch.rand(1)), "leaves torch's coins"),
    "rows changed in place": (Mine(in_place), "same bits|as they were"),
    "another answer later": (Stateful("later"), "same bits"),
    "the mean of the batch": (Mine(lambda x: x - x.mean(0)), "tells rows apart"),
    "a share of the batch's mean": (Mine(lambda x: x - 1e-12 * x.mean(0)), "same bits in any batch: all rows"),
    "places in a batch": (Mine(lambda x: x + torch.arange(len(x))[:, None]), "same bits in any batch: all rows"),
    "two zeros": (Mine(lambda x: torch.where(x == 0, 0.0 if len(x) == 1 else -0.0, x)), "same bits in any batch"),
    "BatchNorm": (Mode(nn.BatchNorm1d(64, dtype=torch.float64, affine=False)), "same bits.*in training mode"),
    "dropout": (Mode(nn.Dropout(0.5)), "same bits.*in training mode"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_map_that_breaks_it_is_named(name: str) -> None:
    features, message = BROKEN[name]
    with pytest.raises(ContractViolation, match=message):
        check_feature_map(features, ROWS.clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_plain_product_of_matrices_has_other_bits_in_another_batch(dtype: torch.dtype) -> None:
    """Kernels add up in an order that depends on the batch; the same layer as a `PublicNetwork` has rows of its own."""
    rows = torch.randn(40, 512, generator=torch.Generator().manual_seed(0), dtype=dtype)
    layer = trained(512).requires_grad_(False)
    with pytest.raises(ContractViolation, match=r"same bits in any batch: .* by up to [0-9.]+e-"):
        check_feature_map(Mine(lambda x: layer.to(dtype)(x)), rows)
    check_feature_map(PublicNetwork(layer, shape=(512,), provenance=PUBLIC), rows)


def test_modes_are_given_back() -> None:
    features = Mine(lambda x: x, module=nn.Dropout(0.5).eval())
    check_feature_map(features, ROWS)
    assert features.training
    assert not features.module.training


@pytest.mark.parametrize("rows", [ROWS[:7], torch.cat([ROWS, ROWS[3:4]])])
def test_rows_on_which_nothing_would_be_seen_are_refused(rows: Tensor) -> None:
    with pytest.raises(ValueError, match=r"nothing would be tested|would not be seen"):
        check_feature_map(RandomFeatures(64, 5, seed=0), rows)
