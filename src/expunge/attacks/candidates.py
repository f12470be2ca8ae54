"""Whose coins an audit tosses: the rows of the request, and held-out rows where those are few."""

from expunge.data import Examples
from expunge.data.joins import joined
from expunge.training.task import Task

__all__ = ["candidates_of", "enough", "named"]

_FEWEST, _PLENTY = 20, 200


def enough(forget: Examples, held_out: Examples | None) -> tuple[Examples, dict[str, int]]:
    """Candidates for canaries: all rows to forget, and held-out rows up to 200 together.

    A claim covers every forget set, so an audit may choose one: rows that no training saw are as good as those of the
    request, and a request of one row has an audit too. It is then an audit of the mechanism on this task's data.

    Args:
        forget: rows of the request.
        held_out: rows that no training saw, under other names; None where there are none.

    Returns:
        The candidates, and how many are of either kind.

    Raises:
        ValueError: fewer than 20 rows in all.
    """
    more = 0 if held_out is None else min(max(_PLENTY - len(forget), 0), len(held_out))
    if len(forget) + more < _FEWEST:
        raise ValueError(
            f"it needs at least {_FEWEST} rows, of task.forget and task.held_out together, not {len(forget) + more}"
        )
    rows = joined(forget, held_out.take(range(more)) if held_out is not None and more else None)
    return rows, {"forget": len(forget), "held_out": more}


def candidates_of(task: Task) -> tuple[Examples, Examples | None]:
    """The rows to forget, and the held-out ones where the task has any; raises as `named` does."""
    return named("forget", task.forget), None if task.held_out is None else named("held_out", task.held_out)


def named(part: str, held: object) -> Examples:
    """The rows of a part of a task, with names that no other part has: by default they are named by their position.

    Raises:
        TypeError: they are no `Examples`.
    """
    if not isinstance(held, Examples):
        raise TypeError(f"task.{part} must be Examples, and is {'not given' if held is None else type(held).__name__}")
    return held.renamed(f"{part}/{name}" for name in held.ids)
