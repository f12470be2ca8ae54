"""CartPole written out, and scripted demonstrators whose trajectories become examples: one group a demonstrator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.data import Examples
from expunge.policies.scores import action_scores
from expunge.training.randomness import mode

__all__ = ["ACTIONS", "STATE", "Demonstrator", "advance", "demonstrations", "ended", "returns"]

STATE = 4
"""Numbers of a state: position (m), velocity (m/s), the pole's angle (rad) and angular velocity (rad/s)."""
ACTIONS = 2
"""0 pushes left, 1 pushes right."""

_GRAVITY, _CART, _POLE, _HALF_LENGTH = 9.8, 1.0, 0.1, 0.5  # m/s^2, kg, kg, m
_FORCE, _SECONDS = 10.0, 0.02  # N, of a step
_TRACK, _TILT = 2.4, 12 * pi / 180  # m, rad: beyond either an episode ends
_START = 0.05  # each number of a first state lies within so much of 0


def advance(states: Tensor, actions: Tensor) -> Tensor:
    """One Euler step of 0.02 s of the cart and pole of Barto, Sutton & Anderson 1983, without friction.

    Args:
        states: shape (n, 4), see `STATE`.
        actions: shape (n,), 0 or 1.

    Returns:
        The next states, shape (n, 4).
    """
    _, speed, angle, spin = states.unbind(1)
    force = torch.where(actions == 1, _FORCE, -_FORCE).to(states.dtype)
    sine, cosine, total = angle.sin(), angle.cos(), _CART + _POLE
    pushed = (force + _POLE * _HALF_LENGTH * spin**2 * sine) / total
    turning = (_GRAVITY * sine - cosine * pushed) / (_HALF_LENGTH * (4 / 3 - _POLE * cosine**2 / total))
    moving = pushed - _POLE * _HALF_LENGTH * turning * cosine / total
    rates = torch.stack([speed, moving, spin, turning], dim=1)
    return states + _SECONDS * rates


def ended(states: Tensor) -> Tensor:
    """Whether the cart left its track (2.4 m) or the pole leans by more than 12 degrees, shape (n,) of bools."""
    return (states[:, 0].abs() > _TRACK) | (states[:, 2].abs() > _TILT)


@dataclass(frozen=True, kw_only=True)
class Demonstrator:
    """Pushes right where weights · (state - goal) > 0; now and then, by a coin, somewhere.

    Args:
        weights: of position, velocity, angle and angular velocity.
        goal: the position, in metres, that the demonstrator steers to.
        slips: the chance of a step that ignores the rule and takes an action at random.
    """

    weights: tuple[float, float, float, float] = (0.05, 0.15, 1.0, 0.4)
    goal: float = 0.0
    slips: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.slips <= 1:
            raise ValueError(f"slips must lie in [0, 1], not {self.slips!r}")

    def act(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """Actions, shape (n,), for states of shape (n, 4)."""
        weights = torch.tensor(self.weights, dtype=states.dtype)
        goal = torch.tensor([self.goal, 0.0, 0.0, 0.0], dtype=states.dtype)
        meant = ((states - goal) @ weights > 0).long()
        slip = torch.rand(len(states), generator=generator) < self.slips
        return torch.where(slip, torch.randint(ACTIONS, (len(states),), generator=generator), meant)


def demonstrations(demonstrators: Mapping[str, tuple[Demonstrator, int]], *, seed: int, longest: int = 500) -> Examples:
    """Every step of every trajectory as an example: the state, shape (4,), float32, and the action taken there.

    Ids are "name/trajectory/step", groups the names, so that `Request.groups([name])` asks for a demonstrator to be forgotten.

    Args:
        demonstrators: name -> (demonstrator, number of trajectories).
        seed: of first states and slips.
        longest: steps after which a trajectory is cut.

    Raises:
        ValueError: no demonstrator, or a number below 1.
    """
    if not demonstrators:
        raise ValueError("demonstrators must hold at least one: there would be no examples")
    coins = torch.Generator().manual_seed(seed)
    parts: list[Examples] = []
    for name, (demonstrator, number) in demonstrators.items():
        states, actions, alive = _rolled(lambda s, who=demonstrator: who.act(s, coins), number, longest, coins)
        which, when = alive.T.nonzero(as_tuple=True)  # trajectory by trajectory
        parts.append(
            Examples(
                states[when, which].float(), actions[when, which],
                ids=[f"{name}/{k}/{t}" for k, t in zip(which.tolist(), when.tolist(), strict=True)],
                groups=[name] * len(which),
            )
        )  # fmt: skip
    return Examples.join(parts)


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def returns(policy: nn.Module, *, episodes: int = 100, seed: int = 0, longest: int = 500) -> Tensor:
    """The steps that a policy balances the pole for, by its most likely actions: shape (episodes,), float64, at most `longest`.

    Args:
        policy: from states of shape (n, 4), float32, to scores of shape (n, 2).
        episodes: how many.
        seed: of the first states.
        longest: steps after which an episode is cut.

    Raises:
        ModelRefused: the policy gives no scores for actions, see `action_scores`.
    """

    def best(states: Tensor) -> Tensor:
        return action_scores(policy, states.float()).argmax(1)

    with mode(policy, training=False):
        _, _, alive = _rolled(best, episodes, longest, torch.Generator().manual_seed(seed))
    return alive.sum(0).double()


def _rolled(
    act: Callable[[Tensor], Tensor], number: int, longest: int, coins: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """States (steps, number, 4), float64, actions and whether the episode still went on, both (steps, number)."""
    _validate.whole(number=number, longest=longest)
    states = _START * (2 * torch.rand(number, STATE, generator=coins, dtype=torch.float64) - 1)
    alive = torch.ones(number, dtype=torch.bool)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    while len(seen) < longest and bool(alive.any()):
        actions = act(states)
        seen.append((states, actions, alive))
        # An episode that ended stays where it is: its numbers would else grow without bound.
        states = torch.where(alive[:, None], advance(states, actions), states)
        alive = alive & ~ended(states)
    told, taken, went = zip(*seen, strict=True)
    return torch.stack(told), torch.stack(taken), torch.stack(went)
