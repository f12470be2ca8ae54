"""What a run borrows of torch and gives back: coins and modes; and what it says of where it ran."""

import contextlib
import platform
from collections.abc import Callable, Generator

import torch
from torch import Tensor, nn

from expunge._version import __version__

__all__ = ["build", "coins_state", "environment", "fresh_coins", "mode", "restore_coins"]


@contextlib.contextmanager
def fresh_coins(generator: torch.Generator, device: torch.device) -> Generator[int]:
    """Fork torch's global generators and seed them from `generator`; yields a seed for the batch order."""
    cuda = [device] if device.type == "cuda" else []
    seeds = torch.randint(2**62, (2,), generator=generator, device=generator.device).tolist()
    with torch.random.fork_rng(cuda):
        torch.manual_seed(seeds[0])  # pyright: ignore[reportUnknownMemberType]
        yield int(seeds[1])


def coins_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators' state, for `restore_coins`."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_coins(state: dict[str, Tensor], device: torch.device) -> None:
    """Bring the global generators to `state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def mode(model: nn.Module, *, training: bool) -> Generator[None]:
    """Set train or eval mode, and restore each module's own afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def build(make_model: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """A fresh model, its initialisation drawn from `generator`.

    Raises:
        TypeError: `make_model` is a model, or returns something else than one.
    """
    if isinstance(make_model, nn.Module) or not callable(make_model):
        raise TypeError(
            "make_model must be a function that builds a fresh model: a finished one may carry the forgotten data"
        )
    with fresh_coins(generator, torch.device("cpu")):
        model = make_model()
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"make_model() must return a torch.nn.Module, not {type(model).__name__}")
    return model


def environment(device: torch.device) -> dict[str, str]:
    """Versions and device, for the record."""
    return {
        "expunge": __version__,
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
        "device": device.type,
    }
