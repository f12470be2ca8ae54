"""The parts of an audit for the lanes that keep the model: exact head, convex head, replay."""

from dataclasses import replace
from typing import cast

import torch

from expunge.accounting import ExactRidge, GridRidge, MeasuredResidual, Replay, UndeclaredFeatures
from expunge.attacks.attacked import Attacked
from expunge.attacks.candidates import candidates_of, enough, named
from expunge.attacks.head_canaries import convex_lane, exact_lane, head_canaries
from expunge.attacks.heads import HeadArena, bits, convex, exact, head_membership
from expunge.attacks.parts import How, Part, left_out
from expunge.attacks.replays import replay_canaries
from expunge.attacks.residual import residual_worlds
from expunge.data import Examples
from expunge.errors import ExpungeError
from expunge.heads.analytic import GRID
from expunge.training.task import Task, featured, labelled, outputs

__all__ = ["HEADS", "LANES", "head_arena", "lane_canaries", "lane_membership", "lane_worlds"]

HEADS = (ExactRidge, GridRidge, MeasuredResidual, UndeclaredFeatures)
LANES = (*HEADS, Replay)

_ROWS = 2000  # retained rows that convex heads are fitted to
_SHARE = 4  # of the runs asked for, one in so many is made of convex heads: each needs a fit
# What an UndeclaredFeatures certificate does not say of the head that was run.
_RIDGE, _RESIDUAL, _CONVEXITY = 1.0, 1e-8, 1e-3

_Exact = ExactRidge | GridRidge
_Head = _Exact | MeasuredResidual


def lane_worlds(how: How) -> Part:
    """Two worlds for a measured residual; of an exact head the bits that rounding leaves."""
    of = how.mechanism
    if isinstance(of, MeasuredResidual):
        coins = torch.Generator().manual_seed(how.seed)
        return _part(
            residual_worlds(
                of, replicates=how.effort.replicates, delta=how.delta, confidence=how.confidence, generator=coins
            )
        )
    if isinstance(of, UndeclaredFeatures) and of.head == MeasuredResidual.name:
        return left_out("nothing is claimed, neither a residual nor a strong convexity")
    reason = "exact: no noise to attack"
    if isinstance(of, Replay):
        return left_out(reason)
    head = cast("_Exact", _head_of(how))
    try:
        arena = head_arena(how.task, runs=8, seed=how.seed)
        found = bits(arena, ridge=head.ridge, rounding=head.rounding)
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(f"{reason}; bits are not compared: {error}")
    return [], left_out(reason)[1] | {"bits": found}


def lane_membership(how: How) -> Part:
    """Many heads; a replay has none."""
    if isinstance(how.mechanism, Replay):
        return left_out("a replay is compared with retraining bit for bit, see canaries")
    try:
        head = _head_of(how)
        if isinstance(head, _Exact):
            arena = head_arena(how.task, runs=how.effort.runs, seed=how.seed)
            releases = exact(arena, ridge=head.ridge, rounding=head.rounding, grid=_grid(head))
        else:
            arena = head_arena(how.task, runs=max(8, how.effort.runs // _SHARE), seed=how.seed)
            arena = replace(arena, retain=arena.retain.take(range(min(_ROWS, len(arena.retain)))))
            releases = convex(arena, head)
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    found = head_membership(arena, releases, delta=how.delta, confidence=how.confidence)
    return list(found.findings), found.details | {"retained rows": len(arena.retain)} | _assumed(how)


def lane_canaries(how: How) -> Part:
    """One training of the lane."""
    coins = torch.Generator().manual_seed(how.seed + 4)
    try:
        if isinstance(how.mechanism, Replay):
            return _replay(how, how.mechanism, coins)
        arena = head_arena(how.task, runs=8, seed=how.seed)
        rows, where = enough(arena.candidates, arena.population)
        head, noise = _head_of(how), torch.Generator().manual_seed(how.seed + 5)
        if isinstance(head, _Exact):
            lane = exact_lane(classes=arena.classes, ridge=head.ridge, rounding=head.rounding, grid=_grid(head))
        else:
            lane = convex_lane(head, classes=arena.classes, generator=noise)
        found = head_canaries(lane, arena.retain, rows, delta=how.delta, confidence=how.confidence, generator=coins)
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    return list(found.findings), found.details | {"candidates": where} | _assumed(how)


def _replay(how: How, of: Replay, coins: torch.Generator) -> Part:
    task = how.task
    if task.make_model is None:
        return left_out("the task has no make_model: no traced training can be run")
    rows, where = enough(*candidates_of(task))
    found = replay_canaries(
        task.make_model, named("retain", task.retain), rows, loss=task.loss, epochs=max(1, round(how.training_epochs)),
        recipe=how.recipe, augment=task.augment, shards=of.shards, delta=how.delta, confidence=how.confidence,
        generator=coins,
    )  # fmt: skip
    return list(found.findings), found.details | {"candidates": where}


def _part(found: Attacked) -> Part:
    return list(found.findings), found.details


def _head_of(how: How) -> _Head:
    """The head that is run; stand-ins for what an `UndeclaredFeatures` certificate does not name."""
    of = how.mechanism
    if isinstance(of, _Head):
        return of
    undeclared = cast("UndeclaredFeatures", of)
    if undeclared.head == ExactRidge.name:
        return GridRidge(ridge=_RIDGE, grid=GRID, rounding=1e-9, provenance="not declared")
    return MeasuredResidual(
        residual=_RESIDUAL, strong_convexity=_CONVEXITY, noise_std=undeclared.noise_std, provenance="not declared"
    )


def _assumed(how: How) -> dict[str, object]:
    """What the certificate does not say, and this audit had to choose."""
    head = _head_of(how)
    chosen: dict[str, object] = {"loss": "logistic"} if isinstance(head, MeasuredResidual) else {}
    if isinstance(head, ExactRidge):
        chosen["grid"] = "none"
    if isinstance(how.mechanism, UndeclaredFeatures):
        own = {"ridge": _RIDGE, "grid": GRID} if isinstance(head, _Exact) else {
            "residual": _RESIDUAL, "strong_convexity": _CONVEXITY,
        }  # fmt: skip
        chosen |= own
    return {"assumed": chosen}


def _grid(head: _Exact) -> float | None:
    """The step of all features; certificates from before there was one had sums in floating point."""
    return head.grid if isinstance(head, GridRidge) else None


def head_arena(task: Task, *, runs: int, seed: int) -> HeadArena:
    """The task's rows as features, for as many heads as there are runs; those to forget are the candidates.

    Raises:
        TaskError: the task has no feature map, or its data are no labelled rows.
    """
    rows = {name: labelled(task, name) for name in ("retain", "forget", "held_out")}
    parts = {
        name: named(name, Examples(featured(task, part).cpu(), part.tensors[1].cpu(), ids=part.ids))
        for name, part in rows.items()
    }
    classes = outputs(task, rows["retain"])
    return HeadArena(
        retain=parts["retain"], candidates=parts["forget"], population=parts["held_out"], classes=classes, runs=runs,
        seed=seed + 3,
    )  # fmt: skip
