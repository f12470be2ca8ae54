"""Membership in heads: many heads, in each of which every candidate was learned and forgotten, or never seen."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge import _validate
from expunge._progress import track
from expunge.accounting import MeasuredResidual
from expunge.attacks.attacked import Attacked
from expunge.attacks.shadow_models import Seen, coins_guessed, log_probability
from expunge.audit.evidence import OneRun, OneRunViaCertifier
from expunge.audit.scores import auc
from expunge.data import Examples, Request
from expunge.data.joins import joined
from expunge.heads import AnalyticHead, ConvexHead
from expunge.heads.analytic import GRID
from expunge.training.noise import Noise

__all__ = ["HeadArena", "Releases", "bits", "convex", "differences", "exact", "head_membership", "of_minima", "of_sums"]

Unlearn = Callable[[AnalyticHead, Examples], None]
Unfit = Callable[[ConvexHead, Examples, Examples, torch.Generator], Tensor]

_READING = 1e-6  # error with which scores of exact heads are read: far above their rounding, far below what a row moves
_MASKED = -1e3  # for the -inf of a class without rows
_GRID_BITS = 16  # of the largest entry, for `bits`


@dataclass(frozen=True, kw_only=True)
class HeadArena:
    """Rows of features, and coins: in every run each candidate is learned by a fair coin of its own.

    Args:
        retain: features (n, d), labels (n,), ids; every run learns them.
        candidates: rows whose membership is attacked.
        population: rows that no run sees.
        classes: labels lie below it.
        runs: how many, at least 8.
        seed: of coins and noise.
    """

    retain: Examples
    candidates: Examples
    population: Examples
    classes: int
    runs: int
    seed: int = 0

    def __post_init__(self) -> None:
        _validate.whole(8, runs=self.runs)
        _validate.whole(2, classes=self.classes)
        names = [*self.retain.ids, *self.candidates.ids]
        if len(set(names)) < len(names):
            raise ValueError("retain and candidates name a row twice, or share a name")

    @cached_property
    def coins(self) -> Tensor:
        """Who was in, shape (runs, m), bool."""
        return torch.rand(self.runs, len(self.candidates), generator=self.generator(1)) < 0.5

    def generator(self, purpose: int) -> torch.Generator:
        """A generator of its own for each purpose."""
        return torch.Generator().manual_seed(self.seed * 1000 + purpose)

    def own(self, run: int) -> Examples | None:
        """The candidates that are in; None where no coin fell so."""
        rows = self.coins[run].nonzero().flatten()
        return self.candidates.take(rows) if len(rows) else None

    def scores(self, of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What a head says of candidates, population and as many retained rows."""
        parts = (self.candidates, self.population, self._kept)
        return tuple(of(part.tensors[0]).clamp(min=_MASKED) for part in parts)  # pyright: ignore[reportReturnType]

    @cached_property
    def _kept(self) -> Examples:
        return self.retain.take(range(min(len(self.population), len(self.retain))))

    def labels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of candidates, population and retained rows, as in `scores`."""
        return self.candidates.tensors[1], self.population.tensors[1], self._kept.tensors[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Releases:
    """What the heads of an arena say of candidates, population and retained rows: logits (runs, rows, classes) each.

    Args:
        before: of heads that have not forgotten yet.
        after: of what is released.
        null: of releases of heads that never learned a candidate.
        kind: of the evidence: two convex heads are each close to the exact minimiser with the same noise, and only through
            it to each other, so that they may differ by twice the claim.
    """

    before: tuple[Tensor, Tensor, Tensor]
    after: tuple[Tensor, Tensor, Tensor]
    null: tuple[Tensor, Tensor, Tensor]
    kind: type[OneRun] = OneRun


def exact(
    arena: HeadArena,
    *,
    ridge: float,
    rounding: float = 1e-9,
    provenance: str = "",
    grid: float | Tensor | None = GRID,
    forget: Unlearn | None = None,
) -> Releases:
    """Exact heads: each takes up the saved state of one that learned the retained rows, learns its own, and forgets them.

    Scores are read with an independent error of 1e-6, which hides what rounding leaves (see `bits`) and little else.

    Args:
        arena: rows and coins.
        ridge: of the heads, as `rounding`, `provenance` and `grid`.
        rounding: see `AnalyticHead`.
        provenance: likewise.
        grid: likewise.
        forget: what is attacked, by default `AnalyticHead.forget`.

    Raises:
        RunError, ValueError: see `AnalyticHead`.
    """
    base = AnalyticHead(ridge=ridge, classes=arena.classes, provenance=provenance, rounding=rounding, grid=grid)
    return of_sums(arena, base, forget=forget)


def of_sums(arena: HeadArena, base: AnalyticHead, *, forget: Unlearn | None = None) -> Releases:
    """`exact`, from a head that has learned nothing."""
    undo = forget or _forget
    _learn(base, arena.retain)
    never, reading = arena.scores(base.scores), arena.generator(2)
    before: list[tuple[Tensor, Tensor, Tensor]] = []
    after: list[tuple[Tensor, Tensor, Tensor]] = []
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "head.state"
        base.save(state)
        for run in track(iter(range(arena.runs)), total=arena.runs, label="exact heads"):
            head, own = AnalyticHead.load(state, key=base.key), arena.own(run)
            if own is not None:
                _learn(head, own)
            before.append(arena.scores(head.scores))
            if own is not None:
                undo(head, own)
            after.append(arena.scores(head.scores))
    read = [_read(_stacked(part), reading) for part in (before, after, [never] * arena.runs)]
    return Releases(before=read[0], after=read[1], null=read[2])


def convex(
    arena: HeadArena,
    mechanism: MeasuredResidual,
    *,
    loss: Literal["logistic", "squared", "smooth_hinge"] = "logistic",
    unlearn: Unfit | None = None,
) -> Releases:
    """Convex heads: each is fitted to the retained rows and its own, and unlearns its own. Slow: a fit for each run.

    Args:
        arena: rows and coins.
        mechanism: β, λ, σ.
        loss: of the heads; a certificate does not name it.
        unlearn: what is attacked: from (head, all rows, those to forget, coins of the noise) to the released weights,
            shape (classes, features + 1); by default `ConvexHead.unlearn`.

    Raises:
        RunError, NonFinite, ValueError: see `ConvexHead`.
    """

    def fresh() -> ConvexHead:
        return ConvexHead(
            loss=loss, regularization=mechanism.strong_convexity, classes=arena.classes, residual=mechanism.residual,
            noise_std=mechanism.noise_std, provenance=mechanism.provenance, factor_limit=0,
        )  # fmt: skip

    return of_minima(arena, fresh, unlearn=unlearn)


def of_minima(arena: HeadArena, fresh: Callable[[], ConvexHead], *, unlearn: Unfit | None = None) -> Releases:
    """`convex`, of heads that `fresh` makes."""
    undo, coins, std = unlearn or _unlearn, arena.generator(3), fresh().noise_std

    def fitted(rows: Examples) -> ConvexHead:
        head = fresh()
        head.fit(rows, generator=coins, prepare=False)
        return head

    def said(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return arena.scores(lambda x: x.double() @ weights[:, :-1].T + weights[:, -1])

    retained = fitted(arena.retain).solution.weights
    before: list[tuple[Tensor, Tensor, Tensor]] = []
    after: list[tuple[Tensor, Tensor, Tensor]] = []
    null: list[tuple[Tensor, Tensor, Tensor]] = []
    for run in track(iter(range(arena.runs)), total=arena.runs, label="convex heads"):
        null.append(said(_noisy(retained, std, coins)))
        own = arena.own(run)
        if own is None:
            before.append(null[-1])
            after.append(said(_noisy(retained, std, coins)))
            continue
        rows = joined(arena.retain, own)
        head = fitted(rows)
        before.append(said(head.solution.weights))
        after.append(said(undo(head, rows, own, coins)))
    return Releases(before=_stacked(before), after=_stacked(after), null=_stacked(null), kind=OneRunViaCertifier)


def head_membership(arena: HeadArena, releases: Releases, *, delta: float = 1e-5, confidence: float = 0.95) -> Attacked:
    """The attacks of `membership` on the candidates of an arena of heads; findings and details as there."""
    candidates, population, kept = arena.labels()
    seen = {
        name: Seen.of(said[0], candidates, said[1], population)
        for name, said in (("shadows", releases.before), ("released", releases.after), ("null", releases.null))
    }
    coins: NDArray[Any] = arena.coins.numpy()
    found = coins_guessed(coins, delta=delta, confidence=confidence, kind=releases.kind, **seen)
    never, retained = (
        log_probability(said, labels).reshape(-1)
        for said, labels in ((releases.after[1], population), (releases.after[2], kept))
    )
    right = {
        name: float((said.argmax(-1) == labels).double().mean())
        for name, said, labels in zip(
            ("candidates", "population", "retained"), releases.after, arena.labels(), strict=True
        )
    }
    extra = {"retained": {"auc": auc(retained, never), "direction": "0.5: not told apart"}, "accuracy": right}
    return Attacked(findings=found.findings, details=extra | found.details | {"runs": arena.runs})


def bits(arena: HeadArena, *, ridge: float, rounding: float = 1e-9) -> dict[str, Any]:
    """A head that learned all candidates and forgot them, bit by bit against one that never learned them. JSON-ready.

    In float64 the sums keep rounding errors of the forgotten rows, which whoever knows everything else can see in the
    last bits of the weights; `error_bound` says how large they can be. With a grid, here 2^-16 of the largest entry
    rounded up to a power of two, nothing is left.
    """
    largest = max(float(part.tensors[0].abs().max()) for part in (arena.retain, arena.candidates))
    step = 2.0 ** (torch.tensor(largest, dtype=torch.float64).log2().ceil().item() - _GRID_BITS) if largest else 1.0
    found: dict[str, Any] = {"grid step": step, "unit": "share of weights; size of a weight"}
    for name, grid in (("float64", None), ("grid", step)):
        head = AnalyticHead(ridge=ridge, classes=arena.classes, rounding=rounding, grid=grid)
        _learn(head, arena.retain)
        never = head.weights
        _learn(head, arena.candidates)
        _forget(head, arena.candidates)
        found[name] = differences(head.weights, never) | {"error_bound": head.error_bound}
    return found


def differences(one: Tensor, other: Tensor) -> dict[str, float]:
    """The share of entries whose bits differ (0 and -0 do), and the largest difference."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    unlike = one.contiguous().view(kind) != other.contiguous().view(kind)
    return {"differ": float(unlike.double().mean()), "largest": float((one - other).abs().max())}


def _learn(head: AnalyticHead, rows: Examples) -> None:
    head.learn(rows.tensors[0], rows.tensors[1], ids=rows.ids)


def _forget(head: AnalyticHead, rows: Examples) -> None:
    head.forget(rows.tensors[0], rows.tensors[1], ids=rows.ids)


def _unlearn(head: ConvexHead, rows: Examples, own: Examples, coins: torch.Generator) -> Tensor:
    layer: Any = head.unlearn(rows, Request.rows(own.ids), generator=coins).model
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()


def _noisy(weights: Tensor, std: float, coins: torch.Generator) -> Tensor:
    return Noise(std, coins).add_(weights.reshape(-1).clone(), released=True).view_as(weights)


def _stacked(each: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.stack(part) for part in zip(*each, strict=True))  # pyright: ignore[reportReturnType]


def _read(parts: tuple[Tensor, Tensor, Tensor], coins: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """With the error of the reading, independent for each number."""
    noisy = (part + _READING * torch.randn(part.shape, generator=coins, dtype=part.dtype) for part in parts)
    return tuple(noisy)  # pyright: ignore[reportReturnType]
