"""Random generators and training modes, which a run changes and restores; and what it says of the machine that it ran on."""

import contextlib
import platform
import random
from collections.abc import Callable, Generator
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from expunge._version import __version__
from expunge._workers import STATED, processes, refuse_workers
from expunge.errors import ModelRefused
from expunge.fingerprint import tensors_held
from expunge.parallel.sharding import local
from expunge.parallel.workers import ALONE, Workers

__all__ = [
    "build", "coins_mark", "coins_state", "environment", "fork_coins", "fresh_coins", "mode", "restore_coins", "seed_coins",
]  # fmt: skip


@contextlib.contextmanager
def fork_coins(device: torch.device) -> Generator[None]:
    """Bring the global generators of torch, numpy and `random` back to where they were."""
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpys)  # noqa: NPY002
            random.setstate(pythons)


def seed_coins(seed: int, device: torch.device, *, numpy_bits: Literal[32, 64] = 64) -> None:
    """Seed the global generators of torch, numpy and `random`: the coins of a user's code.

    Not `torch.manual_seed`, which takes longer than a small step where an accelerator is not initialised.

    Args:
        seed: from 0 to 2^63 - 1.
        device: whose generator is meant beside the CPU's.
        numpy_bits: of the seed that numpy gets. 32 take it a fifth of the time that 64 take, which a small step feels.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    low = seed & 0xFFFFFFFF
    np.random.seed(low if numpy_bits == 32 else [low, seed >> 32])  # noqa: NPY002
    random.seed(seed)


@contextlib.contextmanager
def fresh_coins(generator: torch.Generator, device: torch.device, workers: Workers = ALONE) -> Generator[int]:
    """Fork the global generators and seed them from `generator`, rank 0's; yields a seed for the batch order."""

    def drawn() -> list[int]:
        return torch.randint(2**62, (2,), generator=generator, device=generator.device).tolist()

    seeds = workers.share(drawn)
    with fork_coins(device):
        seed_coins(seeds[0], device)
        yield int(seeds[1])


def coins_state(device: torch.device) -> dict[str, Any]:
    """The global generators' state, for `restore_coins`: tensors and numbers."""
    _, words, *numpys = cast("tuple[Any, ...]", np.random.get_state(legacy=True))  # noqa: NPY002
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "numpy": [torch.from_numpy(words.astype(np.int64)), *numpys],
        "random": list(random.getstate()),
    }
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def coins_mark(device: torch.device) -> tuple[object, ...]:
    """Where the global generators stand, cheaply: another value once anything was drawn."""
    _, words, place, *_ = cast("tuple[Any, ...]", np.random.get_state(legacy=True))  # noqa: NPY002
    cuda = bytes(torch.cuda.get_rng_state(device).numpy()) if device.type == "cuda" else b""
    python = random.getstate()[1]
    return bytes(torch.get_rng_state().numpy()), cuda, int(words[0]), place, python[0], python[-1]


def restore_coins(state: dict[str, Any], device: torch.device) -> None:
    """Bring the global generators to `state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    words, *numpys = state["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), *numpys))  # noqa: NPY002
    random.setstate((state["random"][0], tuple(state["random"][1]), state["random"][2]))


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


def build(make_model: Callable[[], nn.Module], generator: torch.Generator, workers: Workers = ALONE) -> nn.Module:
    """A fresh model, its initialisation drawn from `generator`, the same on all workers.

    Raises:
        TypeError: `make_model` is a model, or returns something else than one.
        ModelRefused: it hands out trainable weights that it holds, instead of making new ones.
    """
    if isinstance(make_model, nn.Module) or not callable(make_model):
        raise TypeError(
            "make_model must be a function that builds a fresh model: a finished one may carry the forgotten data"
        )
    held = [tensor for tensor in tensors_held(make_model) if _in_memory(tensor)]  # before: what it makes, it may keep
    with fresh_coins(generator, torch.device("cpu"), workers):
        model = make_model()
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"make_model() must return a torch.nn.Module, not {type(model).__name__}")
    _refuse_held(held, model)
    return model


def _refuse_held(held: list[torch.Tensor], model: nn.Module) -> None:
    """Weights that were there before the call may be trained ones; frozen parts (a public backbone) may be shared."""
    places = {local(tensor).untyped_storage().data_ptr() for tensor in held}
    for name, parameter in model.named_parameters():
        if (
            parameter.requires_grad
            and _in_memory(parameter)
            and local(parameter).untyped_storage().data_ptr() in places
        ):
            raise ModelRefused(
                f"make_model does not make '{name}' but hands out weights that it holds, which may have been trained on the "
                "forgotten data: build the layers inside of make_model; of a public part that is shared, set "
                "requires_grad=False or take a copy"
            )


def _in_memory(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.numel() > 0


def environment(device: torch.device, workers: int = 1) -> dict[str, str]:
    """Versions and device, and how many workers shared the run where there were several, for the record.

    Raises:
        RunError: the process group has another number of workers than shared the run.
    """
    if processes()[1] != workers:
        refuse_workers("this run")
    shared = {STATED: str(workers)} if workers > 1 else {}
    return {
        "expunge": __version__,
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
        "device": device.type,
    } | shared
