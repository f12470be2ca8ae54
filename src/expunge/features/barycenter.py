"""Rows without what an attribute says of them, moved as little as possible: Wasserstein barycenters of the rows of each value.

The rows of each value of the attribute are carried to one common law, the one to which all of them have the least way on
average. Sources: Agueh & Carlier 2011 (barycenters); Álvarez-Esteban et al. 2016, arXiv 1511.05355 (the fixed point);
Xu & Strohmer 2025, arXiv 2502.05684 (as the answer to a request for a feature).
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge import _validate
from expunge.data.arrays import Numbers, as_tensor, numbers, wholes

__all__ = ["Barycenter", "GaussianBarycenter", "QuantileBarycenter"]

Values = NDArray[np.float64]
_ROUNDS = 500
_SETTLED, _LOST = 1e-14, 1e-6  # of the fixed point, relative: where it may stop, and where it must not
_SINGULAR = 1e-12  # least eigenvalue of a covariance over its largest


class Barycenter(ABC):
    """A map of rows and their attribute to rows that the attribute says less of.

    Attributes:
        levels: the values of the attribute that it knows, ascending.
        shares: the share of the rows of each, its weight.
        promise: what holds of the moved rows, and what does not.
    """

    promise: ClassVar[str]
    levels: tuple[int, ...]
    shares: tuple[float, ...]

    @classmethod
    def _parted(cls, x: Numbers, z: Numbers, least: int, why: str) -> tuple[list[int], list[Values]]:
        """The rows of each value of the attribute."""
        rows, values = _checked(x, z)
        levels = [int(level) for level in np.unique(values)]
        if len(levels) < 2:
            raise ValueError(f"z has one value, {levels[0]}: there is nothing that the rows could tell of it")
        parts = [rows[values == level] for level in levels]
        for level, part in zip(levels, parts, strict=True):
            if len(part) < least:
                raise ValueError(f"z = {level} has {len(part)} rows, at least {least} are needed {why}")
        return levels, parts

    def __call__(self, x: Numbers, z: Numbers) -> Tensor:
        """The moved rows, shape (n, d), float64.

        Args:
            x: rows, real numbers, shape (n, d).
            z: the attribute of each, whole numbers, shape (n,).

        Raises:
            TypeError: not numbers.
            ValueError: another width than that of the fitted rows, a value of z that these have not, NaN or infinity.
        """
        rows, values = _checked(x, z)
        if rows.shape[1] != self.width:
            raise ValueError(f"x must have {self.width} columns, as the fitted rows, not {rows.shape[1]}")
        if unknown := sorted(set(values.tolist()) - set(self.levels)):
            raise ValueError(f"z = {unknown[0]} is not among the fitted values {list(self.levels)}")
        moved = np.empty_like(rows)
        for k, level in enumerate(self.levels):
            moved[values == level] = self._moved(rows[values == level], k)
        return torch.from_numpy(moved)

    @property
    @abstractmethod
    def width(self) -> int:
        """Columns of a row."""

    @abstractmethod
    def _moved(self, rows: Values, k: int) -> Values:
        """Rows of the k-th value."""


class GaussianBarycenter(Barycenter):
    """Each value's rows moved by an affine map, so that all have the same mean and the same covariance.

    With m_k, S_k and w_k the mean, covariance and share of the rows of value k, S is the fixed point of
    S = Σ w_k (S^½ S_k S^½)^½, and x goes to m + A_k (x - m_k), m = Σ w_k m_k, A_k = S_k^-½ (S_k^½ S S_k^½)^½ S_k^-½. Were the
    rows of each value Gaussian, this would be the least movement that makes them independent of the attribute.

    Make one with `fit`.

    Attributes:
        mean: m, shape (d,), float64.
        covariance: S, shape (d, d), float64.
        means: m_k, shape (levels, d).
        maps: A_k, shape (levels, d, d).
        ridge: what was added to the variances.
        residual: how far S is from its fixed point, in the Frobenius norm, relative to S. It costs movement alone: means and
            covariances agree whatever S is.
    """

    promise: ClassVar[str] = (
        "On the fitted rows every value of the attribute has the same mean and the same covariance, so that no linear rule of "
        "least squares tells them apart; with a ridge r covariances differ by r times the square of each map. Nothing is "
        "promised of other moments or of rows that were not fitted, and nothing of (epsilon, delta): the map itself is made "
        "of the rows."
    )

    def __init__(
        self, *, levels: list[int], shares: list[float], means: Values, covariances: Values, ridge: float
    ) -> None:
        self.levels, self.shares, self.means, self.ridge = tuple(levels), tuple(shares), means, ridge
        self.covariance, self.residual = _fixed_point(covariances, shares)
        self.mean = np.asarray(np.average(means, axis=0, weights=shares))
        self.maps = np.stack([_transport(one, self.covariance) for one in covariances])

    @classmethod
    def fit(cls, x: Numbers, z: Numbers, *, ridge: float = 0.0) -> Self:
        """Measure mean and covariance of each value's rows, and solve for the common ones.

        Args:
            x: rows, real numbers, shape (n, d), without the attribute itself.
            z: the attribute, whole numbers, shape (n,), of two values at least.
            ridge: added to every variance, in squares of x's units; 0 asks for covariances that can be inverted.

        Raises:
            TypeError: x or z holds no numbers.
            ValueError: one value of z alone; NaN or infinity; a covariance that cannot be inverted, as where a column is
                constant among the rows of a value: no affine map would spread it.
        """
        _validate.non_negative(ridge=ridge)
        levels, parts = cls._parted(x, z, 2, "for a covariance")
        width = parts[0].shape[1]
        covariances = np.stack([np.cov(part, rowvar=False, bias=True).reshape(width, width) for part in parts])
        covariances += ridge * np.eye(width)
        for level, covariance in zip(levels, covariances, strict=True):
            least, most = np.linalg.eigvalsh(covariance)[[0, -1]]
            if not least > _SINGULAR * most:
                raise ValueError(
                    f"the covariance of the rows with z = {level} is singular (its least eigenvalue is {least:.3g}, its largest "
                    f"{most:.3g}): leave out columns that are constant there or follow from others, or give a ridge"
                )
        total = sum(map(len, parts))
        return cls(
            levels=levels, shares=[len(part) / total for part in parts], covariances=covariances, ridge=float(ridge),
            means=np.stack([part.mean(0) for part in parts]),
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Columns of a row."""
        return len(self.mean)

    def _moved(self, rows: Values, k: int) -> Values:
        return self.mean + (rows - self.means[k]) @ self.maps[k]


