"""What a network of linear layers and ReLU does on one of its linear pieces, with every rounding bounded, and what a linear program proves there.

Where the sign of every hidden unit is fixed the network is affine: its hidden units and scores are M [z, 1] for inputs z.
M is computed in float64 from the weights; E bounds |M - computed M|, number by number. The least value of an affine function
over such a piece is bounded from below by weak duality: any multipliers λ ≥ 0 give a bound, so that no solver is trusted.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["REALS", "Affine", "Box", "Piece", "names_of", "pieces", "shape_after"]

REALS = tuple(map(np.dtype, (np.float16, np.float32, np.float64)))
"""The types of weights that are exact in float64."""

Doubles = NDArray[np.float64]

_UNIT = 2.0**-53
_SAFE = 1.01  # more than the rounding of a bound itself
_TINY = 2.0**-1000  # of each product and sum: far more than underflow can take away
_MOST = 1 << 26  # entries of a matrix that is formed


def _gamma(terms: int) -> float:
    """Relative error of a sum of so many products in float64, in any order (Higham 2002, Lemma 3.1)."""
    return _SAFE * (terms + 2) * _UNIT


@dataclass(frozen=True)
class Box:
    """Inputs whose every number lies between two.

    Args:
        lowest: the least number.
        highest: the largest.
        size: how many numbers an input has.
    """

    lowest: float
    highest: float
    size: int

    @property
    def reach(self) -> Doubles:
        """The largest absolute value of every entry of [z, 1]."""
        return np.append(np.full(self.size, max(abs(self.lowest), abs(self.highest))), 1.0)


@dataclass(frozen=True)
class Affine:
    """Affine functions of an input.

    Args:
        rows: M, shape (functions, size + 1), the constant last.
        error: bounds on |M - true M|, of the same shape.
    """

    rows: Doubles
    error: Doubles

    def of(self, weight: Doubles, bias: Doubles) -> "Affine":
        """A linear layer's outputs: weight (outputs, inputs), bias (outputs,)."""
        terms = weight.shape[1] + 1
        with np.errstate(over="ignore", invalid="ignore"):
            rows = weight @ self.rows
            rows[:, -1] += bias
            sizes = np.abs(weight) @ np.abs(self.rows)
            sizes[:, -1] += np.abs(bias)
            error = _SAFE * (np.abs(weight) @ self.error + _gamma(terms) * sizes) + 4 * terms * _TINY
        return Affine(rows, error)

    def where(self, active: NDArray[np.bool_]) -> "Affine":
        """With the functions set to 0 that are not active."""
        return Affine(np.where(active[:, None], self.rows, 0.0), np.where(active[:, None], self.error, 0.0))

    def of_units(self, units: Any) -> "Affine":
        """Some of the functions."""
        return Affine(self.rows[units], self.error[units])

    def less(self, other: "Affine") -> "Affine":
        """Differences, function by function."""
        rows = self.rows - other.rows
        return Affine(rows, _SAFE * (self.error + other.error + _UNIT * np.abs(rows)) + _TINY)

    def slack(self, box: Box) -> Doubles:
        """By how much the functions computed from these rows may miss the true ones in a box."""
        return _SAFE * (self.error @ box.reach) + self.error.shape[1] * _TINY


