"""F in the neighbourhood of a point, in float32: Hessian products, and how the gradient changes. Nothing is certified by it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from expunge.heads.blocks import Block
from expunge.heads.objectives import Objective, spread_of

__all__ = ["Near"]

# A block, its scores at w in float64, shape (b, outputs), and the curvature of the loss, shape (outputs, b).
_Row = tuple[Block, Tensor, Tensor, Tensor | None]


class Near:
    """F about a point w, and about points w + p that are moved to.

    What it says may err as it likes: the residual of what it leads to is measured in float64. The change of the gradient
    is summed from the changes of the slopes, not subtracted from two sums, so that float32 keeps its digits of it however
    small it is. In memory scores and curvature of each row are kept between products; a stream computes them again.

    Args:
        objective: F.
        w: shape (outputs, D), float64.
        dtype: in which sums over rows are taken.
    """

    def __init__(self, objective: Objective, w: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self._objective, self._w, self._dtype = objective, w, dtype
        self._p: Tensor | None = None
        self.spread: Tensor | None = None  # see Measured, once there was a move
        self._held: list[_Row] | None = list(self._rows()) if objective.blocks.in_memory else None

    def product(self, v: Tensor) -> Tensor:
        """∇²F(w + p) v, for v of shape (outputs, D); float64."""
        cast, total, seen = v.to(self._dtype), torch.zeros(v.shape, dtype=torch.float64), 0
        for block, _, diagonal, outer in self._held if self._held is not None else self._rows():
            for place in block.tiles:
                x, d = block.cast(self._dtype, place), diagonal[:, place]
                u = cast @ x.T
                t = d * u
                if outer is not None:
                    t -= outer[:, place] * (outer[:, place] * u).sum(0)
                total += t @ x
            seen += len(block.y)
        return self._whole(total, seen, v)

    def move(self, p: Tensor) -> Tensor:
        """∇F(w + p) - ∇F(w); products are those of w + p from now on."""
        cast, total, seen, held = p.to(self._dtype), torch.zeros(p.shape, dtype=torch.float64), 0, list[_Row]()
        loss, spread = self._objective.loss, torch.zeros(2 * p.shape[:1], dtype=torch.float64)
        for block, scores, _, _ in self._held if self._held is not None else self._rows(curved=False):
            x = block.cast(self._dtype)
            there = scores + (cast @ x.T).T
            change = loss.slope(there, block.y) - loss.slope(scores, block.y)
            total += change.to(self._dtype).T @ x
            diagonal, outer = loss.curvature(there.to(self._dtype), block.y)
            spread += spread_of(diagonal, outer)
            seen += len(x)
            if self._held is not None:
                held.append((block, scores, *_across(diagonal, outer)))
        self._held, self._p, self.spread = held if self._held is not None else None, p, spread / seen
        return self._whole(total, seen, p)

    def _whole(self, total: Tensor, rows: int, v: Tensor) -> Tensor:
        """The mean over rows, with the parts of F that no row has."""
        result = total / rows + self._objective.regularization * v
        penalty = self._objective.penalty
        return result if penalty is None else result + penalty.product(v)

    def _rows(self, *, curved: bool = True) -> Iterator[_Row]:
        p = None if self._p is None or not curved else self._p.to(self._dtype)
        for block in self._objective.blocks:
            # In float64, as the gradient at w was measured: probabilities of scores of 10 or 20 err by 1e-6 in float32.
            scores = (self._w @ block.cast(torch.float64).T).T.contiguous()
            there = scores if p is None else scores + (p @ block.cast(self._dtype).T).T
            yield block, scores, *_across(*self._objective.loss.curvature(there.to(self._dtype), block.y))


def _across(diagonal: Tensor, outer: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """As shape (outputs, b): products of few outputs with many rows are quicker that way round. One copy where both are one."""
    turned = diagonal.T.contiguous()
    return turned, turned if outer is diagonal else None if outer is None else outer.T.contiguous()
