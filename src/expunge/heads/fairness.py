"""Scores that do not depend on the group: a convex penalty, and the equalised-odds gap.

The penalty is the group term of Berk et al. 2017 (arXiv 1706.02409), which Oesterling et al. 2024 (arXiv 2307.14754) unlearn
under, summed over the labels after squaring, so that labels cannot offset one another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from expunge import _validate
from expunge.heads.blocks import Block

__all__ = ["EqualScores", "Moments", "Penalty", "equalised_odds_gap", "gamma"]

_LARGEST = 1e6


@dataclass(frozen=True, kw_only=True)
class EqualScores:
    """(weight/2) Σ over labels y and pairs of groups a < b of |W (m(a,y) - m(b,y))|², m(g,y) the mean row of a cell.

    W m(g,y) is the mean score of the rows of group g with true label y: equal means within each label are what equalised
    odds asks of a score. Each term is |W c|² with c a function of the data alone: the square of a norm of a linear map of
    W, hence convex. A sum of convex functions and (λ/2)|W|² is λ-strongly convex, so the certificate's λ stands. A cell
    without rows takes part in no pair.

    Args:
        weight: from above 0 to 1e6.
        groups: number of groups, at least 2; groups are numbered from 0, and -1 means unknown: outside the penalty.

    The group is read beside the features. A request that zeroes a feature does not reach it; send -1 in its place.
    """

    weight: float
    groups: int = 2

    def __post_init__(self) -> None:
        _validate.positive(weight=self.weight)
        _validate.whole(2, groups=self.groups)
        if self.weight > _LARGEST:
            raise ValueError(f"weight must be at most {_LARGEST:g}, not {self.weight!r}")


class Moments:
    """Sums of the rows of each (label, group): all that the penalty needs of the data.

    Args:
        classes: number of labels.
        groups: number of groups.
        width: D, columns of a block.
    """

    def __init__(self, classes: int, groups: int, width: int) -> None:
        self._classes, self._groups = classes, groups
        self._sums = torch.zeros(classes * groups, width, dtype=torch.float64)
        self._norms = torch.zeros(classes * groups, dtype=torch.float64)
        self._counts = torch.zeros(classes * groups, dtype=torch.float64)

    def add(self, block: Block) -> None:
        """Add a block's rows."""
        assert block.group is not None
        known = block.group >= 0
        cell = torch.where(known, block.y * self._groups + block.group, len(self._counts))
        member = torch.nn.functional.one_hot(cell, len(self._counts) + 1)[:, :-1].double()
        self._sums += member.T @ block.cast(torch.float64)
        self._norms += member.T @ block.norms
        self._counts += member.sum(0)

    def penalty(self, weight: float, unit: float) -> "Penalty":
        """The penalty of these rows.

        Args:
            weight: of `EqualScores`.
            unit: γ, a bound on the relative rounding error of a sum of products over all rows, and of the mean.
        """
        gaps: list[Tensor] = []
        errors: list[float] = []
        for label in range(self._classes):
            cells = [label * self._groups + g for g in range(self._groups)]
            for a, b in combinations([c for c in cells if self._counts[c] > 0], 2):
                gap = self._sums[a] / self._counts[a] - self._sums[b] / self._counts[b]
                reach = float(self._norms[a] / self._counts[a] + self._norms[b] / self._counts[b])
                gaps.append(gap)
                errors.append(unit * reach + 2.0**-53 * float(gap.norm()))
        width = self._sums.shape[1]
        stacked = torch.stack(gaps) if gaps else torch.zeros(0, width, dtype=torch.float64)
        return Penalty(weight, stacked, torch.tensor(errors, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Penalty:
    """(weight/2) |W Gᵀ|², G the gaps between mean rows.

    Args:
        weight: of `EqualScores`.
        gaps: G, shape (pairs, D).
        errors: bounds on the L2 rounding errors of its rows, shape (pairs,).
    """

    weight: float
    gaps: Tensor
    errors: Tensor

    def value(self, w: Tensor) -> float:
        """At `w`, shape (outputs, D)."""
        return 0.5 * self.weight * float((w @ self.gaps.T).square().sum())

    def product(self, v: Tensor) -> Tensor:
        """Gradient at `v`, and Hessian times `v`: the penalty is a quadratic form."""
        return self.weight * ((v @ self.gaps.T) @ self.gaps)

    def error(self, w: Tensor) -> float:
        """An upper bound on the Frobenius norm of the rounding error of `product(w)`, errors of the gaps included."""
        pairs, width = self.gaps.shape
        length, size = self.gaps.norm(dim=1), float(w.norm())
        scores = (w @ self.gaps.T).norm(dim=0)
        of_scores = gamma(width) * size * length + size * self.errors
        moved = (length + self.errors) * of_scores + self.errors * scores
        return self.weight * float((moved + gamma(pairs + 2) * (scores + of_scores) * length).sum())


def gamma(operations: int) -> float:
    """γ(n) = n u/(1 - n u), u = 2⁻⁵³: the relative error of a sum of n products in any order (Higham 2002, section 3.1)."""
    share = operations * 2.0**-53
    assert share < 0.5
    return share / (1 - share)


def equalised_odds_gap(predicted: Tensor, labels: Tensor, groups: Tensor) -> float:
    """The largest difference between groups in the rate of any prediction within any true label; 0 is equalised odds.

    For two classes: the larger of the gaps in true and false positive rates. A measurement on the rows given, no bound.

    Args:
        predicted: shape (n,), whole numbers.
        labels: shape (n,), the truth.
        groups: shape (n,); rows with -1 are left out.
    """
    if not predicted.shape == labels.shape == groups.shape or predicted.dim() != 1 or not len(predicted):
        shapes = [tuple(t.shape) for t in (predicted, labels, groups)]
        raise ValueError(f"predicted, labels and groups must have one shape (n,), not {shapes}")
    largest = 0.0
    for label in labels.unique():
        for answer in predicted.unique():
            rates = list(_rates(predicted == answer, labels == label, groups))
            largest = max(largest, max(rates, default=0.0) - min(rates, default=0.0))
    return largest


def _rates(answered: Tensor, of_label: Tensor, groups: Tensor) -> Iterator[float]:
    for group in groups[groups >= 0].unique():
        members = of_label & (groups == group)
        if bool(members.any()):
            yield float(answered[members].double().mean())
