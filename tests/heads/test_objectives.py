"""Losses, gradients, their rounding bounds and Hessian products, against autograd, mpmath and finite differences."""

from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

import expunge as ex
from expunge.errors import NonFinite
from expunge.heads import blocks, objectives
from expunge.heads.blocks import Blocks
from expunge.heads.corrections import Corrections, digests
from expunge.heads.fairness import EqualScores
from expunge.heads.near import Near
from expunge.heads.objectives import LOSSES, Objective
from expunge.heads.packed import PackedDigests

KEY = bytes(32)
K, D = 3, 6


def rows(n: int = 50, seed: int = 0, scale: float = 1.0) -> ex.Examples:
    g = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(n, D - 1, generator=g, dtype=torch.float64)
    return ex.Examples(x, torch.randint(K, (n,), generator=g), torch.randint(-1, 2, (n,), generator=g))


def objective(data: ex.Examples, loss: str, fairness: EqualScores | None = None, lam: float = 0.1) -> Objective:
    known = Corrections(key=KEY, learned=PackedDigests.of(digests(data.ids, KEY)))
    groups = 0 if fairness is None else fairness.groups
    blocks = Blocks(data, known, classes=K, width=D - 1, bias=True, groups=groups)
    return Objective(blocks, LOSSES[loss], regularization=lam, outputs=K, width=D, fairness=fairness)


