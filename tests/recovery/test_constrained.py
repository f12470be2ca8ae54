"""Recovery under constraints: multipliers at rest are the dual solution, and constraints that cannot hold give way."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import expunge as ex
import sample_tasks
from expunge.errors import ModelRefused
from expunge.recovery import FineTuning
from expunge.recovery.constrained import Multipliers, ResilientConstrained
from expunge.testing import check_recovery

RECIPE = ex.Recipe(learning_rate=0.05, batch_size=60)


def seeded() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sample_tasks.make_model()


def settled(
    a: list[float], sides: list[tuple[int, float]], levels: tuple[float, ...], *, price: float, plain: bool = False
):
    """Solve min |θ - a|²/2 under s θ_k - c ≤ u for (k, s): steps to rest from θ = a."""
    multipliers = Multipliers(levels, price=price, dual_rate=0.05, slack_rate=0.0 if plain else 0.3 / price)
    theta, start = torch.tensor(a, dtype=torch.float64), torch.tensor(a, dtype=torch.float64)
    for _ in range(4000):
        gradient = theta - start
        for (k, side), dual in zip(sides, multipliers.duals, strict=True):
            gradient[k] += side * float(dual)
        theta = theta - 0.5 * gradient
        for which, (k, side) in enumerate(sides):
            multipliers.see(which, side * float(theta[k]), 1)
        multipliers.move()
    return theta, multipliers


@pytest.mark.parametrize("price", [0.2, 1.0, 8.0])
def test_multipliers_at_rest_are_the_dual_solution_of_a_quadratic_program(price: float) -> None:
    """θ_0 ≤ 0.5 from a_0 = 2: λ = (a - c)/(1 + 1/(2α)), u = λ/(2α); a constraint that holds anyway has none."""
    theta, found = settled([2.0, 1.0], [(0, 1.0), (1, 1.0)], (0.5, 3.0), price=price)
    dual = 1.5 / (1 + 1 / (2 * price))
    assert found.duals.tolist() == pytest.approx([dual, 0.0], abs=1e-10)
    assert found.slacks.tolist() == pytest.approx([dual / (2 * price), 0.0], abs=1e-10)
    assert theta.tolist() == pytest.approx([2 - dual, 1.0], abs=1e-10)


def test_constraints_that_cannot_hold_together_give_way_and_diverge_without_slack() -> None:
    """θ ≤ -1 and θ ≥ 1: halfway with slacks; without, the multipliers grow for ever."""
    sides = [(0, 1.0), (0, -1.0)]
    theta, found = settled([0.3], sides, (-1.0, -1.0), price=1.0)
    one, other = found.duals.tolist()
    assert theta.tolist() == pytest.approx([0.3 - one + other], abs=1e-10)
    assert found.slacks.tolist() == pytest.approx([one / 2, other / 2], abs=1e-10)
    assert (theta.item(), -theta.item()) == pytest.approx((one / 2 - 1, other / 2 - 1), abs=1e-10)
    _, plain = settled([0.3], sides, (-1.0, -1.0), price=1.0, plain=True)
    assert min(plain.duals.tolist()) > 50


def test_the_contract_of_a_recovery_is_kept() -> None:
    check_recovery(ResilientConstrained(classes=10, level=0.3, epochs=2, recipe=RECIPE), sample_tasks.task())


def test_the_worst_class_ends_lower_than_without_constraints() -> None:
    """At equal steps, from the same noisy weights; the mean pays for it."""
    task = sample_tasks.task()
    worst: dict[str, float] = {}
    for name, recovery in {
        "plain": FineTuning(epochs=12, recipe=RECIPE),
        "constrained": ResilientConstrained(classes=10, level=0.4, dual_rate=0.3, price=0.2, epochs=12, recipe=RECIPE),
    }.items():
        model = ex.recover(
            seeded(), task.retain, loss=task.loss, recovery=recovery,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        x, y = task.retain.tensors
        losses = nn.functional.cross_entropy(model(x), y, reduction="none").detach()
        worst[name] = max(float(losses[y == k].mean()) for k in range(10))
    assert worst["constrained"] < worst["plain"]


def test_groups_by_a_field() -> None:
    """Rows by name, constrained by a field that is no label."""
    x, y = sample_tasks.everything().tensors
    rows = ex.Examples(pixels=x, y=y, ward=(torch.arange(len(y)) % 3), ids=[f"r{k}" for k in range(len(y))])

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch["pixels"]), batch["y"])

    recovery = ResilientConstrained(classes=3, level=0.3, epochs=1, recipe=RECIPE, by="ward")
    made = ex.recover(sample_tasks.make_model(), rows, loss=loss, recovery=recovery)
    assert all(bool(torch.isfinite(p).all()) for p in made.parameters())
    with pytest.raises(TypeError, match=r"by='bed' names no field.*ward"):
        ex.recover(sample_tasks.make_model(), rows, loss=loss, recovery=replace(recovery, by="bed"))
    with pytest.raises(ValueError, match="ward must be whole numbers from 0 to 1"):
        ex.recover(sample_tasks.make_model(), rows, loss=loss, recovery=replace(recovery, classes=2))


def test_layers_that_mix_rows_are_refused() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    recovery = ResilientConstrained(classes=10, level=0.3, epochs=1, recipe=RECIPE)
    with pytest.raises(ModelRefused, match="'1' takes its statistics from a batch"):
        ex.recover(model, sample_tasks.task().retain, loss=sample_tasks.loss, recovery=recovery)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"slack_rate": 1.0}, "slack_rate=1 times price=1 must be below 1"),
        ({"level": (0.1, 0.2)}, "level has 2 entries, there are 3 classes"),
        ({"level": float("nan")}, "level must be finite"),
        ({"classes": 0}, "classes"),
        ({"price": 0.0}, "price"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ResilientConstrained(**({"classes": 3, "level": 0.1} | wrong))
