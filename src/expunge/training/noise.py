"""Independent Gaussian noise that counts itself and checks what reached the weights."""

import sys
from collections.abc import Iterator, Sequence
from math import inf, sqrt
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge import _validate
from expunge.certificate.record import NO_NOISE, NoiseRecord
from expunge.errors import RunError
from expunge.randomness.gaussian import Move, add, each_slice
from expunge.randomness.grid import grid_of
from expunge.randomness.secret import Secret
from expunge.randomness.stream import STREAM
from expunge.training.descent import Descent
from expunge.training.pieces import slices

__all__ = ["Noise"]

_SAMPLE = 4096  # coordinates watched by the self-test
_ALARM = 8.0  # standard deviations; a sound run fails once in 1e15 tests, so a failure tells nothing of the data
_MOST_STEPS = 2.0**51  # of the grid, in a weight: beyond it doubles no longer hold every multiple


class Noise:
    """`noise.add_(theta)` adds a fresh N(0, σ² I) and counts it.

    The numbers come from AES-256 in counter mode, number i for coordinate i, in float64 whatever the weights' type, made on
    the CPU (`expunge.randomness`). The key of a draw depends on the secret and the draw's count alone, so no draw can
    repeat. What is released is rounded to a public step. The self-test follows, on a sample of coordinates, what the
    weights really received: its scale (lost to rounding, multiplied by something) and its independence of the step
    before. All of this stays in memory: published, it would let a reader test guesses of the trained weights.

    Args:
        std: σ, per coordinate; a sequence gives each draw its own.
        coins: a `Secret`, which serves one `Noise`; or a generator of torch, from which one is derived (32 bytes are
            drawn, at once), and which must stay as secret; or None for a fresh one.

    Guarantee: if AES and HMAC-SHA256 are pseudo-random, the vectors added by successive calls cannot be told from
    independent N(0, σ² I), up to the rounding that docs/randomness.md bounds.
    """

    def __init__(self, std: float | Sequence[float], coins: Secret | torch.Generator | None) -> None:
        if isinstance(std, Sequence):
            _validate.schedules(noise_std=(std, _validate.LEAST, inf))
            std = tuple(std)
        else:
            _validate.positive(noise_std=std)
        least = min(std) if isinstance(std, tuple) else std
        if grid_of(least) < sys.float_info.min:
            raise ValueError(f"noise_std is {least!r}, too small for float64 to hold a step 2^-12 times as long")
        self.std = std
        self._secret = Secret.of(coins).take("noise")
        self.count = 0
        self.dimension = 0
        self._grids: dict[tuple[int, int], float] = {}  # of each block's last draw; 0 where it was not rounded
        self._previous: Tensor | None = None
        self._squares = 0.0
        self._watched = 0

    @property
    def origin(self) -> str:
        """Where the secret came from: "secret" or "given", for the record."""
        return self._secret.origin

    def add_(
        self, theta: Tensor, block: slice | None = None, *, released: bool = False, after: Descent | None = None
    ) -> Tensor:
        """Add fresh noise in place; `theta` is float32 or float64, contiguous, of shape (d,) or (runs, d).

        Args:
            theta: the weights.
            block: the coordinates that receive the noise; by default all.
            released: this is the last draw that these coordinates receive: round them to a multiple of `grid_of(σ)`.
            after: a step that these coordinates take first, in the same pass over the memory where that can be.

        Raises:
            NonFinite: the step's gradient holds NaN or infinity.
            RunError: the step's gradient has another shape than the weights that move, or what reached them is not of scale σ.
        """
        std = self._next_std()
        if theta.dtype not in (torch.float32, torch.float64):
            raise RunError(f"noise is added in float32 or float64, not {theta.dtype}: it would be lost to rounding")
        if not theta.is_contiguous():
            raise RunError("noise is added to weights that lie together in memory: call theta.contiguous()")
        start, stop, _ = (block or slice(None)).indices(theta.shape[-1])
        target = theta[..., start:stop]
        if after and after.gradient.shape != target.shape:
            raise RunError(
                f"a gradient of shape {tuple(after.gradient.shape)} moves no weights of shape {tuple(target.shape)}: give one "
                "number for each"
            )
        grid = grid_of(std) if released else 0.0
        in_place = theta.device.type == "cpu" and theta.dtype == torch.float64 and not grid
        move = after.move(start) if after and in_place and theta.dim() == 1 else None
        if after and not move:
            after.apply_(target)
        watched = _spread(target.numel()).to(theta.device)
        before = _at(target, watched)
        if after and move:
            before = move.keep * before + move.pace * _at(after.gradient, watched)
        self._draw(theta, start, stop, std, grid, move)
        self._check((_at(target, watched) - before) / std, std)
        self.count += 1
        self._grids[start, stop] = grid
        self.dimension = sum(end - begin for begin, end in self._grids)
        return theta

    def _draw(self, theta: Tensor, start: int, stop: int, std: float, grid: float, move: Move | None) -> None:
        """Number i of this draw for coordinate i of the flat theta, in slices."""
        flat = theta.detach().view(-1)
        key = self._secret.derive("draw", self.count)
        threads = torch.get_num_threads() if flat.device.type == "cpu" else 1

        def visit(begin: int, end: int, numbers: NDArray[Any]) -> None:
            target, draws = flat[begin:end], torch.from_numpy(numbers).to(flat.device)
            for piece in slices(draws):
                if grid:
                    _onto_grid(target[piece], draws[piece], std, grid)
                else:
                    target[piece].add_(draws[piece], alpha=std)

        with torch.no_grad():
            for begin, end in _spans(theta, start, stop):
                if flat.device.type == "cpu" and flat.dtype == torch.float64 and not grid:
                    add(key, begin, flat[begin:end].numpy(), std, move=move, threads=threads)
                else:
                    each_slice(key, begin, end, visit, threads=threads)

    def _next_std(self) -> float:
        if not isinstance(self.std, tuple):
            return self.std
        if self.count >= len(self.std):
            raise RunError(f"the noise schedule has {len(self.std)} draws, and all were used")
        return self.std[self.count]

    def _check(self, received: Tensor, std: float) -> None:
        size = received.numel()
        self._squares += float(received.square().sum())
        self._watched += size
        if not abs(self._squares - self._watched) <= _ALARM * sqrt(2 * self._watched) + _ALARM**2:
            raise RunError(
                f"noise self-test: what reached the weights has {self._squares / self._watched:.3g} times the variance of "
                f"noise_std={std:g}; the weights are too large for this noise, or something scaled it"
            )
        alike = self._previous is not None and self._previous.numel() == size
        if (
            self._previous is not None
            and alike
            and abs(float(received @ self._previous)) > _ALARM * sqrt(size) + _ALARM**2
        ):
            raise RunError("noise self-test: this step's noise is correlated with the step before")
        self._previous = received

    def record(self) -> NoiseRecord:
        """What the run publishes about its noise."""
        if not self.count:
            return NO_NOISE
        return NoiseRecord(
            count=self.count, std=self.std, dimension=self.dimension, self_test="passed", generator=self.origin,
            stream=STREAM, grid=min(self._grids.values()),
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Everything needed to go on: key, counter, and what the self-test compares with; secret."""
        return {
            "key": self._secret.reveal().hex(),
            "origin": self.origin,
            "count": self.count,
            "dimension": self.dimension,
            "grids": [[*block, grid] for block, grid in sorted(self._grids.items())],
            "previous": self._previous,
            "squares": self._squares,
            "watched": self._watched,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._secret = Secret(bytes.fromhex(state["key"]), origin=state["origin"])
        self.count, self.dimension = state["count"], state["dimension"]
        self._grids = {(start, stop): grid for start, stop, grid in state["grids"]}
        self._previous = state["previous"]
        self._squares, self._watched = state["squares"], state["watched"]


def _onto_grid(part: Tensor, draw: Tensor, std: float, grid: float) -> None:
    """Set part to the multiple of `grid` nearest to part + σ draw; the sum is not rounded on the way.

    The whole steps in a weight are set aside and added as whole numbers, which is exact, so that what rounding decides is
    as near to the draw for a large weight as for 0.
    """
    steps = part.double() / grid
    whole = steps.round()
    draw.mul_(std / grid).add_(steps - whole).round_()
    whole += draw
    if not bool((whole.abs() < _MOST_STEPS).all()):
        raise RunError(f"the weights are too large for noise_std={std:g}: float64 cannot hold both")
    part.copy_(whole * grid)


def _spans(theta: Tensor, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The flat coordinates of columns start, ..., stop - 1, as few slices as possible."""
    width = theta.shape[-1]
    if (start, stop) == (0, width):
        yield 0, theta.numel()
        return
    for row in range(0, theta.numel(), width):
        yield row + start, row + stop


def _at(target: Tensor, positions: Tensor) -> Tensor:
    """Values in float64, also of a block of several runs, which does not lie together."""
    width = target.shape[-1]
    return target.detach().reshape(-1, width)[positions // width, positions % width].double()


def _spread(size: int) -> Tensor:
    """Up to `_SAMPLE` positions spread evenly over 0..size-1."""
    count = min(_SAMPLE, size)
    return torch.arange(count) * (size - 1) // max(count - 1, 1)