class QuantileBarycenter(Barycenter):
    """Each column for itself: a row's rank among the rows of its value goes to the average of all values' quantiles there.

    In one dimension that is the barycenter exactly. Of several columns only the law of each is made equal; how they go together
    may still tell the attribute. Equal numbers of a column are parted by coins, evenly over their ranks: were they all sent to
    one number, another one for each value, that number would tell the attribute. Rows beyond the fitted ones are moved as the
    outermost ones.

    Make one with `fit`.
    """

    promise: ClassVar[str] = (
        "On the fitted rows, moved in one call, each column by itself has the same empirical law for every value of the "
        "attribute, exactly where the values have equally many rows, and else within a step of either. Nothing is promised of "
        "columns together or of rows that were not fitted, and nothing of (epsilon, delta): the map itself is made of the rows."
    )

    def __init__(self, *, levels: list[int], shares: list[float], sorted_rows: list[Values], seed: int) -> None:
        self.levels, self.shares, self._sorted = tuple(levels), tuple(shares), sorted_rows
        self._coins = np.random.default_rng(seed)

    @classmethod
    def fit(cls, x: Numbers, z: Numbers, *, seed: int = 0) -> Self:
        """Sort each value's rows, column by column.

        Args:
            x: rows, real numbers, shape (n, d), without the attribute itself.
            z: the attribute, whole numbers, shape (n,), of two values at least.
            seed: of the coins that part equal numbers; each call goes on where the last one ended.

        Raises:
            TypeError: x or z holds no numbers.
            ValueError: one value of z alone; NaN or infinity.
        """
        _validate.whole(0, seed=seed)
        levels, parts = cls._parted(x, z, 1, "")
        total = sum(map(len, parts))
        return cls(
            levels=levels, shares=[len(part) / total for part in parts], seed=seed,
            sorted_rows=[np.sort(part, axis=0) for part in parts],
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self._sorted[0].shape[1]

    def _moved(self, rows: Values, k: int) -> Values:
        moved = np.zeros_like(rows)
        for column in range(self.width):
            at = _ranks(rows[:, column], self._sorted[k][:, column], self._coins)
            for share, own in zip(self.shares, self._sorted, strict=True):
                step = np.clip(np.ceil(at * len(own)).astype(np.int64) - 1, 0, len(own) - 1)
                moved[:, column] += share * own[step, column]
        return moved


def _checked(x: Numbers, z: Numbers) -> tuple[Values, NDArray[np.int64]]:
    """Rows in float64 and their attribute."""
    rows, values = (as_tensor(name, given).detach().cpu() for name, given in (("x", x), ("z", z)))
    found, levels = numbers("x", rows, 2).numpy(), wholes("z", values, "the attribute's values, whole numbers").numpy()
    if len(found) != len(levels) or not found.size:
        raise ValueError(f"x and z must have a row each, at least one: {found.shape} and {levels.shape}")
    if not np.isfinite(found).all():
        row, column = np.argwhere(~np.isfinite(found))[0]
        raise ValueError(f"x has NaN or infinity in row {row}, column {column}")
    return found, levels


def _ranks(column: Values, fitted: Values, coins: np.random.Generator) -> Values:
    """Ranks among fitted numbers, over their number, in [0, 1]: the middle of a number's own step, where it has one alone.

    Equal numbers share the steps that they have together, in an order of coins.
    """
    low, high = (np.searchsorted(fitted, column, side) for side in ("left", "right"))
    order = np.lexsort((coins.random(len(column)), column))
    first = np.searchsorted(column[order], column, "left")
    place = np.empty(len(column), dtype=np.int64)
    place[order] = np.arange(len(column))
    alike = np.searchsorted(column[order], column, "right") - first
    tied = high - low > 1
    within = np.where(tied, (place - first + np.where(tied, coins.random(len(column)), 0.5)) / alike, 0.5)
    return (low + (high - low) * within) / len(fitted)


def _root(matrix: Values, power: float = 0.5) -> Values:
    """A power of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0.0) ** power) @ vectors.T


def _transport(start: Values, end: Values) -> Values:
    """The matrix A of least movement with A start A = end."""
    root, inverse = _root(start), _root(start, -0.5)
    found = inverse @ _root(root @ end @ root) @ inverse
    return (found + found.T) / 2


def _fixed_point(covariances: Values, shares: list[float]) -> tuple[Values, float]:
    """The barycenter's covariance, and how far it is from its equation."""
    found = np.asarray(np.average(covariances, axis=0, weights=shares))
    best, nearest = found, np.inf
    for _ in range(_ROUNDS):
        root, inverse = _root(found), _root(found, -0.5)
        mean = sum(share * _root(root @ one @ root) for share, one in zip(shares, covariances, strict=True))
        away = float(np.linalg.norm(found - mean) / np.linalg.norm(found))
        if away < nearest:
            best, nearest = found, away
        if away <= _SETTLED or away > 2 * nearest:
            break
        found = inverse @ mean @ mean @ inverse
        found = (found + found.T) / 2
    if nearest > _LOST:
        raise ValueError(f"the barycenter is not reached ({nearest:.2g} away): give a larger ridge")
    return best, nearest
