"""The strongly convex head: certified residuals, requests, streams, the law of the release."""

import weakref
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import expunge as ex
from expunge.data import Request
from expunge.errors import RunError
from expunge.heads import blocks, newton
from expunge.heads.blocks import Blocks
from expunge.heads.convex import ConvexHead, noise_for
from expunge.heads.corrections import Corrections, digests
from expunge.heads.fairness import EqualScores
from expunge.heads.near import Near
from expunge.heads.newton import minimise
from expunge.heads.objectives import LOSSES, Measured, Objective
from expunge.heads.packed import PackedDigests
from expunge.heads.preconditioners import ClassBlocks, Kronecker
from heads.convex_rows import BETA, CLASSES, LAM, WIDTH, chunks, coins, data, fitted, head, rows_with


def apart(a: ConvexHead, b: ConvexHead) -> float:
    return float((a.solution.weights - b.solution.weights).norm())


def ridge(rows: ex.Examples, lam: float = LAM) -> Tensor:
    """The closed form of the squared loss."""
    x = torch.cat([rows.tensors[0], torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    hot = torch.nn.functional.one_hot(rows.tensors[1], CLASSES).double()
    return torch.linalg.solve(x.T @ x / len(x) + lam * torch.eye(WIDTH + 1).double(), x.T @ hot / len(x)).T


def test_the_squared_loss_equals_closed_form_retraining_to_1e_10():
    rows = data()
    made = fitted(rows, Request.rows(rows.ids[:80]), loss="squared", residual=1e-12)
    assert float((made.solution.weights - ridge(rows.take(range(80, 400)))).abs().max()) <= 1e-10


@pytest.mark.parametrize("loss", list(LOSSES))
def test_unlearning_ends_within_residual_over_lambda_of_the_minimiser(loss: str):
    """The minimiser to six further digits comes from retraining to the least residual; both lie within the bound."""
    rows = data()
    made = fitted(rows, Request.rows(rows.ids[:80]), loss=loss, residual=1e-6)
    exact = fitted(rows.take(range(80, 400)), loss=loss, residual=1e-12)
    assert made.solution.residual <= 1e-6
    assert apart(made, exact) <= (made.solution.residual + 1e-12) / LAM


@pytest.mark.parametrize(
    "request_",
    [
        Request.labels([f"row {i}" for i in range(60)], 2),
        Request.labels(["row 3", "row 1"], [0, 1]),
        Request.features([1, 3]),
        Request.features([0], [f"row {i}" for i in range(200)]),
        Request.rows(["row 0"])
        | Request.labels(["row 1"], 0)
        | Request.features([2], ["row 2"])
        | Request.features([4]),
    ],
    ids=["one label", "two labels", "columns", "cells", "joined"],
)
@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_request_equals_retraining_on_the_corrected_data(loss: str, request_: Request):
    rows = data()
    x, y = (t.clone() for t in rows.tensors)
    for name, label in request_.relabelled:
        y[rows.ids.index(name)] = label
    for columns, names in request_.zeroed:
        for i in range(len(x)) if names is None else map(rows.ids.index, names):
            x[i, list(columns)] = 0
    kept = [i for i, name in enumerate(rows.ids) if name not in request_.removed]
    made = fitted(rows, request_, loss=loss)
    again = fitted(ex.Examples(x, y, ids=rows.ids).take(kept), loss=loss)
    assert apart(made, again) <= 2 * BETA / LAM
    assert apart(made, fitted(rows, loss=loss)) > 1e-4


def test_requests_in_any_order_or_at_once_give_the_same_head():
    rows = data()
    parts = [Request.rows(rows.ids[:30]), Request.labels(rows.ids[30:60], 1), Request.features([2], rows.ids[50:90])]
    orders = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        made = fitted(rows)
        for k in order:
            made.unlearn(rows, parts[k])
        orders.append(made)
    orders.append(fitted(rows, parts[2] | parts[0] | parts[1]))
    assert max(apart(orders[0], other) for other in orders[1:]) <= 2 * BETA / LAM


def test_corrections_stay_in_force_whether_or_not_the_rows_carry_them():
    """After relabelling and deletion, rows sent uncorrected, with and without the deleted ones, give one head."""
    rows = data()
    one, other = fitted(rows, Request.labels(rows.ids[:50], 1)), fitted(rows, Request.labels(rows.ids[:50], 1))
    one.unlearn(rows, Request.rows(rows.ids[50:60]))
    y = rows.tensors[1].clone()
    y[:50] = 1
    corrected = ex.Examples(rows.tensors[0], y, ids=rows.ids)
    other.unlearn(corrected.take([*range(50), *range(60, 400)]), Request.rows(rows.ids[50:60]))
    assert torch.equal(one.solution.weights, other.solution.weights)


def test_a_stream_gives_the_bits_of_the_same_rows_in_memory(monkeypatch: pytest.MonkeyPatch):
    """Chunks of any size, from a function and from a list, read again at every pass; more rows than a block."""
    monkeypatch.setattr(blocks, "BLOCK", 128)
    rows = data(600)
    request = Request.rows(rows.ids[100:300]) | Request.features([1], rows.ids[:50])
    expected = fitted(rows, request, noise_std=1.0).solution.weights
    for size in (97, 600):
        for source in (lambda size=size: chunks(rows, size), list(chunks(rows, size))):
            made = head(noise_std=1.0)
            made.fit(source)
            made.unlearn(source, request)
            torch.testing.assert_close(made.solution.weights, expected, rtol=0, atol=1e-13)
            assert torch.equal(made.solution.weights, expected)


def test_a_stream_is_never_held(monkeypatch: pytest.MonkeyPatch):
    """While a stream of many blocks is read, three of them at most are alive; in memory all are."""
    monkeypatch.setattr(blocks, "BLOCK", 64)
    rows, alive, most = data(12 * 64), weakref.WeakSet[blocks.Block](), 0

    class Watched(blocks.Block):
        def __init__(self, *fields: Any):
            nonlocal most
            super().__init__(*fields)
            if len(self.y) == 64:
                alive.add(self)
                most = max(most, len(alive))

    monkeypatch.setattr(blocks, "Block", Watched)
    head(noise_std=1.0).fit(lambda: chunks(rows, 20))
    assert most <= 3
    head(noise_std=1.0).fit(rows)
    assert most >= 12


KEY = bytes(32)


def objective(rows: ex.Examples, loss: str = "logistic", lam: float = LAM) -> Objective:
    known = Corrections(key=KEY, learned=PackedDigests.of(digests(rows.ids, KEY)))
    blocks = Blocks(rows, known, classes=CLASSES, width=WIDTH, bias=True, groups=0)
    return Objective(blocks, LOSSES[loss], regularization=lam, outputs=CLASSES, width=WIDTH + 1)


def test_newton_converges_quadratically_with_exact_directions(monkeypatch: pytest.MonkeyPatch):
    """With H p = -g solved exactly the residual is squared at every step: |g'| ≤ c |g|², one c for all steps."""
    of = objective(data(), lam=1e-3)

    def exact(near: Near, here: Measured, *_: object, **__: object) -> tuple[Tensor, int]:
        size = here.gradient.numel()
        columns = [near.product(e.view(CLASSES, -1)).reshape(-1) for e in torch.eye(size, dtype=torch.float64)]
        return -torch.linalg.solve(torch.stack(columns), here.gradient.reshape(-1)).view_as(here.gradient), size

    monkeypatch.setattr(newton, "_direction", exact)
    monkeypatch.setattr(newton, "Near", lambda of, w, dtype: Near(of, w, torch.float64))
    found = minimise(of, torch.zeros(CLASSES, WIDTH + 1).double(), residual=1e-13, preconditioner=Kronecker(of))
    sizes = [found.start, *(s.residual for s in found.steps)]
    late = [(a, b) for a, b in pairwise(sizes) if 1e-6 < a < 1e-1]
    assert len(late) >= 2
    assert all(b <= 10 * a**2 + 1e-13 for a, b in late)
    assert len(found.steps) <= 9


def test_the_search_itself_converges_faster_than_linearly():
    rows = data()
    found = fitted(rows, residual=1e-12).solution
    sizes = [found.start, *(s.residual for s in found.steps)]
    ratios = [b / a for a, b in pairwise(sizes)]
    assert min(ratios[-2:]) < 1e-2
    assert len(sizes) < 12


def test_a_kept_inverse_makes_a_request_cheap_and_changes_nothing():
    rows = data(3000)
    products, ends = [], []
    for limit in (6144, 0):
        made = fitted(rows, Request.rows(rows.ids[:100]), factor_limit=limit, regularization=1e-4)
        products.append(sum(s.products for s in made.solution.steps))
        ends.append(made)
    assert products[0] < products[1]
    assert apart(*ends) <= 2 * BETA / 1e-4


def spread(inverse: Any, hessian: Any, w: Tensor) -> float:
    """The condition number that conjugate gradients see: of M H, largest over smallest eigenvalue."""
    columns = [inverse(hessian(e.view_as(w))).reshape(-1) for e in torch.eye(w.numel(), dtype=torch.float64)]
    values = torch.linalg.eigvals(torch.stack(columns)).real
    return float(values.max() / values.min())


@pytest.mark.parametrize("weight", [0.0, 5.0])
@pytest.mark.parametrize("loss", ["logistic", "smooth_hinge"])
def test_the_kept_blocks_are_close_to_the_inverse_of_the_hessian(loss: str, weight: float):
    """Exact but for float32 where no two classes are coupled, near it where they are; also under a penalty."""
    rows = data()
    grouped = ex.Examples(*rows.tensors, torch.arange(len(rows)) % 2, ids=rows.ids)
    known = Corrections(key=KEY, learned=PackedDigests.of(digests(rows.ids, KEY)))
    blocks = Blocks(grouped, known, classes=CLASSES, width=WIDTH, bias=True, groups=2)
    penalty = EqualScores(weight=weight, groups=2) if weight else None
    of = Objective(
        blocks, LOSSES[loss], regularization=1e-3, outputs=CLASSES, width=WIDTH + 1, fairness=penalty
    )  # fmt: skip
    w = minimise(of, torch.zeros(CLASSES, WIDTH + 1).double(), residual=1e-9, preconditioner=Kronecker(of)).weights
    hessian, here = Near(of, w, torch.float64).product, of.measure(w)
    kept = spread(ClassBlocks(of, w).at(here), hessian, w)
    assert kept < (1.01 if loss == "smooth_hinge" else 3)
    assert kept < spread(Kronecker(of).at(here), hessian, w)


class Sabotaged:
    """A preconditioner of the wrong sign, or wild."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def at(self, here: Measured) -> Any:
        return lambda r: self.factor * r


def test_a_step_of_the_wrong_sign_is_never_certified(monkeypatch: pytest.MonkeyPatch):
    """The negative control: an ascending direction raises, and so does a search that goes nowhere."""
    rows = data()
    made = fitted(rows)
    real = newton._direction
    before = made.solution
    monkeypatch.setattr(newton, "_direction", lambda *a, **k: (-real(*a, **k)[0], 1))
    with pytest.raises(RunError, match="the search stalls after 0 steps"):
        made.unlearn(rows, Request.rows(rows.ids[:40]))
    monkeypatch.setattr(newton, "_direction", lambda *a, **k: (1e-9 * real(*a, **k)[0], 1))
    with pytest.raises(RunError, match="the search stalls"):
        made.unlearn(rows, Request.rows(rows.ids[:40]))
    monkeypatch.undo()
    assert made.solution is before
    made.unlearn(rows, Request.rows(rows.ids[:40]))  # the refusals left nothing behind: these ids are still known


def test_a_useless_preconditioner_costs_products_and_never_the_residual():
    of = objective(data())
    found = minimise(of, torch.zeros(CLASSES, WIDTH + 1).double(), residual=1e-11, preconditioner=Sabotaged(7.0))
    assert of.measure(found.weights).certified <= 1e-11


def test_a_residual_below_float64_is_refused_with_what_is_reachable():
    rows = data()
    made = head(residual=1e-17)
    with pytest.raises(
        RunError, match=r"residual=1e-17 cannot be certified in float64.*residual=(\S+) can be reached"
    ) as e:
        made.fit(rows)
    reachable = float(str(e.value).rpartition("residual=")[2].split()[0])
    assert 1e-16 < reachable < 1e-12
    fitted(rows, residual=reachable)
    with pytest.raises(RunError, match="not fitted"):
        _ = made.solution


def test_a_start_far_away_still_converges():
    """From weights a thousand times too large, where Newton's full step alone may fail."""
    of = objective(data())
    for loss in LOSSES:
        of = objective(data(), loss)
        start = 1e3 * torch.randn(CLASSES, WIDTH + 1, generator=coins(), dtype=torch.float64)
        assert minimise(of, start, residual=1e-10, preconditioner=Kronecker(of)).residual <= 1e-10


def releases(made: ConvexHead, count: int, seed: int) -> np.ndarray:
    """Many releases from one head: only the noise differs."""
    g, found = coins(seed), []
    for _ in range(count):
        done = made._release(made.solution, 60, g).model
        found.append(torch.cat([done.weight, done.bias[:, None]], 1).detach().reshape(-1).numpy())
    return np.array(found)


def deviations(drawn: np.ndarray, mean: np.ndarray, std: float) -> tuple[float, float, float]:
    """p-values: of the mean, of the total variance, of the largest correlation between two coordinates."""
    n, d = drawn.shape
    z = (drawn - mean) / std
    chi = float((z.mean(0) ** 2).sum() * n)
    spread = float((z**2).sum())
    corr = np.corrcoef(z.T) - np.eye(d)
    top = float(np.abs(corr).max()) * sqrt(n)
    pairs = d * (d - 1) / 2
    return (
        float(stats.chi2.sf(chi, d)),
        2 * min(float(stats.chi2.cdf(spread, n * d)), float(stats.chi2.sf(spread, n * d))),
        float(min(1.0, pairs * 2 * stats.norm.sf(top))),
    )


def test_a_release_is_the_exact_weights_plus_gaussian_noise_of_that_scale():
    """250 releases of 183 weights: mean, variance and independence, at significance 1e-4; 3 % too little is caught."""
    made = fitted(data(width=60), Request.rows(["row 1", "row 2"]), noise_std=0.5)
    mean = made.solution.weights.reshape(-1).numpy()
    drawn = releases(made, 250, seed=3)
    assert min(deviations(drawn, mean, 0.5)) > 1e-4
    assert deviations(drawn, mean + 0.05, 0.5)[0] < 1e-4
    made._noise_std = 0.5 * 0.97
    assert deviations(releases(made, 250, seed=3), mean, 0.5)[1] < 1e-4


def test_the_certificate_proves_the_budget_that_was_asked_and_verifies():
    rows, budget = data(), ex.Budget(epsilon=0.1, delta=1e-6)
    made = head(noise_std=budget)
    made.fit(rows)
    done = made.unlearn(rows, Request.rows(rows.ids[:40]))
    certificate = ex.issue(done.record, released=done.model, asked=budget)
    ex.verify(certificate, weights=done.model)
    assert done.record.mechanism == ex.MeasuredResidual(
        residual=BETA, strong_convexity=LAM, noise_std=made.noise_std, provenance="made of coins"
    )
    assert done.record.noise.generator == "secret"
    assert BETA / LAM / made.noise_std == pytest.approx(0.02754, abs=2e-4)
    assert made.noise_std == noise_for(budget, residual=BETA, regularization=LAM)
    with pytest.raises(RunError, match="asked"):
        ex.issue(done.record, released=done.model, asked=ex.Budget(epsilon=0.09, delta=1e-6))
    with pytest.raises(RunError, match="scale"):
        ex.issue(replace(done.record, noise=replace(done.record.noise, std=1e-9)), released=done.model)


def test_a_release_is_never_the_exact_weights_and_no_two_are_alike():
    rows = data()
    made = head()
    first = made.fit(rows).model
    second = made.unlearn(rows, Request.rows(rows.ids[:1])).model
    assert not torch.equal(first.weight, second.weight)
    moved = torch.cat([second.weight, second.bias[:, None]], 1) - made.solution.weights
    assert 0.3e-3 < float(moved.detach().std()) < 3e-3


def test_the_record_says_nothing_of_the_search():
    """Two requests of different sizes leave records that differ in the digest of the weights alone."""
    rows = data()
    one, other = (fitted(rows).unlearn(rows, Request.rows(rows.ids[:k]), generator=coins()) for k in (1, 300))
    assert replace(one.record, certified="") == replace(other.record, certified="")


def test_undeclared_provenance_certifies_nothing():
    rows = data()
    made = head(provenance="", noise_std=ex.Budget(epsilon=1.0, delta=1e-6))
    made.fit(rows)
    done = made.unlearn(rows, Request.rows(rows.ids[:40]))
    assert isinstance(done.record.mechanism, ex.UndeclaredFeatures)
    certificate = ex.issue(done.record, released=done.model)
    assert certificate.claim.kind is ex.Kind.NONE
    ex.verify(certificate, weights=done.model)
    with pytest.raises(RunError, match="nothing is proven"):
        ex.issue(done.record, released=done.model, asked=ex.Budget(epsilon=1.0, delta=1e-6))


def test_a_class_without_rows_left_is_no_obstacle():
    rows = data()
    gone = [name for name, label in zip(rows.ids, rows.tensors[1].tolist(), strict=True) if label == 1]
    for loss in LOSSES:
        made = fitted(rows, Request.rows(gone), loss=loss)
        assert made.solution.residual <= BETA


def test_the_state_holds_no_id():
    rows = data()
    made = fitted(rows, Request.rows(rows.ids[:40]))
    assert "row " not in repr(made._corrections)


def test_without_bias_the_model_has_none():
    rows = data()
    made = head(bias=False)
    done = made.fit(rows)
    assert done.model.bias is None
    assert done.record.layers == (("weight", CLASSES * WIDTH),)
    ex.verify(ex.issue(done.record, released=done.model, unchecked="a test"), weights=done.model)


def test_single_precision_rows_and_bytes_are_read_exactly():
    rows = data()
    x = (rows.tensors[0] * 20 + 128).clamp(0, 255).to(torch.uint8)
    one, other = fitted(rows_with(x=x)), fitted(rows_with(x=x.double()))
    assert torch.equal(one.solution.weights, other.solution.weights)


def test_fairness_needs_groups_in_a_stream_too():
    rows = data()
    groups = torch.arange(400) % 2
    with_groups = [(x, y, ids, groups[:100]) for x, y, ids in chunks(rows, 100)]
    made = head(fairness=EqualScores(weight=1.0))
    made.fit(with_groups)
    again = head(fairness=EqualScores(weight=1.0))
    again.fit(ex.Examples(*rows.tensors, groups, ids=rows.ids))
    assert torch.equal(made.solution.weights, again.solution.weights)
    with pytest.raises(ValueError, match="needs groups"):
        made.unlearn(list(chunks(rows, 100)), Request.rows(rows.ids[:1]))