def point(seed: int = 1, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(K, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_value(data: ex.Examples, loss: str, w: Tensor, weight: float = 0.0, lam: float = 0.1) -> Tensor:
    """A second implementation, straight from the definitions."""
    x, y, group = data.tensors
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    z, hot = x @ w.T, torch.nn.functional.one_hot(y, K).double()
    if loss == "logistic":
        value = torch.nn.functional.cross_entropy(z, y)
    elif loss == "squared":
        value = ((z - hot) ** 2).sum(1).mean() / 2
    else:
        m = (2 * hot - 1) * z
        value = torch.where(m < 0, 0.5 - m, torch.where(m < 1, (1 - m) ** 2 / 2, 0.0 * m)).sum(1).mean()
    for label in range(K):
        a, b = (x[(y == label) & (group == g)] for g in (0, 1))
        value = value + weight / 2 * ((a.mean(0) - b.mean(0)) @ w.T).square().sum()
    return value + lam / 2 * w.square().sum()


@pytest.mark.parametrize("fair", [None, EqualScores(weight=2.0)], ids=["plain", "fair"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_value_gradient_and_hessian_are_those_of_autograd(loss: str, fair: EqualScores | None):
    data, w, v = rows(), point(), point(2)
    weight = 0.0 if fair is None else fair.weight

    def f(p: Tensor) -> Tensor:
        return plain_value(data, loss, p, weight)

    here = objective(data, loss, fair).measure(w)
    assert here.value == pytest.approx(float(f(w)), rel=1e-13)
    torch.testing.assert_close(here.gradient, torch.func.grad(f)(w), rtol=1e-12, atol=1e-13)
    exact = torch.autograd.functional.hvp(f, w, v)[1]
    torch.testing.assert_close(
        Near(objective(data, loss, fair), w, torch.float64).product(v), exact, rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(Near(objective(data, loss, fair), w).product(v), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fair", [None, EqualScores(weight=2.0)], ids=["plain", "fair"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_gradient_and_hessian_are_those_of_finite_differences(loss: str, fair: EqualScores | None):
    of, w, v, h = objective(rows(), loss, fair), point(), point(2), 1e-5
    ahead, behind = of.measure(w + h * v), of.measure(w - h * v)
    assert (ahead.value - behind.value) / (2 * h) == pytest.approx(float((of.measure(w).gradient * v).sum()), rel=1e-7)
    torch.testing.assert_close(
        (ahead.gradient - behind.gradient) / (2 * h), Near(of, w, torch.float64).product(v), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_loss_and_the_penalty_are_convex(loss: str):
    """Along random segments the midpoint lies below the chord by at least the strong convexity."""
    of = objective(rows(), loss, EqualScores(weight=3.0))
    for seed in range(20):
        a, b = point(seed, 3.0), point(100 + seed, 3.0)
        chord = (of.measure(a).value + of.measure(b).value) / 2
        assert of.measure((a + b) / 2).value <= chord - 0.1 / 8 * float((a - b).square().sum()) + 1e-9


def exact_gradient(data: ex.Examples, loss: str, w: Tensor, weight: float, lam: float) -> list[list[Any]]:
    """The gradient at 60 digits."""
    x = [[mpmath.mpf(v) for v in [*row, 1.0]] for row in data.tensors[0].double().tolist()]
    y, group = data.tensors[1].tolist(), data.tensors[2].tolist()
    w_ = [[mpmath.mpf(v) for v in row] for row in w.tolist()]
    total = [[mpmath.mpf(lam) * v for v in row] for row in w_]
    for xi, yi in zip(x, y, strict=True):
        z = [mpmath.fdot(row, xi) for row in w_]
        if loss == "logistic":
            e = [mpmath.exp(v - max(z)) for v in z]
            r = [v / mpmath.fsum(e) - (k == yi) for k, v in enumerate(e)]
        elif loss == "squared":
            r = [v - (k == yi) for k, v in enumerate(z)]
        else:
            s = [1 if k == yi else -1 for k in range(K)]
            r = [-s[k] * min(max(1 - s[k] * z[k], 0), 1) for k in range(K)]
        for k in range(K):
            for j in range(D):
                total[k][j] += r[k] * xi[j] / len(x)
    for label in range(K):
        means = []
        for g in (0, 1):
            cell = [x[i] for i in range(len(x)) if y[i] == label and group[i] == g]
            means.append([mpmath.fsum(c[j] for c in cell) / len(cell) for j in range(D)])
        gap = [a - b for a, b in zip(*means, strict=True)]
        for k in range(K):
            score = mpmath.fdot(w_[k], gap)
            for j in range(D):
                total[k][j] += weight * score * gap[j]
    return total


def distance(computed: Tensor, exact: list[list[Any]]) -> Any:
    pairs = [
        (mpmath.mpf(c), e)
        for row, other in zip(computed.tolist(), exact, strict=True)
        for c, e in zip(row, other, strict=True)
    ]
    return mpmath.sqrt(mpmath.fsum((c - e) ** 2 for c, e in pairs))


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_rounding_bound_holds_against_sixty_digits(loss: str, scale: float, weight: float):
    """Its error lies within the bound, the certified norm above the true one, and the bound is not a thousand times too wide."""
    data, w = rows(40, scale=scale), point(scale=3.0)
    fair = EqualScores(weight=weight) if weight else None
    here = objective(data, loss, fair).measure(w)
    with mpmath.workdps(60):
        exact = exact_gradient(data, loss, w, weight, 0.1)
        error, norm = distance(here.gradient, exact), mpmath.norm([v for row in exact for v in row], 2)
        assert 0 < error <= here.bound
        assert scale > 1 or here.bound <= 1e3 * error  # saturated slopes, at the largest scale, err by less
        assert norm <= here.certified
        assert here.certified <= norm + 2 * here.bound + 1e-5 * norm


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_the_bound_holds_where_scores_lose_their_digits(loss: str):
    """Scores that are small differences of large products: their error is nearly all of the gradient's."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, D - 1, generator=g, dtype=torch.float64)
    x[:, 0] *= 1e4
    x[:, 1] = x[:, 0] + 1e-4 * x[:, 1]
    w = point()
    w[:, 0] *= 1e4
    w[:, 1] = -w[:, 0]
    data = ex.Examples(x, *rows(40).tensors[1:])
    here = objective(data, loss, lam=1e-6).measure(w)
    with mpmath.workdps(60):
        error = distance(here.gradient, exact_gradient(data, loss, w, 0.0, 1e-6))
    assert 1e-7 < error <= here.bound


def test_the_bound_holds_where_the_rows_cancel(monkeypatch: pytest.MonkeyPatch):
    """A long climb and a descent back to an exact 0: what is left is the rounding of the sums, well above that of the terms."""
    monkeypatch.setattr(blocks, "BLOCK", 8)  # many blocks: each adds one rounding of all that was climbed
    monkeypatch.setattr(objectives, "BLOCK", 8)
    g = torch.Generator().manual_seed(0)
    x = 1 + torch.rand(2**14, D - 1, generator=g, dtype=torch.float64)
    x[2**13 :] = -x[: 2**13][torch.randperm(2**13, generator=g)]
    data = ex.Examples(x, torch.zeros(len(x), dtype=torch.long))
    known = Corrections(key=KEY, learned=PackedDigests.of(digests(data.ids, KEY)))
    held = Blocks(data, known, classes=K, width=D - 1, bias=False, groups=0)
    of = Objective(held, LOSSES["squared"], regularization=0.1, outputs=K, width=D - 1)
    here = of.measure(torch.zeros(K, D - 1, dtype=torch.float64))
    assert 2 * 2.0**-53 * float(x.norm(dim=1).mean()) < here.norm <= here.bound


def test_a_single_precision_gradient_breaks_the_bound(monkeypatch: pytest.MonkeyPatch):
    """The negative control of the tests above: slopes rounded to float32 err by far more than is allowed."""
    logistic = LOSSES["logistic"]

    class Rounded(type(logistic)):
        @staticmethod
        def slope(z: Tensor, y: Tensor) -> Tensor:
            return logistic.slope(z, y).float().double()

    monkeypatch.setattr(objectives, "LOSSES", {"logistic": Rounded()})
    monkeypatch.setitem(globals(), "LOSSES", {"logistic": Rounded()})
    data, w = rows(40), point()
    here = objective(data, "logistic").measure(w)
    with mpmath.workdps(60):
        assert distance(here.gradient, exact_gradient(data, "logistic", w, 0.0, 0.1)) > here.bound


def test_the_exponential_is_within_the_units_that_the_bound_allows():
    t = -torch.logspace(-8, 2.8, 400, dtype=torch.float64)
    with mpmath.workdps(40):
        for a, b in zip(t.tolist(), t.exp().tolist(), strict=True):
            exact = mpmath.exp(mpmath.mpf(a))
            assert abs(mpmath.mpf(b) - exact) <= 4 * mpmath.mpf(2) ** -52 * exact


def test_extreme_scores_do_not_overflow():
    here = objective(rows(scale=1e4), "logistic").measure(point(scale=1e3))
    assert torch.isfinite(here.gradient).all()
    with pytest.raises(NonFinite, match="gradient"):
        objective(rows(scale=1e12), "squared").measure(point(scale=1e300))
