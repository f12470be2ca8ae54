"""The parts of an audit for unlearners that release a head on features: sums, or the minimiser of a convex loss."""

from dataclasses import replace
from typing import cast

import torch

from expunge.accounting import Kind
from expunge.attacks.candidates import named
from expunge.attacks.heads import HeadArena, Releases, bits, head_membership, of_minima, of_sums
from expunge.attacks.parts import How, Part, left_out
from expunge.attacks.residual import Residual, residual_worlds
from expunge.data import Examples
from expunge.errors import ExpungeError
from expunge.training.task import Task, featured, labelled, outputs
from expunge.unlearners.capabilities import Minimiser, Sums

__all__ = ["head_arena", "minimiser_membership", "minimiser_worlds", "sums_bits", "sums_membership"]

_ROWS = 2000  # retained rows that convex heads are fitted to
_SHARE = 4  # of the runs asked for, one in so many is made of convex heads: each needs a fit


def minimiser_worlds(how: How) -> Part:
    """The search that stops as far from the minimiser as it may, beside the minimiser."""
    if how.mechanism.kind is Kind.NONE:
        return left_out("nothing is claimed, neither a residual nor a strong convexity")
    coins = torch.Generator().manual_seed(how.seed)
    try:
        found = residual_worlds(
            cast("Residual", how.mechanism), replicates=how.effort.replicates, delta=how.delta,
            confidence=how.confidence, generator=coins,
        )  # fmt: skip
    except TypeError as error:
        return left_out(error)
    return list(found.findings), found.details


def sums_bits(how: How) -> Part:
    """No noise to attack; the bits that rounding leaves."""
    reason = "exact: no noise to attack"
    try:
        arena = head_arena(how.task, runs=8, seed=how.seed)
        head = cast("Sums", how.unlearner).sums(arena.classes)
        found = bits(arena, ridge=head.ridge, rounding=head.rounding)
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(f"{reason}; bits are not compared: {error}")
    return [], left_out(reason)[1] | {"bits": found}


def sums_membership(how: How) -> Part:
    """Many heads, each from the sums of the retained rows."""
    try:
        arena = head_arena(how.task, runs=how.effort.runs, seed=how.seed)
        releases = of_sums(arena, cast("Sums", how.unlearner).sums(arena.classes))
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    return _membership(how, arena, releases)


def minimiser_membership(how: How) -> Part:
    """Fewer heads, on fewer rows: each is fitted."""
    try:
        arena = head_arena(how.task, runs=max(8, how.effort.runs // _SHARE), seed=how.seed)
        arena = replace(arena, retain=arena.retain.take(range(min(_ROWS, len(arena.retain)))))
        unlearner, classes = cast("Minimiser", how.unlearner), arena.classes
        releases = of_minima(arena, lambda: unlearner.minimiser(classes))
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    return _membership(how, arena, releases)


def _membership(how: How, arena: HeadArena, releases: Releases) -> Part:
    found = head_membership(arena, releases, delta=how.delta, confidence=how.confidence)
    details = found.details | {"retained rows": len(arena.retain), "assumed": dict(how.assumed)}
    return list(found.findings), details


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
