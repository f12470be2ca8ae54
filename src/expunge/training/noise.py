"""Independent Gaussian noise that counts itself and checks what reached the weights."""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from math import inf, sqrt
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge import _validate
from expunge.certificate.record import NO_NOISE, NoiseRecord
from expunge.errors import RunError
from expunge.parallel.sharding import Part, Span
from expunge.parallel.workers import Workers
from expunge.randomness.gaussian import Move, add, each_slice
from expunge.randomness.grid import grid_of
from expunge.randomness.secret import Secret
from expunge.randomness.stream import STREAM
from expunge.training.descent import Descent
from expunge.training.pieces import slices

__all__ = ["Noise"]

_SAMPLE = 4096  # coordinates watched by the self-test
_ALARM = 8.0  # standard deviations; a sound run fails once in 1e15 tests, so a failure tells nothing of the data
_COMPARED, _FEW = 256, 5  # coordinates held against another worker's; so many equal ones are no accident (1e-14)
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
        self._parted = False

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
        spans = _spans(theta, block)
        start, stop = (0, theta.partition.total) if isinstance(theta, Part) else _ends(theta, block)
        target = theta if isinstance(theta, Part) else theta[..., start:stop]
        if after and after.gradient.shape != target.shape:
            raise RunError(
                f"a gradient of shape {tuple(after.gradient.shape)} moves no weights of shape {tuple(target.shape)}: give one "
                "number for each"
            )
        grid = grid_of(std) if released else 0.0
        in_place = theta.device.type == "cpu" and theta.dtype == torch.float64 and not grid
        together = after and in_place and theta.dim() == 1
        moves = after.moves([_of_gradient(span, target) for span in spans]) if after and together else []
        if after and not together:
            after.apply_(target)
        watched = _spread(target.numel()).to(theta.device)
        before = _at(target, watched)
        if after and moves:
            before = moves[0].keep * before + moves[0].pace * _at(after.gradient, watched)
        self._draw(theta, spans, std, grid, moves)
        received = (_at(target, watched) - before) / std
        if isinstance(theta, Part):
            self._parted = True
            _refuse_alike(received, theta.partition.workers)
        self._check(received, std)
        self.count += 1
        self._grids[start, stop] = grid
        self.dimension = sum(end - begin for begin, end in self._grids)
        return theta

    def _draw(self, theta: Tensor, spans: list[Span], std: float, grid: float, moves: list[Move]) -> None:
        """Number i of this draw for coordinate i of the whole flat theta, in slices."""
        flat = theta.detach().as_subclass(Tensor).view(-1)
        key = self._secret.derive("draw", self.count)
        threads = torch.get_num_threads() if flat.device.type == "cpu" else 1

        def visit(begin: int, end: int, numbers: NDArray[Any], span: Span) -> None:
            shift = span.here - span.there
            target, draws = flat[begin + shift : end + shift], torch.from_numpy(numbers).to(flat.device)
            for piece in slices(draws):
                if grid:
                    _onto_grid(target[piece], draws[piece], std, grid)
                else:
                    target[piece].add_(draws[piece], alpha=std)

        with torch.no_grad():
            for k, span in enumerate(spans):
                end = span.there + span.size
                if flat.device.type == "cpu" and flat.dtype == torch.float64 and not grid:
                    target = flat[span.here : span.here + span.size].numpy()
                    add(key, span.there, target, std, move=moves[k] if moves else None, threads=threads)
                else:
                    each_slice(key, span.there, end, partial(visit, span=span), threads=threads)

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
            "previous": None if self._parted else self._previous,  # other workers may go on, with other parts
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


def _spans(theta: Tensor, block: slice | None) -> list[Span]:
    """The flat coordinates that receive noise, as few slices as possible: where they lie here, and in the vector of all workers.

    Raises:
        RunError: a block of a part of weights in shards.
    """
    if isinstance(theta, Part):
        if block is not None:
            raise RunError("noise on a block is not made for parameters in shards")
        return list(theta.partition.spans)
    width = theta.shape[-1]
    start, stop = _ends(theta, block)
    if (start, stop) == (0, width):
        return [Span(0, 0, theta.numel())]
    return [Span(row + start, row + start, stop - start) for row in range(0, theta.numel(), width)]


def _ends(theta: Tensor, block: slice | None) -> tuple[int, int]:
    start, stop, _ = (block or slice(None)).indices(theta.shape[-1])
    return start, stop


def _of_gradient(span: Span, target: Tensor) -> int:
    """The noise's coordinate for the first number of the gradient, which is as long as what moves."""
    return span.there - span.here if isinstance(target, Part) else span.there


def _refuse_alike(received: Tensor, workers: Workers) -> None:
    """Raise `RunError` where two workers received one noise: drawn from generators that are seeded alike, say.

    Held against each other at the same places of their parts: correlation, and numbers that are equal to a thousandth.
    """
    each = workers.each(received.detach().as_subclass(Tensor)[:_COMPARED].cpu())
    for one, other in combinations(each, 2):
        size = min(len(one), len(other))
        one, other = one[:size], other[:size]
        equal = int(((one - other).abs() < 1e-3).sum())
        if abs(float(one @ other)) > _ALARM * sqrt(size) + _ALARM**2 or equal >= max(_FEW, size / 2):
            raise RunError(
                "noise self-test: two workers received the same noise, where each must have its own part of one"
            )


def _at(target: Tensor, positions: Tensor) -> Tensor:
    """Values in float64, also of a block of several runs, which does not lie together."""
    width = target.shape[-1]
    return target.detach().as_subclass(Tensor).reshape(-1, width)[positions // width, positions % width].double()


def _spread(size: int) -> Tensor:
    """Up to `_SAMPLE` positions spread evenly over 0..size-1."""
    count = min(_SAMPLE, size)
    return torch.arange(count) * (size - 1) // max(count - 1, 1)