@dataclass(frozen=True)
class Piece:
    """The inputs of a box at which every hidden unit has a given sign, by at least so much.

    Args:
        units: all hidden units, in the order of the layers.
        scores: the network's outputs there.
        signs: +1 or -1, one a unit.
        by: the least |value| of every unit.
        box: of the inputs.
    """

    units: Affine
    scores: Affine
    signs: Doubles
    by: float
    box: Box

    def inside(self, z: Doubles) -> bool:
        """Whether an input surely is one of these."""
        full = np.append(z, 1.0)
        values = self.signs * (self.units.rows @ full)
        rounding = (
            self.units.slack(self.box)
            + _gamma(len(full)) * (np.abs(self.units.rows) @ self.box.reach)
            + len(full) * _TINY
        )
        in_box = bool((z >= self.box.lowest).all() and (z <= self.box.highest).all())
        return in_box and bool((values >= self.by + rounding).all())

    def innermost(self) -> Doubles | None:
        """An input as far inside as can be, by a linear program; None where the solver finds none."""
        size = self.box.size
        tight = np.hstack([-self.signs[:, None] * self.units.rows[:, :-1], np.ones((len(self.signs), 1))])
        found = _solved(
            np.append(np.zeros(size), -1.0), tight, self.signs * self.units.rows[:, -1] - self.by,
            [(self.box.lowest, self.box.highest)] * size + [(None, None)],
        )  # fmt: skip
        return None if found is None else np.clip(found.x[:-1], self.box.lowest, self.box.highest)

    def least(self, function: Affine) -> float:
        """A lower bound on an affine function (one row) over these inputs, whatever the solver did; -inf where it found nothing.

        With constraints A z ≥ s, every λ ≥ 0 gives c·z ≥ c·z - λ·(A z - s), whose least value over the box is a sum.
        """
        box, c = self.box, function.rows[0]
        a = self.signs[:, None] * self.units.rows
        needed = self.by - self.units.slack(box) * _SAFE  # weaker than true, so that the set is larger
        found = _solved(c[:-1], -a[:, :-1], a[:, -1] - needed, [(box.lowest, box.highest)] * box.size)
        if found is None:
            return -np.inf
        duals = np.maximum(-np.asarray(found.ineqlin.marginals, dtype=np.float64), 0.0)
        if not np.isfinite(duals).all():
            return -np.inf
        left = c - duals @ a
        ends = np.minimum(left[:-1] * box.lowest, left[:-1] * box.highest).sum() + left[-1] + duals @ needed
        terms = len(duals) + box.size + 4
        sizes = (np.abs(c) + duals @ np.abs(a)) @ box.reach + duals @ np.abs(needed)
        return float(ends - 4 * _gamma(terms) * sizes - 4 * terms * _TINY - function.slack(box)[0])


def pieces(
    layers: Sequence[str],
    shape: Sequence[int],
    tensors: Mapping[str, Any],
    signs: Doubles,
    by: Sequence[float],
    box: Box,
) -> Iterator[Piece]:
    """The pieces of a network that rows of signs name.

    Args:
        layers: in words, see `mechanisms.prune.Prune`.
        shape: of an input.
        tensors: weights by name, "0.weight" and "0.bias" of the layer at position 0.
        signs: shape (pieces, hidden units), +1 or -1.
        by: see `Piece`, one a piece.
        box: of the inputs.

    Raises:
        ValueError: a layer is not known, or shapes do not fit.
    """
    steps = list(_steps(layers, shape, tensors))
    size = prod(shape)
    _refuse_large(size, size)
    for own, least in zip(signs, by, strict=True):
        now = Affine(np.eye(size, size + 1), np.zeros((size, size + 1)))
        units: list[Affine] = []
        used = 0
        for step in steps:
            if step is not None:
                now = step(now)
                continue
            count = len(now.rows)
            active = own[used : used + count]
            if len(active) != count:
                raise ValueError(f"{len(own)} signs are given for more hidden units")
            units.append(now)
            now, used = now.where(active > 0), used + count
        if used != len(own) or not units:
            raise ValueError(f"{len(own)} signs are given for {used} hidden units")
        hidden = Affine(np.vstack([u.rows for u in units]), np.vstack([u.error for u in units]))
        yield Piece(hidden, now, own, least, box)


