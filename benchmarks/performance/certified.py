"""Certified steps beside plain SGD, what they are made of, and the memory of `unlearn`."""

import itertools
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.accounting import GradientClipping
from expunge.randomness.gaussian import add, normals
from expunge.training.noise import Noise
from expunge.training.pieces import norm
from expunge.training.weights import FlatWeights
from expunge.unlearners.gradient_clipping import noisy_steps
from performance.rows import Row, medians

WIDE = 4096
NUMBERS = 11_000_000
FLOAT64 = (
    "the numbers and the iterate are float64 (docs/randomness.md: a float32 angle would ask for a grid coarser than the noise); drawing "
    "them is most of what a step adds, arithmetic that more cores share, where SGD on large dense layers waits for memory"
)
ITERATE = (
    "the limit is the copy that is trained, its gradient and the float64 iterate, which lies where neither model nor loss can write; "
    "compilers and libraries were loaded before"
)


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


def dense() -> nn.Module:
    """46 million weights."""
    layers: list[nn.Module] = [nn.Linear(3072, WIDE), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Linear(WIDE, WIDE), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDE, 10))


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def plain(model: nn.Module, batch: Any) -> Callable[[], object]:
    """One SGD step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()

    return step


def certified(model: nn.Module, batch: Any) -> Callable[[], object]:
    """One step of noisy fine-tuning with clipped gradients, as `unlearn` drives it."""
    mechanism = GradientClipping(
        init_clip=10.0, grad_clip=1.0, learning_rate=1e-3, weight_decay=1.0, steps=10**6, noise_std=1e-3
    )
    weights = FlatWeights(model)
    steps = noisy_steps(
        mechanism, weights.theta, weights.gradient(loss), itertools.repeat(batch), Noise(mechanism.noise_std, None)
    )
    return lambda: next(steps)


def step(work: str, make: Callable[[], nn.Module], shape: tuple[int, ...], *, before: str, target: float) -> Row:
    """A certified step over a plain one."""
    batch = (torch.randn(shape), torch.randint(10, (shape[0],)))
    taken = medians({"plain": plain(make(), batch), "certified": certified(make(), batch)}, turns=5)
    return Row(
        work=f"certified step, {work}, batch {shape[0]}", unit="s", ours=taken["certified"], peer=taken["plain"],
        peer_is="SGD", before=before, target=target, ratio=True, note=FLOAT64 if work.startswith("dense") else "",
    )  # fmt: skip


def parts() -> list[Row]:
    """Noise and norm, a number."""
    single, double = torch.randn(NUMBERS), torch.randn(NUMBERS, dtype=torch.float64)
    drawn = np.zeros(NUMBERS)
    noise, threads = Noise(0.1, None), torch.get_num_threads()
    taken = medians({
        "draw": lambda: add(bytes(32), 0, drawn, 1.0, threads=threads),
        "add": lambda: noise.add_(double),
        "torch": lambda: double.normal_(),
        "memory": lambda: double.add_(double),
        "norm": lambda: norm(single),
        "plain norm": lambda: torch.linalg.vector_norm(single, dtype=torch.float64),
        "read": lambda: single.sum(),
    })  # fmt: skip
    per = {name: seconds / NUMBERS * 1e9 for name, seconds in taken.items()}
    return [
        Row(
            work="noise, a number drawn", unit="ns", ours=per["draw"], peer=per["torch"], peer_is="torch's float64 normal_",
            limit=per["memory"], limit_is="float64 += float64", before="25.7 ns", target=3.0, note=FLOAT64,
        ),
        Row(
            work="noise, a number drawn and added", unit="ns", ours=per["add"], peer=per["torch"],
            peer_is="torch's float64 normal_", limit=per["memory"], limit_is="float64 += float64", before="25.7 ns", target=3.0,
        ),
        Row(
            work="clip norm, a weight", unit="ns", ours=per["norm"], peer=per["plain norm"], peer_is="torch, summed in float64",
            limit=per["read"], limit_is="a float32 sum", before="4.2 ns", target=0.8,
        ),
    ]  # fmt: skip


def memory() -> list[Row]:
    """The highest resident memory of `unlearn` above that of model and data, over the weights' bytes, each in a process of its own."""
    rows = []
    for kind, before, target, least in (("float32", "4.9-5.9 x", 2.5, 4.0), ("bfloat16", "11.6 x", 3.0, 6.0)):
        done = {
            what: float(subprocess.run([sys.executable, "-c", _MEMORY, what, kind], check=True, capture_output=True, text=True).stdout)
            for what in ("unlearn", "sgd")
        }  # fmt: skip
        rows.append(Row(
            work=f"memory of unlearn above the model, {kind}", unit="x weights", ours=done["unlearn"], peer=done["sgd"],
            peer_is="SGD", limit=least, limit_is="copy, gradient, float64 iterate", before=before, target=target, note=ITERATE,
        ))  # fmt: skip
    return rows


_MEMORY = "import sys; from performance.certified import peak; print(peak(*sys.argv[1:]))"


def peak(what: str, kind: str) -> float:
    """Of this process, which must do nothing else."""
    from expunge.unlearners import run

    batch = [(torch.randn(8, 3072), torch.randint(10, (8,)))]
    model = dense().to(getattr(torch, kind))
    batch = [(batch[0][0].to(getattr(torch, kind)), batch[0][1])]
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    plain(nn.Linear(3072, 10).to(getattr(torch, kind)), batch[0])()  # what torch itself takes at its first step
    norm(torch.zeros(1 << 18)), normals(bytes(32), 0, 1 << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what == "sgd":
        step = plain(model, batch[0])
        for _ in range(3):
            step()
    else:
        mechanism = GradientClipping(
            init_clip=10.0, grad_clip=1.0, learning_rate=1e-3, weight_decay=1.0, steps=3, noise_std=1e-3
        )
        run(model, batch, mechanism, loss=loss, forget=[(batch[0][0] + 1, batch[0][1])])
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / size


def rows() -> list[Row]:
    """All of them."""
    torch.manual_seed(0)
    measured = memory()
    return [
        step("dense, 46M weights", dense, (32, 3072), before="7-11 x", target=1.5),
        step("convolutional, 11M weights", lambda: resnet(64), (32, 3, 32, 32), before="1.58 x", target=1.12),
        step("convolutional, 11M weights", lambda: resnet(64), (128, 3, 32, 32), before="1.09 x", target=1.02),
        *parts(),
        *measured,
    ]
