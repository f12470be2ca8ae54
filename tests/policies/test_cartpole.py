"""CartPole moves as its equations say, and demonstrations name whose every step is."""

from math import pi

import pytest
import torch
from torch import nn

import expunge as ex
from expunge.errors import ModelRefused
from expunge.policies import Demonstrator, by_demonstrator, demonstrations, returns
from expunge.policies.cartpole import advance, ended
from policies import small


def test_a_step_solves_the_equations_of_cart_and_pole() -> None:
    """Both equations of motion hold for the accelerations of a step, to 1e-12: forces on the cart, torques on the pole."""
    coins = torch.Generator().manual_seed(0)
    states = torch.randn(50, 4, generator=coins, dtype=torch.float64) * torch.tensor([1, 1, 0.3, 2.0])
    actions = torch.randint(2, (50,), generator=coins)
    moved = advance(states, actions)
    _, speed, angle, spin = states.T
    rates = (moved - states) / 0.02
    assert torch.allclose(rates[:, 0], speed, atol=1e-12)
    assert torch.allclose(rates[:, 2], spin, atol=1e-12)
    force = torch.where(actions == 1, 10.0, -10.0).double()
    cart = 1.1 * rates[:, 1] + 0.1 * 0.5 * (rates[:, 3] * angle.cos() - spin**2 * angle.sin())
    pole = (4 / 3) * 0.5 * rates[:, 3] + rates[:, 1] * angle.cos() - 9.8 * angle.sin()
    assert torch.allclose(cart, force, atol=1e-11)
    assert torch.allclose(pole, torch.zeros_like(pole), atol=1e-11)


def test_a_known_step() -> None:
    """By hand, from rest and upright: x'' = F/M + m l α.../M with α = -F/(M l (4/3 - m/M))."""
    spin = -10 / 1.1 / (0.5 * (4 / 3 - 0.1 / 1.1)) * 0.02
    speed = (10 / 1.1 - 0.1 * 0.5 * (spin / 0.02) / 1.1) * 0.02
    found = advance(torch.zeros(1, 4, dtype=torch.float64), torch.tensor([1]))
    assert found[0].tolist() == pytest.approx([0, speed, 0, spin], abs=1e-14)


def test_an_episode_ends_off_the_track_or_beyond_twelve_degrees() -> None:
    edge = 12 * pi / 180
    states = torch.tensor(
        [[2.39, 9, 0, 9], [2.41, 0, 0, 0], [-2.41, 0, 0, 0], [0, 0, edge - 1e-6, 0], [0, 0, -edge - 1e-6, 0]]
    )
    assert ended(states).tolist() == [False, True, True, False, True]


def test_every_step_has_its_demonstrator_and_a_name() -> None:
    rows = demonstrations(
        {"ann": (Demonstrator(), 2), "bob": (Demonstrator(weights=(0, 0, -1, 0)), 3)}, seed=0, longest=50
    )
    assert rows.groups is not None
    assert rows.ids[0] == "ann/0/0"
    assert rows.ids[50] == "ann/1/0"
    assert [name.split("/")[0] for name in rows.ids] == rows.groups
    assert rows.groups.count("ann") == 100
    assert 3 * 5 < rows.groups.count("bob") < 3 * 20  # pushes the way it leans: falls at once
    again = demonstrations({"ann": (Demonstrator(), 2)}, seed=0, longest=50)
    assert torch.equal(again.tensors[0], rows.take(range(100)).tensors[0])
    states, actions = again.tensors
    following = advance(states[:-1].double(), actions[:-1]).float()
    inside = torch.arange(99) != 49
    assert torch.allclose(following[inside], states[1:][inside], atol=1e-5)


def test_a_demonstrator_is_worth_what_it_balances() -> None:
    class Rule(nn.Module):
        def __init__(self, goal: float) -> None:
            super().__init__()
            self.goal = goal

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            right = (states - torch.tensor([self.goal, 0, 0, 0])) @ torch.tensor(Demonstrator().weights)
            return torch.stack([-right, right], dim=1)

    assert returns(Rule(0.0), episodes=50).tolist() == [500.0] * 50
    assert 150 < returns(Rule(3.0), episodes=50).mean().item() < 250
    assert torch.equal(returns(Rule(3.0), seed=3), returns(Rule(3.0), seed=3))


def test_what_makes_no_demonstrations_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        demonstrations({}, seed=0)
    with pytest.raises(ValueError, match="slips"):
        Demonstrator(slips=1.5)
    with pytest.raises(ValueError, match="number"):
        demonstrations({"ann": (Demonstrator(), 0)}, seed=0)
    with pytest.raises(ModelRefused, match="Linear gives no scores"):
        returns(nn.Linear(4, 1))


def test_a_demonstrator_as_one_row_holds_all_its_steps() -> None:
    rows = by_demonstrator(small.shown())
    states, actions = rows.tensors
    assert rows.ids == rows.groups == list(small.WHO)
    for k, name in enumerate(rows.ids):
        own = small.shown().take([group == name for group in small.shown().groups or ()])
        n = len(own)
        assert torch.equal(states[k, :n], own.tensors[0])
        assert torch.equal(actions[k, :n], own.tensors[1])
        assert actions[k, n:].tolist() == [-1] * (actions.shape[1] - n)
    with pytest.raises(ValueError, match="groups"):
        by_demonstrator(ex.Examples(torch.zeros(3, 4), torch.zeros(3).long()))