def shape_after(layer: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape behind a layer that slides over pictures; None of the others.

    Raises:
        ValueError: the input is no picture, or too small.
    """
    kind, told = _words(layer)
    if kind not in ("conv2d", "avgpool2d"):
        return None
    if len(shape) != 3:
        raise ValueError(f"layer {layer!r} takes pictures (channels, height, width), not inputs of shape {shape}")
    sides = [
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(shape[1:], told["padding"], told["kernel"], told["stride"], strict=True)
    ]
    if min(sides) < 1:
        raise ValueError(f"layer {layer!r} is larger than its input of shape {shape}")
    return (told["out"][0] if kind == "conv2d" else shape[0], *sides)


def _steps(
    layers: Sequence[str], shape: Sequence[int], tensors: Mapping[str, Any]
) -> Iterator[Callable[[Affine], Affine] | None]:
    """Layer by layer what becomes of affine functions; None stands for ReLU."""
    now = tuple(shape)
    for position, layer in enumerate(layers):
        kind, told = _words(layer)
        if kind == "relu":
            yield None
        elif kind == "flatten":
            now = (prod(now),)
        else:
            after = shape_after(layer, now)
            if after is None and len(now) != 1:
                raise ValueError(
                    f"layer {layer!r} takes a row of numbers, not inputs of shape {now}: flatten them before"
                )
            if after is not None:
                _refuse_large(prod(after), prod(now))
            weight = None if kind == "avgpool2d" else _tensor(tensors, f"{position}.weight")
            matrix = weight if after is None else sliding(now, after, told, weight)
            if matrix is None or matrix.ndim != 2 or matrix.shape[1] != prod(now):
                raise ValueError(f"'{position}.weight' does not fit {layer!r} on inputs of shape {now}")
            _refuse_large(len(matrix), prod(shape))
            outputs = len(matrix) if after is None else after[0]
            bias = np.zeros(outputs)
            if kind != "avgpool2d" and f"{position}.bias" in tensors:
                bias = _tensor(tensors, f"{position}.bias")
            if bias.shape != (outputs,):
                raise ValueError(f"'{position}.bias' does not fit {layer!r}")
            now = (outputs,) if after is None else after
            yield _linear(matrix, np.repeat(bias, len(matrix) // outputs))


def _linear(weight: Doubles, bias: Doubles) -> Callable[[Affine], Affine]:
    return lambda before: before.of(weight, bias)


def names_of(layers: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names of the tensors that the layers have, and of those that they may have."""
    with_weights = [k for k, layer in enumerate(layers) if _words(layer)[0] in ("linear", "conv2d")]
    return {f"{k}.weight" for k in with_weights}, {f"{k}.bias" for k in with_weights}


def _refuse_large(rows: int, columns: int) -> None:
    if rows * (columns + 1) > _MOST:
        raise ValueError(f"a network with a matrix of {rows} by {columns} numbers is too large to be proven here")


def _tensor(tensors: Mapping[str, Any], name: str) -> Doubles:
    if name not in tensors:
        raise ValueError(f"'{name}' is missing")
    if np.asarray(tensors[name]).dtype not in REALS:
        raise ValueError(
            f"'{name}' holds numbers of type {np.asarray(tensors[name]).dtype}, none of {', '.join(map(str, REALS))}"
        )
    found = np.asarray(tensors[name], dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"'{name}' holds NaN or infinity")
    return found


def sliding(
    shape: tuple[int, ...], after: tuple[int, ...], told: Mapping[str, tuple[int, ...]], weight: Doubles | None
) -> Doubles:
    """A convolution, or an average over windows, as a matrix (outputs, inputs)."""
    (kh, kw), (sh, sw), (ph, pw) = told["kernel"], told["stride"], told["padding"]
    if weight is not None and weight.shape != (after[0], shape[0], kh, kw):
        raise ValueError(f"a kernel of shape {weight.shape} stands where {(after[0], shape[0], kh, kw)} belongs")
    matrix = np.zeros((*after, *shape))
    for row in range(after[1]):
        for column in range(after[2]):
            for i in range(kh):
                for j in range(kw):
                    y, x = row * sh - ph + i, column * sw - pw + j
                    if not (0 <= y < shape[1] and 0 <= x < shape[2]):
                        continue
                    if weight is not None:
                        matrix[:, row, column, :, y, x] += weight[:, :, i, j]
                    else:
                        matrix[range(after[0]), row, column, range(shape[0]), y, x] += 1 / (kh * kw)
    return matrix.reshape(prod(after), prod(shape))


_PLAIN = re.compile(r"[a-z0-9]+( [a-z]+=[0-9]{1,9}(,[0-9]{1,9})*)*")
_KNOWN = {"linear": (), "relu": (), "flatten": (), "conv2d": ("out", "kernel", "stride", "padding"), "avgpool2d": ("kernel", "stride", "padding")}  # fmt: skip


def _words(layer: str) -> tuple[str, dict[str, tuple[int, ...]]]:
    """A layer in words, e.g. "conv2d out=8 kernel=3,3 stride=1,1 padding=1,1"."""
    kind, *told = layer.split(" ")
    if not _PLAIN.fullmatch(layer):
        raise ValueError(f"layer {layer!r} cannot be read")
    try:
        found = {name: tuple(map(int, values.split(","))) for name, values in (one.split("=") for one in told)}
    except ValueError as error:
        raise ValueError(f"layer {layer!r} cannot be read") from error
    sizes = {name: 1 if name == "out" else 2 for name in found}
    if (
        tuple(found) != _KNOWN.get(kind)
        or any(len(v) != sizes[n] for n, v in found.items())
        or any(x < (n != "padding") for n, v in found.items() for x in v)
        or (kind == "avgpool2d" and found["padding"] != (0, 0))
    ):
        raise ValueError(f"layer {layer!r} is none of {', '.join(_KNOWN)}, or not told as it should be")
    return kind, found


def _solved(c: Doubles, upper: Doubles, limits: Doubles, bounds: Any) -> Any:
    """A linear program, least c·z with upper z ≤ limits, by HiGHS; None where it has no solution."""
    from scipy.optimize import linprog  # late: it takes as long to import as a certificate to verify

    found = linprog(c, A_ub=upper, b_ub=limits, bounds=bounds, method="highs")
    return found if found.status == 0 else None
