"""What directions are made of: changes of the gradient in float32, steps that need few passes in float64, narrow rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import expunge as ex
from expunge.data import Request
from expunge.heads import near, newton, objectives
from expunge.heads.blocks import Blocks
from expunge.heads.corrections import Corrections, digests
from expunge.heads.fairness import EqualScores
from expunge.heads.near import Near
from expunge.heads.objectives import LOSSES, Objective
from expunge.heads.packed import PackedDigests
from heads.convex_rows import CLASSES, WIDTH, data, fitted

KEY = bytes(32)


def objective(rows: ex.Examples, loss: str = "logistic", fairness: EqualScores | None = None) -> Objective:
    known = Corrections(key=KEY, learned=PackedDigests.of(digests(rows.ids, KEY)))
    width = rows.tensors[0].shape[1]
    held = Blocks(rows, known, classes=CLASSES, width=width, bias=True, groups=2 if fairness else 0)
    return Objective(held, LOSSES[loss], regularization=1e-3, outputs=CLASSES, width=width + 1, fairness=fairness)


def point(seed: int, size: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return size * torch.randn(CLASSES, WIDTH + 1, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("fairness", [None, EqualScores(weight=2.0)], ids=["plain", "fair"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_a_small_change_of_the_gradient_keeps_its_digits_in_float32(loss: str, fairness: EqualScores | None):
    """To 1e-5 of the change, for steps down to 1e-6; the difference of two gradients in float32 has lost nearly all."""
    rows = data(1000)
    of = objective(ex.Examples(*rows.tensors, torch.arange(1000) % 2, ids=rows.ids), loss, fairness)
    w = point(0)
    for size in (1.0, 1e-3, 1e-6):
        p = point(1, size)
        exact = of.measure(w + p).gradient - of.measure(w).gradient
        assert float((Near(of, w).move(p) - exact).norm()) <= 1e-5 * float(exact.norm())
    single = of.measure(w + p).gradient.float() - of.measure(w).gradient.float()
    assert float((single.double() - exact).norm()) > 1e-3 * float(exact.norm())


def test_a_change_of_the_gradient_keeps_its_digits_where_scores_are_large():
    """Scores of hundreds, rounded to float32, are wrong in the fifth decimal, and so is each probability's change."""
    of, w = objective(data(1000)), point(0, 100.0)
    for size in (1e-2, 1e-6):
        p = point(1, size).float().double()
        exact = of.measure(w + p).gradient - of.measure(w).gradient
        assert float((Near(of, w).move(p) - exact).norm()) <= 1e-6 * float(exact.norm())


