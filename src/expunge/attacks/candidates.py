"""Whose coins an audit tosses: the rows of the request, and held-out rows where those are few."""

import torch

from expunge.data import Examples

__all__ = ["enough", "joined"]

_FEWEST, _PLENTY = 20, 200


def enough(forget: Examples | None, held_out: Examples | None) -> tuple[Examples, dict[str, int]]:
    """Candidates for canaries: all rows to forget, and held-out rows up to 200 together.

    A claim covers every forget set, so an audit may choose one: rows that no training saw are as good as those of the
    request, and a request of one row has an audit too. It is then an audit of the mechanism on this task's data.

    Args:
        forget: rows of the request; None where they are no `Examples`.
        held_out: rows that no training saw, under other names.

    Returns:
        The candidates, and how many are of either kind.

    Raises:
        ValueError: fewer than 20 rows in all, or rows of another form.
    """
    asked = 0 if forget is None else len(forget)
    more = 0 if held_out is None else min(max(_PLENTY - asked, 0), len(held_out))
    if asked + more < _FEWEST:
        raise ValueError(
            f"it needs at least {_FEWEST} rows, of task.forget and task.held_out as Examples together, not {asked + more}"
        )
    extra = None if held_out is None or more == 0 else held_out.take(range(more))
    rows = extra if forget is None else joined(forget, extra)
    assert rows is not None
    return rows, {"forget": asked, "held_out": more}


def joined(first: Examples, second: Examples | None) -> Examples:
    """Both, with their ids."""
    if second is None:
        return first
    pairs = zip(first.tensors, second.tensors, strict=True)
    return Examples(*(torch.cat(pair) for pair in pairs), ids=[*first.ids, *second.ids])
