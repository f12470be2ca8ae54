"""Work on long vectors, a piece at a time: pieces stay in the processor's cache, and no copy of a whole vector is made."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["each_piece", "norm"]

_PIECE = 1 << 15  # numbers: so few that torch itself stays on one thread
_FEW = 1 << 19  # below it threads would cost more than they save


def each_piece(tensor: Tensor, work: Callable[[slice, int], object]) -> None:
    """Call `work(piece, number)` for pieces that together are a vector of this one's length, on as many threads as torch has.

    Args:
        tensor: shape (d,). Elsewhere than on a CPU all of it is one piece.
        work: takes a slice of 0..d-1 and the piece's number; from several threads at a time, so it may touch its piece alone.
    """
    size = tensor.numel()
    if tensor.device.type != "cpu":
        work(slice(0, size), 0)
        return
    count = -(-size // _PIECE)
    threads = 1 if size < _FEW else min(torch.get_num_threads(), count)

    def share(first: int) -> None:
        for number in range(first, count, threads):
            work(slice(number * _PIECE, min((number + 1) * _PIECE, size)), number)

    if threads == 1:
        share(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(share, range(threads)):
            pass


def norm(x: Tensor) -> Tensor:
    """L2 norms of rows, shape (..., 1), summed in float64; in float32 they drift by percents over hundreds of millions of numbers."""
    if x.dim() > 1 or x.dtype == torch.float64 or x.device.type != "cpu":
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float64)
    # torch converts number by number here, which takes many times as long as to convert whole pieces.
    squares = torch.zeros(-(-x.numel() // _PIECE), dtype=torch.float64)

    def add(piece: slice, number: int) -> None:
        squares[number] = x[piece].double().square_().sum()

    each_piece(x, add)
    return squares.sum(dim=0, keepdim=True).sqrt_()