def test_tiles_change_no_product():
    """Of 1,300 rows a block has three tiles, the last of them short; each row counts once."""
    rows = data(1300)
    of, w, v = objective(rows), point(0), point(1)
    x = torch.cat([rows.tensors[0].double(), torch.ones(1300, 1).double()], 1)
    p = torch.softmax(x @ w.T, 1)
    u = x @ v.T
    exact = (p * (u - (p * u).sum(1, keepdim=True))).T @ x / 1300 + 1e-3 * v
    torch.testing.assert_close(Near(of, w, torch.float64).product(v), exact, rtol=1e-12, atol=1e-13)
    gradient = (p - torch.nn.functional.one_hot(rows.tensors[1], CLASSES)).T @ x / 1300 + 1e-3 * w
    torch.testing.assert_close(of.measure(w).gradient, gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_products_after_a_move_are_those_of_the_point_reached(loss: str):
    of, w, p, v = objective(data(), loss), point(0), point(1), point(2)
    there = Near(of, w + p, torch.float64).product(v)
    moved = Near(of, w, torch.float64)
    moved.move(p)
    torch.testing.assert_close(moved.product(v), there, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(Near(of, w, torch.float64).product(v), there) or loss == "squared"


def test_a_small_request_needs_two_passes_in_float64():
    """One that measures where the search starts, one that certifies where it ends, a millionth as far from the minimiser."""
    rows = data(3000)
    for count in (1, 30):
        made = fitted(rows, Request.rows(rows.ids[:count]), regularization=1e-3, residual=3e-9, noise_std=1.0)
        assert len(made.solution.steps) == 1
        assert made.solution.start > 1e4 * made.solution.residual


def test_wrong_changes_of_the_gradient_cost_steps_and_never_the_residual(monkeypatch: pytest.MonkeyPatch):
    """The negative control: where `move` says that all is well, it is the float64 pass that decides."""
    rows = data(3000)
    request = Request.rows(rows.ids[:300])
    expected = fitted(rows, request, regularization=1e-3)
    wrongs: list[Callable[[Tensor, Tensor], Tensor]] = [lambda moved, p: 0.0 * moved, lambda moved, p: 2.0 * moved]
    for wrong in wrongs:
        real = near.Near.move
        monkeypatch.setattr(near.Near, "move", lambda self, p, real=real, wrong=wrong: wrong(real(self, p), p))
        made = fitted(rows, request, regularization=1e-3)
        monkeypatch.undo()
        assert made.solution.residual <= 1e-10
        assert len(made.solution.steps) >= len(expected.solution.steps)
        torch.testing.assert_close(made.solution.weights, expected.solution.weights, rtol=0, atol=2e-7)


def test_where_several_rounds_lead_uphill_the_search_goes_on_with_one(monkeypatch: pytest.MonkeyPatch):
    """In float32: no product in float64 is needed."""
    rows, real, used = data(3000), newton._direction, set[torch.dtype]()

    def uphill(near: Near, *rest: Any, single: bool) -> tuple[Tensor, int]:
        used.add(near._dtype)
        direction, products = real(near, *rest, single=single)
        return (direction if single else -direction), products

    monkeypatch.setattr(newton, "_direction", uphill)
    assert fitted(rows, Request.rows(rows.ids[:300]), regularization=1e-3).solution.residual <= 1e-10
    assert used == {torch.float32}


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.uint8])
def test_narrow_rows_are_held_narrow_and_measured_as_if_they_were_float64(kind: torch.dtype):
    """The gradient and its bound are those of the same numbers in float64; float64 rows are not rounded."""
    x, y = data(300).tensors
    narrow = (10 * x).abs().to(kind)
    held, wide = (objective(ex.Examples(t, y, ids=data(300).ids)) for t in (narrow, narrow.double()))
    assert {block.x.dtype for block in held.blocks} == {torch.float32}
    one, other = held.measure(point(0)), wide.measure(point(0))
    assert torch.equal(one.gradient, other.gradient)
    assert one.bound == other.bound
    assert {block.x.dtype for block in objective(data(300)).blocks} == {torch.float64}


def test_the_rounding_bound_counts_the_additions_that_a_score_passes_through(monkeypatch: pytest.MonkeyPatch):
    """Of 1,000 columns in slices of 128: 128 in a slice and 7 sums of slices. Both bounds hold, that of one sum is wider."""
    rows = data(200, width=1000)
    g = torch.Generator().manual_seed(3)
    w = torch.randn(CLASSES, 1001, generator=g, dtype=torch.float64)
    assert objectives._terms(1000) == 128 + 7
    assert [objectives._terms(width) for width in (1, 128, 129, 256)] == [1, 128, 129, 129]
    sliced = objective(rows).measure(w)
    monkeypatch.setattr(objectives, "_SLICE", 10_000)
    whole = objective(rows).measure(w)
    assert float((sliced.gradient - whole.gradient).norm()) <= sliced.bound + whole.bound
    assert 5 * sliced.bound < whole.bound


def test_a_request_of_narrow_rows_ends_where_that_of_wide_ones_does():
    x, y = data().tensors
    heads: list[Any] = [
        fitted(ex.Examples(t, y, ids=data().ids), Request.rows(data().ids[:20]))
        for t in (x.float(), x.float().double())
    ]
    torch.testing.assert_close(heads[0].solution.weights, heads[1].solution.weights, rtol=0, atol=2e-8)


def test_rows_that_are_too_long_are_refused_in_single_precision_too():
    """Also where their squares overflow float32; just below the limit, rows are taken."""
    x, y = data().tensors
    for size, says in ((1e14, r"norm 1e\+14"), (1e30, r"norm 1e\+30")):
        single = torch.zeros_like(x).float()
        single[7, 0] = size
        with pytest.raises(ValueError, match=says):
            objective(ex.Examples(single, y))
    single[7, 0] = 0.999e14
    objective(ex.Examples(single, y))
