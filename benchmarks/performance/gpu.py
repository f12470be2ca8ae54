"""What has to hold on an accelerator: the same noise as on a CPU, and what steps, noise and stacks of runs cost there.

Not among the files of `python -m performance`: `make gpu-check` runs it, and refuses where there is no accelerator.
"""

import itertools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from expunge.accounting import GradientClipping
from expunge.randomness.secret import Secret
from expunge.replicates import Stack, unlearn_runs
from expunge.training.noise import Noise
from performance.certified import certified, loss, plain, resnet
from performance.rows import Row

_NUMBERS = 11_000_000


def rows(device: str = "cuda", *, small: bool = False) -> list[Row]:
    """All of them; `small` for a test of this file on any device.

    Raises:
        AssertionError: noise on the device is not that of the CPU.
        RuntimeError: there is no such device.
    """
    torch.zeros(1, device=device)
    numbers = 100_000 if small else _NUMBERS
    same_noise(device, numbers)
    return [step(device, small=small), noise(device, numbers), stack(device, small=small)]


def same_noise(device: str, numbers: int) -> None:
    """Raise unless the bits that reach float64 weights on the device are those that reach them on the CPU."""
    for released in (False, True):
        there, here = (
            Noise(0.3, Secret(bytes(range(32)), origin="given")).add_(
                torch.linspace(-1, 1, numbers, dtype=torch.float64).to(where), released=released
            )
            for where in (device, "cpu")
        )
        apart = float((there.cpu() - here).abs().max())
        # Added by a fused operation there, perhaps: one rounding less.
        assert apart <= 2.0**-51 * float(here.abs().max()), f"noise on {device} is {apart} away from that of the CPU"


def step(device: str, *, small: bool) -> Row:
    """A certified step over a plain one."""
    width, batch = (8, 4) if small else (64, 128)
    data = (torch.randn(batch, 3, 32, 32, device=device), torch.randint(10, (batch,), device=device))
    works = {"plain": plain(resnet(width).to(device), data), "certified": certified(resnet(width).to(device), data)}
    taken = {name: _seconds(work, device) for name, work in works.items()}
    return Row(
        work=f"certified step on {device}, convolutional, batch {batch}", unit="s", ours=taken["certified"], peer=taken["plain"],
        peer_is="SGD", before="never run", target=1.05, ratio=True, note="the noise is made on the CPU and copied",
    )  # fmt: skip


def noise(device: str, numbers: int) -> Row:
    """A number drawn and added, beside one that is read, added to and written."""
    weights, drawn = torch.zeros(numbers, dtype=torch.float64, device=device), Noise(0.1, None)
    ours = _seconds(lambda: drawn.add_(weights), device)
    memory = _seconds(lambda: weights.add_(weights), device)
    return Row(
        work=f"noise on {device}, a number drawn and added", unit="ns", ours=1e9 * ours / numbers, limit=1e9 * memory / numbers,
        limit_is="float64 += float64", before="never run", target=1e9 * memory / numbers / 0.6,
        note="60 % of the memory's bandwidth needs a cipher on the device, and there is none: the numbers come from the CPU",
    )  # fmt: skip


def stack(device: str, *, small: bool) -> Row:
    """Noisy steps of many small networks at once, beside the same on the CPU."""
    runs, count = (4, 2) if small else (64, 10)
    taken: dict[str, float] = {}
    for where in (device, "cpu"):
        made = Stack.fresh(_network, range(runs)).to(where)
        batch = (torch.randn(runs, 128, 784, device=where), torch.randint(10, (runs, 128), device=where))
        taken[where] = _seconds(lambda made=made, batch=batch: _unlearn(made, batch, count), where, turns=3)
    return Row(
        work=f"{runs} runs at once on {device}, {count} steps", unit="s", ours=taken[device], peer=taken["cpu"], peer_is="CPU",
        before="never run", target=1 / 20, ratio=True, note="a twentieth of the CPU's time is asked",
    )  # fmt: skip


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def _unlearn(made: Stack, batch: tuple[Tensor, Tensor], steps: int) -> None:
    mechanism = GradientClipping(
        init_clip=10.0, grad_clip=1.0, learning_rate=1e-3, weight_decay=1.0, steps=steps, noise_std=1e-3
    )
    generator = torch.Generator(made.theta.device).manual_seed(0)
    unlearn_runs(made, itertools.repeat(batch), mechanism, loss=_mean_loss, generator=generator)


def _mean_loss(model: nn.Module, batch: Any) -> Tensor:
    return loss(model, batch)


def _seconds(work: Callable[[], object], device: str, *, turns: int = 5) -> float:
    """The median of a few runs, each waited for, after one that does not count."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    taken: list[float] = []
    for _ in range(turns + 1):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - begun)
    return median(taken[1:])
