"""Work on long vectors, a piece at a time: pieces stay in the processor's cache, and no copy of a whole vector is made."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge._compile import LONG, compiled
from expunge.parallel.sharding import Part

__all__ = ["all_finite", "norm", "slices"]

# Numbers: so few that torch stays on one thread. Several would gain little, as memory is what is waited for, and lose much
# where another process has one of the cores.
_PIECE = 1 << 15
_DESK = 1 << 16  # numbers whose squares are summed at a time
_LANES = 64
_ALIKE = 1e-12  # relative: sums of squares in another order
_DOT = 1 << 13  # so few that a dot product stays on one thread, and its bits are the same on any number of them


def slices(tensor: Tensor) -> Iterator[slice]:
    """Slices that together are a vector of this one's length, shape (d,); elsewhere than on a CPU all of it is one."""
    size = tensor.numel()
    step = _PIECE if tensor.device.type == "cpu" else max(size, 1)
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def all_finite(x: Tensor) -> bool:
    """Whether a vector of shape (d,) holds no NaN and no infinity."""
    return all(bool(torch.isfinite(x[piece]).all()) for piece in slices(x))


def norm(x: Tensor) -> Tensor:
    """L2 norms of rows, shape (..., 1), summed in float64; in float32 they drift by percents over hundreds of millions of numbers."""
    if isinstance(x, Part):
        return _norm_of_whole(x)
    if x.dim() > 1 or x.device.type != "cpu":
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float64)
    # torch would convert number by number, which takes many times as long as to convert whole pieces.
    squares = (_compiled() if x.numel() >= LONG else None) or _squares
    total = 0.0
    for part in x.detach().split(_DESK):
        numbers = part if part.dtype in (torch.float32, torch.float64) else part.float()
        total += float(squares(numbers.numpy()))
    return torch.tensor([total], dtype=torch.float64).sqrt_()


def _norm_of_whole(part: Part) -> Tensor:
    """Of the vector that all workers hold together: their squares are added in float64."""
    workers = part.partition.workers
    mine = norm(part.detach().as_subclass(Tensor)).square()
    return workers.add_(mine).sqrt_()


def _squares(x: Any) -> float:
    """The same by numpy, with other roundings."""
    wide = x.astype(np.float64)
    return sum(float(np.dot(part, part)) for part in (wide[i : i + _DOT] for i in range(0, len(wide), _DOT)))


def _loop(x: Any) -> Any:
    """The sum of the squares of x, shape (n,): 64 running sums keep vector units busy; n/64 roundings in each."""
    sums = np.zeros(_LANES)
    whole = len(x) - len(x) % _LANES
    for start in range(0, whole, _LANES):
        row = x[start : start + _LANES]
        for i in range(_LANES):
            sums[i] += np.float64(row[i]) * np.float64(row[i])
    for i in range(len(x) - whole):
        sums[i] += np.float64(x[whole + i]) * np.float64(x[whole + i])
    total = 0.0
    for i in range(_LANES):
        total += sums[i]
    return total


@cache
def _compiled() -> Callable[[Any], float] | None:
    """`_loop` as machine code; None where numba is not there, or its code finds other sums than numpy here."""
    try:
        found: Callable[[Any], float] = compiled([f"float64({real}[::1])" for real in ("float32", "float64")], _loop)
    except ImportError:
        return None
    samples = (np.linspace(-1, 3, 10_007).astype(kind) for kind in (np.float32, np.float64))
    return found if all(abs(found(x) / _squares(x) - 1) < _ALIKE for x in samples) else None
