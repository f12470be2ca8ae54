"""Requests of the convex head on MNIST and CIFAR-100 features, beside one pass over the rows in float64, and a cold fit."""

import copy
import time
from typing import Any

from paper.data import DataError, features, mnist

import expunge as ex
from expunge.data import Request
from expunge.heads import ConvexHead
from expunge.heads.newton import Solution
from performance.rows import Row

SETTINGS: dict[str, Any] = {"loss": "logistic", "regularization": 1e-4, "residual": 1e-9, "noise_std": 1.0}
_SETS = {"MNIST": (mnist, 10), "CIFAR-100 features": (lambda: features("cifar100"), 100)}
_SHARES = {
    "MNIST": {"1 row": ("4.8 s", 0.5), "1 %": ("11.3 s", 1.3), "5 %": ("12.4 s", 1.3)},
    "CIFAR-100 features": {"1 row": ("17.8 s", 3.4), "5 %": ("34 s", 4)},
}


def rows() -> list[Row]:
    """Rows of the sets that are there."""
    found: list[Row] = []
    for name in _SETS:
        try:
            found += _on(name)
        except DataError as error:
            print(f"{name} left out: {error}")
    return found


def _on(name: str) -> list[Row]:
    load, classes = _SETS[name]
    held = load()
    x = ((held.train_x.float() / 255 - held.mean) / held.std).flatten(1)
    train = ex.Examples(x / 8 if name == "MNIST" else x, held.train_y.long())
    head = ConvexHead(**SETTINGS, classes=classes, provenance="public features")
    cold = _timed(lambda: head.fit(train))
    objective = head._objective(train, head._corrections, head._width)
    w = head.solution.weights
    objective.measure(w)  # norms of the rows are kept from now on
    least = min(_timed(lambda: objective.measure(w.clone())) for _ in range(3))
    found = [_request(name, what, head, train, least) for what in _SHARES[name]]
    if name == "MNIST":
        plain = ConvexHead(**SETTINGS, classes=classes, provenance="public features", factor_limit=0)
        before = _timed(lambda: plain.fit(train))
        found.append(
            Row(work=f"convex head: cold fit, {name}", unit="s", ours=cold, peer=before, peer_is="by a Gram matrix alone, as before",
                limit=least, limit_is="one float64 pass", before="1", target=0.5, ratio=True,
                note=f"{_told(head.solution)}; before {_told(plain.solution)}")
        )  # fmt: skip
    return found


def _request(name: str, what: str, head: ConvexHead, train: ex.Examples, least: float) -> Row:
    n = len(train)
    count = {"1 row": 1, "1 %": n // 100, "5 %": n // 20}[what]
    kept, request = train.take(range(count, n)), Request.rows(train.ids[:count])
    one = copy.deepcopy(head)
    took = _timed(lambda: one.unlearn(kept, request))
    before, target = _SHARES[name][what]
    return Row(
        work=f"convex head: {name}, after {what}", unit="s", ours=took, limit=least, limit_is="one float64 pass",
        before=before, target=target, note=_told(one.solution),
    )  # fmt: skip


def _told(solution: Solution) -> str:
    products = sum(step.products for step in solution.steps)
    return f"{products} products in float32 and {len(solution.steps) + 1} passes in float64"


def _timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
