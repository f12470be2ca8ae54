"""What a policy must give: one finite score for each action of a state, whose softmax are the log-probabilities."""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from expunge.data.examples import Batch
from expunge.errors import ModelRefused, TaskError

__all__ = ["action_scores", "action_scores_of", "demonstrated", "refuse_mixing"]

_FIELDS = ("states", "actions")


def action_scores(policy: nn.Module, states: Tensor) -> Tensor:
    """Scores of actions, shape (n, actions), whose softmax is the policy: log π(a|s) = f(s)[a] - logsumexp f(s).

    Args:
        policy: the model.
        states: shape (n, ...).

    Raises:
        ModelRefused: the model gives something else, so that it has no probabilities for actions: the means of a Gaussian, a
            single number, an action, a tuple.
    """
    return action_scores_of(policy, states, (len(states),))


def action_scores_of(policy: nn.Module, states: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Likewise, of shape (*rows, actions), where a row of a batch may be a whole trajectory."""
    found: object = policy(states)
    fits = isinstance(found, Tensor) and found.is_floating_point() and found.shape[:-1] == rows and found.shape[-1] > 1
    if not fits:
        told = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        say = ", ".join(map(str, rows))
        raise ModelRefused(
            f"the policy {type(policy).__name__} gives no scores for actions: its output must be a tensor of real numbers of "
            f"shape ({say}, actions) with two actions or more, not {told}. Without them it has no log-probabilities, "
            "which cloning and energies are made of"
        )
    return cast("Tensor", found)


def demonstrated(batch: Batch) -> tuple[Tensor, Tensor]:
    """States and actions of a batch: (states, actions), or the fields of these names.

    Raises:
        TaskError: the batch is something else, or its actions are no whole numbers.
    """
    held: Any = batch
    if isinstance(batch, dict):
        held = tuple(batch[name] for name in _FIELDS if name in batch)
    if not isinstance(held, (tuple, list)) or len(cast("Any", held)) != 2:
        found = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
        raise TaskError(f"a batch of demonstrations is (states, actions), or has the fields {_FIELDS}, not {found}")
    states, actions = cast("tuple[Tensor, Tensor]", tuple(cast("Any", held)))
    if actions.is_floating_point() or actions.is_complex():
        raise TaskError(f"actions must be whole numbers from 0, not {actions.dtype}")
    return states, actions


def refuse_mixing(policy: nn.Module) -> None:
    """Raise where a state's energy would depend on the other states of its batch.

    Raises:
        ModelRefused: a layer of BatchNorm takes its statistics from the batch.
    """
    if not isinstance(policy, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        return  # one of a stack of runs, which is a function, and of which buffers are refused there
    for name, module in policy.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise ModelRefused(
                f"'{name}' takes its statistics from a batch, so that a state has no energy of its own, and sampled states would "
                "enter them: use GroupNorm or LayerNorm, or freeze the layer"
            )
