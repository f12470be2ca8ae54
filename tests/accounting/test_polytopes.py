"""Linear pieces of networks: the affine function there, bounds on every rounding, and least values that no solver can spoil."""

from fractions import Fraction
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expunge.accounting import polytopes
from expunge.accounting.polytopes import Affine, Box, Piece, pieces
from expunge.training.patched import described, walk

SHAPE = (2, 5, 5)


def drawn(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return nn.Sequential(*layers)


def dense(*sizes: int, seed: int = 0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return drawn(*layers[:-1], seed=seed)


def pictures(seed: int = 0) -> nn.Sequential:
    return drawn(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d((3, 2), stride=1), nn.Flatten(), nn.Linear(6, 4),
        nn.ReLU(), nn.Linear(4, 3, bias=False), seed=seed,
    )  # fmt: skip


def weights(network: nn.Sequential) -> dict[str, Any]:
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def piece_at(
    network: nn.Sequential, z: torch.Tensor, *, by: float = 0.0, low: float = -1.0, high: float = 1.0
) -> Piece:
    units: list[torch.Tensor] = []
    with torch.no_grad():
        walk(network.double(), z[None].double(), units)
    signs = torch.cat([u.reshape(1, -1) for u in units], dim=1).sign().numpy()
    network.float()
    layers = [described(layer) for layer in network]
    return next(pieces(layers, tuple(z.shape), weights(network), signs, [by], Box(low, high, z.numel())))


@pytest.mark.parametrize(
    ("network", "shape"), [(dense(6, 9, 7, 4), (6,)), (pictures(), SHAPE)], ids=["dense", "pictures"]
)
def test_on_its_piece_a_network_is_the_affine_function(network: nn.Sequential, shape: tuple[int, ...]) -> None:
    """Hidden units and scores, against torch in float64."""
    coins = torch.Generator().manual_seed(1)
    for _ in range(5):
        z = torch.rand(shape, generator=coins) * 2 - 1
        piece, units = piece_at(network, z), list[torch.Tensor]()
        with torch.no_grad():
            scores = walk(network.double(), z[None].double(), units)[0].numpy()
        network.float()
        full = np.append(z.double().numpy().ravel(), 1.0)
        hidden = torch.cat([u.reshape(-1) for u in units]).numpy()
        np.testing.assert_allclose(piece.units.rows @ full, hidden, atol=1e-13)
        np.testing.assert_allclose(piece.scores.rows @ full, scores, atol=1e-13)


def test_roundings_lie_below_their_bounds() -> None:
    """Against rational arithmetic, with weights of very different sizes."""
    network = dense(4, 5, 3, seed=3)
    with torch.no_grad():
        network[0].weight *= torch.logspace(-6, 6, 4)
        network[2].weight *= torch.logspace(4, -4, 5)
    piece = piece_at(network, torch.full((4,), 0.3))
    first, second = (
        [
            [Fraction(w) for w in row] + [Fraction(b)]
            for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        for layer in (network[0], network[2])
    )
    active = [row if sign > 0 else [Fraction(0)] * 5 for row, sign in zip(first, piece.signs, strict=True)]
    exact = [
        [sum(second[i][h] * active[h][j] for h in range(5)) + (second[i][5] if j == 4 else 0) for j in range(5)]
        for i in range(3)
    ]
    misses = [[abs(exact[i][j] - Fraction(piece.scores.rows[i, j])) for j in range(5)] for i in range(3)]
    assert any(miss > 0 for row in misses for miss in row)
    assert all(misses[i][j] <= Fraction(piece.scores.error[i, j]) for i in range(3) for j in range(5))
    assert (piece.scores.error <= 1e-12 * np.abs(piece.scores.rows).max()).all()


def vertices(a: Any, s: Any) -> list[Any]:
    """Of {z: a z >= s} in the plane."""
    found = []
    for i, j in combinations(range(len(a)), 2):
        pair = a[[i, j]]
        if abs(np.linalg.det(pair)) > 1e-12:
            z = np.linalg.solve(pair, s[[i, j]])
            if (a @ z >= s - 1e-9).all():
                found.append(z)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_least_value_is_that_at_a_corner(seed: int) -> None:
    """In the plane, where all corners can be listed; the bound lies below it, and close."""
    coins = np.random.default_rng(seed)
    piece = piece_at(dense(2, 6, 3, seed=seed), torch.tensor(coins.uniform(-1, 1, 2)).float())
    a = np.vstack([piece.signs[:, None] * piece.units.rows[:, :-1], np.eye(2), -np.eye(2)])
    s = np.concatenate([-piece.signs * piece.units.rows[:, -1], np.full(4, -1.0)])
    function = piece.scores.of_units([0]).less(piece.scores.of_units([1]))
    least = min(function.rows[0] @ np.append(z, 1.0) for z in vertices(a, s))
    assert least - 1e-9 <= piece.least(function) <= least + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_solver_returns_the_bound_holds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multipliers that are wrong, negative, huge or none give a weaker bound, never a false one."""
    coins = np.random.default_rng(seed)
    piece = piece_at(dense(2, 6, 3, seed=seed), torch.tensor(coins.uniform(-1, 1, 2)).float())
    function = piece.scores.of_units([2]).less(piece.scores.of_units([0]))
    true = piece.least(function)
    for wrong in (coins.normal(size=6), -coins.exponential(size=6), 1e12 * coins.normal(size=6), np.full(6, np.nan)):
        answer = SimpleNamespace(ineqlin=SimpleNamespace(marginals=wrong))
        monkeypatch.setattr(polytopes, "_solved", lambda *_, answer=answer: answer)
        assert piece.least(function) <= true + 1e-12
    monkeypatch.setattr(polytopes, "_solved", lambda *_: None)
    assert piece.least(function) == -np.inf


def test_a_slack_makes_the_piece_smaller_and_the_least_value_no_smaller() -> None:
    z = torch.tensor([0.2, -0.4])
    network = dense(2, 6, 3, seed=1)
    whole, inner = (piece_at(network, z, by=by) for by in (0.0, 0.02))
    function = whole.scores.of_units([0]).less(whole.scores.of_units([1]))
    assert inner.least(function) > whole.least(function)
    centre = inner.innermost()
    assert centre is not None
    assert inner.inside(centre)
    beyond = piece_at(network, z, by=50.0)
    nearest = beyond.innermost()
    assert nearest is None or not beyond.inside(nearest)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("maxpool2d kernel=2,2 stride=2,2 padding=0,0", "none of linear"), ("conv2d out=3", "told as it should"),
        ("conv2d out=3 kernel=3,3 stride=0,1 padding=0,0", "told as it should"),
        ("conv2d out=x kernel=3,3 stride=1,1 padding=0,0", "cannot be read"),
        ("conv2d out=3 kernel=9,9 stride=1,1 padding=0,0", "larger than its input"),
        ("avgpool2d kernel=2,2 stride=2,2 padding=1,1", "told as it should"),
    ],
)  # fmt: skip
def test_a_layer_that_is_not_known_is_refused(layer: str, match: str) -> None:
    told = {"0.weight": np.zeros((3, 2, 9, 9))}
    with pytest.raises(ValueError, match=match):
        list(pieces([layer, "relu"], SHAPE, told, np.ones((1, 3)), [0.1], Box(0.0, 1.0, 50)))


def test_signs_of_another_number_of_units_are_refused() -> None:
    network = dense(2, 4, 2)
    for count in (3, 5):
        with pytest.raises(ValueError, match="signs are given"):
            list(
                pieces(
                    ["linear", "relu", "linear"], (2,), weights(network), np.ones((1, count)), [0.1], Box(0.0, 1.0, 2)
                )
            )
    with pytest.raises(ValueError, match="does not fit 'linear'"):
        list(pieces(["linear", "relu", "linear"], (3,), weights(network), np.ones((1, 4)), [0.1], Box(0.0, 1.0, 3)))


def test_differences_keep_their_bounds() -> None:
    one = Affine(np.array([[1.0, 2.0]]), np.array([[0.5, 0.0]]))
    other = Affine(np.array([[0.25, 1.0]]), np.array([[0.25, 0.125]]))
    found = one.less(other)
    assert (found.rows == [[0.75, 1.0]]).all()
    assert (found.error >= [[0.75, 0.125]]).all()
    assert found.slack(Box(-2.0, 1.0, 1))[0] >= 0.75 * 2 + 0.125


def test_what_underflows_is_bounded_too() -> None:
    """Weights of 1e-200 twice, then 1e200 and 1e210: the product is 1e10, and float64 computes 0 on the way."""
    network = {"0.weight": np.array([[1.0]]), "0.bias": np.array([1.0])}
    for k, size in enumerate((1e-200, 1e-200, 1e200, 1e210), start=2):
        network[f"{k}.weight"] = np.array([[size]])
    layers = ["linear", "relu", *["linear"] * 4]
    piece = next(pieces(layers, (1,), network, np.ones((1, 1)), [0.1], Box(0.0, 1.0, 1)))
    assert float(piece.scores.rows[0] @ [0.5, 1.0]) == 0.0
    assert piece.scores.slack(piece.box)[0] > 1.5e10
    assert piece.least(piece.scores) < -1.5e10


@pytest.mark.parametrize(
    ("layers", "shape", "told", "match"),
    [
        (["linear", "relu"], (1, 200_000), {"0.weight": np.zeros((1, 200_000))}, "flatten them before"),
        (["linear", "relu"], (200_000,), {"0.weight": np.zeros((1, 200_000))}, "too large to be proven"),
        (["conv2d out=1 kernel=1,1 stride=1,1 padding=1000000,1000000", "relu"], (1, 2, 2), {"0.weight": np.zeros((1, 1, 1, 1))}, "too large"),
        (["linear", "relu"], (2, 2), {"0.weight": np.zeros((3, 4))}, "flatten them before"),
        (["linear", "relu"], (4,), {"0.weight": np.zeros((3, 4), dtype=np.complex64)}, "complex64"),
        (["linear", "relu"], (4,), {"0.weight": np.zeros((3, 4), dtype=np.int8)}, "int8"),
        (["conv2d out=1 kernel=1,1 stride=1,1 padding=0,0", "relu"], (1, 2, 2), {"0.weight": np.zeros((1, 1, 1, 1)), "0.bias": np.zeros(4)}, "bias' does not fit"),
        (["conv2d out=\u0661 kernel=1,1 stride=1,1 padding=0,0", "relu"], (1, 2, 2), {}, "cannot be read"),
        (["conv2d out=1_0 kernel=1,1 stride=1,1 padding=0,0", "relu"], (1, 2, 2), {}, "cannot be read"),
    ],
)  # fmt: skip
def test_a_network_that_torch_would_not_have_or_that_fills_the_memory_is_refused(
    layers: Any, shape: Any, told: Any, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        list(pieces(layers, shape, told, np.ones((1, 3)), [0.1], Box(0.0, 1.0, int(np.prod(shape)))))


def test_a_bias_of_a_layer_that_has_none_counts_for_nothing() -> None:
    layers = ["avgpool2d kernel=2,2 stride=2,2 padding=0,0", "flatten", "linear", "relu"]
    told = {"2.weight": np.ones((1, 1)), "0.bias": np.full(1, -9.0)}
    piece = next(pieces(layers, (1, 2, 2), told, np.ones((1, 1)), [0.1], Box(0.0, 1.0, 4)))
    assert piece.units.rows[0, -1] == 0
