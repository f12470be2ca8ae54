"""The fairness penalty and the equalised-odds gap."""

import pytest
import torch

import expunge as ex
from expunge.data import Request
from expunge.heads.convex import ConvexHead
from expunge.heads.fairness import EqualScores, equalised_odds_gap


def biased(n: int = 600) -> ex.Examples:
    """Group 1 scores higher at the same label; some rows of unknown group."""
    g = torch.Generator().manual_seed(0)
    y, group = torch.randint(2, (n,), generator=g), torch.randint(2, (n,), generator=g)
    x = (
        torch.randn(n, 4, generator=g, dtype=torch.float64)
        + 0.8 * y[:, None]
        + torch.tensor([3.0, 0, 0, 0]) * group[:, None]
    )
    y = ((x[:, 0] + x[:, 1] + torch.randn(n, generator=g)) > 2.0).long()
    group[:20] = -1
    return ex.Examples(x, y, group)


def head(weight: float | None) -> ConvexHead:
    return ConvexHead(
        loss="logistic", regularization=1e-2, classes=2, residual=1e-9, noise_std=1e-6, provenance="made of coins",
        fairness=None if weight is None else EqualScores(weight=weight),
    )  # fmt: skip


def gap(model: torch.nn.Module, data: ex.Examples) -> float:
    x, y, group = data.tensors
    return equalised_odds_gap(model(x).argmax(1), y, group)


def test_the_penalty_narrows_the_gap_and_more_of_it_narrows_it_more():
    data = biased()
    gaps = [gap(head(weight).fit(data).model, data) for weight in (None, 0.1, 10.0)]
    assert gaps[0] > 0.25
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.12


def test_unlearning_under_the_penalty_is_retraining_under_it():
    data = biased()
    one, other = head(1.0), head(1.0)
    one.fit(data)
    one.unlearn(data, Request.rows(data.ids[:100]))
    other.fit(data.take(range(100, 600)))
    assert float((one.solution.weights - other.solution.weights).norm()) <= 2 * 1e-9 / 1e-2


def test_the_gap_is_the_largest_difference_of_rates():
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 1, 0])
    groups = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, -1, -1])
    answers = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 1])
    assert equalised_odds_gap(answers, labels, groups) == 0.5  # true positives: 1 against 1/2; false ones: equal
    assert equalised_odds_gap(labels, labels, groups) == 0.0
    assert equalised_odds_gap(groups.clamp(min=0), labels, groups) == 1.0


def test_what_the_penalty_cannot_use_is_refused():
    data = biased()
    with pytest.raises(ValueError, match="weight must be"):
        EqualScores(weight=0.0)
    with pytest.raises(ValueError, match="weight must be at most"):
        EqualScores(weight=1e7)
    with pytest.raises(ValueError, match="groups must be"):
        EqualScores(weight=1.0, groups=1)
    with pytest.raises(ValueError, match="needs groups"):
        head(1.0).fit(ex.Examples(*data.tensors[:2]))
    with pytest.raises(ValueError, match="group must hold"):
        head(1.0).fit(ex.Examples(*data.tensors[:2], data.tensors[2] + 1))
    with pytest.raises(ValueError, match="one shape"):
        equalised_odds_gap(torch.zeros(3), torch.zeros(2), torch.zeros(3))


def test_a_group_without_rows_of_a_label_takes_part_in_no_pair():
    x, y, group = biased().tensors
    group = torch.where(y == 1, torch.zeros_like(group), group)
    fitted = head(1.0)
    fitted.fit(ex.Examples(x, y, group))
    assert torch.isfinite(fitted.solution.weights).all()
