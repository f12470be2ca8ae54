"""What a certified gradient-clipping step costs beside a plain SGD step, on an 11-million-parameter residual network.

    python benchmarks/step_overhead.py --steps 3 --batch 128 --json overhead.json

Both kinds of step are timed in one run, alternating, after one warm-up step of each.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge
from expunge.accounting import GradientClipping
from expunge.training.noise import Noise
from expunge.training.weights import FlatWeights
from expunge.unlearners.gradient_clipping import noisy_steps as gradient_clipping


class Block(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outside)
        self.shortcut = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.GroupNorm(8, outside))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def resnet(width: int) -> nn.Module:
    """A ResNet-18 for 32x32 images with GroupNorm in the place of BatchNorm; width 64 has 11.2 million weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]
    inside = width
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(Block(inside, width << stage, stride))
            inside = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy."""
    x, y = batch
    return F.cross_entropy(model(x), y)


def plain_steps(model: nn.Module, batch: Any) -> Iterator[None]:
    """Endless SGD steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    while True:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        yield


def certified_steps(model: nn.Module, batch: Any, steps: int) -> Iterator[int]:
    """Steps of noisy fine-tuning with clipped gradients, as `unlearn` drives them."""
    mechanism = GradientClipping(
        init_clip=10.0, grad_clip=1.0, learning_rate=1e-3, weight_decay=1.0, steps=steps, noise_std=1e-3
    )
    weights = FlatWeights(model)
    noise = Noise(mechanism.noise_std, None)
    yield from gradient_clipping(mechanism, weights.theta, weights.gradient(loss), repeat(batch), noise)


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes, until the device is done."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    begun = time.perf_counter()
    step()
    synchronize()
    return time.perf_counter() - begun


def measure(steps: int, batch_size: int, width: int, device: torch.device) -> dict[str, Any]:
    """Alternate the two kinds of step and return the figures."""
    torch.manual_seed(0)
    batch = (torch.randn(batch_size, 3, 32, 32, device=device), torch.randint(10, (batch_size,), device=device))
    first, second = resnet(width).to(device), resnet(width).to(device)
    plain, certified = plain_steps(first, batch), certified_steps(second, batch, steps + 1)
    next(plain), next(certified)
    seconds: dict[str, list[float]] = {"plain": [], "certified": []}
    for _ in range(steps):
        seconds["plain"].append(timed(lambda: next(plain), device))
        seconds["certified"].append(timed(lambda: next(certified), device))
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "parameters": sum(p.numel() for p in first.parameters()),
        "steps": steps,
        "batch": batch_size,
        "width": width,
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": medians["certified"] / medians["plain"],
        "versions": {"expunge": expunge.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each kind")
    parser.add_argument("--batch", type=int, default=128, help="examples a batch")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage, a multiple of 8")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.batch < 1 or arguments.width < 8 or arguments.width % 8:
        parser.error("--steps and --batch must be at least 1, --width a multiple of 8")
    figures = measure(arguments.steps, arguments.batch, arguments.width, torch.device(arguments.device))
    print(
        f"{figures['parameters']:,} parameters, batch {figures['batch']}, {figures['steps']} timed steps of each kind"
    )
    for kind, seconds in figures["median_seconds"].items():
        print(f"{kind + ' step':<16} {seconds:.3f} s (median)")
    print(f"{'ratio':<16} {figures['ratio']:.3f}")
    for part in ("versions", "hardware"):
        print(", ".join(f"{name} {value}" for name, value in figures[part].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
