"""Work on long vectors, a piece at a time: pieces stay in the processor's cache, and no copy of a whole vector is made."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["all_finite", "norm", "slices"]

# Numbers: so few that torch stays on one thread. Several would gain little, as memory is what is waited for, and lose much
# where another process has one of the cores.
_PIECE = 1 << 15


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
    if x.dim() > 1 or x.dtype == torch.float64 or x.device.type != "cpu":
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float64)
    # torch converts number by number here, which takes many times as long as to convert whole pieces.
    total = 0.0
    for piece in slices(x):
        total += float(x[piece].double().square_().sum())
    return torch.tensor([total], dtype=torch.float64).sqrt_()
