"""What the unlearners of heads have in common: a task's rows as features, and the folder that one request leaves to the next."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from expunge._files import write_new
from expunge._lock import held
from expunge.accounting import Budget
from expunge.data import Examples
from expunge.data.coverage import rows_held
from expunge.errors import StateError, StillRetained, TaskError
from expunge.fingerprint import tensors_held
from expunge.heads import AnalyticHead, ConvexHead
from expunge.heads.saved import CONVEX, kind_of
from expunge.training.task import Task, labelled, outputs
from expunge.training.unlearned import Unlearned
from expunge.unlearners.working import SECRET, keys_in, state_in

__all__ = [
    "alone_with",
    "files_of",
    "handed_out",
    "keep",
    "load_head",
    "needs",
    "other_kind",
    "refuse_other",
    "refuse_unproven",
    "secret_beside",
    "strangers",
]


def needs(task: Task) -> str:
    """Why no head can be put on a task's features; "" where one can."""
    if task.features is None:
        return "the task names no feature map (features): a head alone is no whole network"
    if not task.declared:
        return "where the feature map comes from is not declared (provenance): nothing would be proven"
    for part in ("retain", "forget"):
        try:
            labels = labelled(task, part).tensors[1]
        except TaskError:
            return f"it needs task.{part} as Examples(x, y) with a label for each row"
        width = outputs(task, task.retain)
        if int(labels.max()) >= width:
            return f"the network has {width} outputs, and labels reach {int(labels.max())}: a head needs one for each label"
    return _holding(task)


def other_kind(unlearner: Any, head: object, own: type[AnalyticHead] | type[ConvexHead]) -> str:
    """Why an unlearner that goes on from heads of its own class cannot go on from this one; "" where it can, or has none."""
    if head is None or isinstance(head, own):
        return ""
    return (
        f"{unlearner.head or 'learned'} holds a head of class {type(head).__name__}, {unlearner.name} goes on from class {own.__name__}: go on "
        "with the mechanism that its certificate names, or leave --head out to fit a new head"
    )


def strangers(head: AnalyticHead | ConvexHead | None, forget: Examples) -> str:
    """Why a head cannot forget these rows; "" where it can."""
    count = 0 if head is None else sum(name not in head for name in forget.ids)
    if not count:
        return ""
    return f"{count} of the {len(forget)} forgotten rows were never learned by the head, or are forgotten already"


def refuse_unproven(task: Task, budget: Budget) -> None:
    """Raise `TaskError` where a head on the task's features would prove nothing, `StillRetained` where they hold forgotten rows."""
    if task.features is None:
        raise TaskError("a head needs task.features, a map from rows to features with its provenance")
    if not task.declared:
        raise TaskError(
            f"nothing is proven, epsilon={budget.epsilon:g} was asked: task.provenance is '' or missing, so that the feature map "
            "may depend on the forgotten data; say in a line why it does not, or use expunge.heads, whose heads may prove nothing"
        )
    labelled(task, "forget")
    holding = _holding(task)
    if holding:
        raise StillRetained(holding)


def _holding(task: Task) -> str:
    """Why the feature map itself would have to forget; "" where it need not."""
    rows = rows_held(tensors_held(task.features), task.forget)
    if not rows:
        return ""
    return (
        f"task.features holds {rows} rows with the content of rows to forget: what it says of any row depends on them"
    )


def refuse_other(unlearner: Any, known: Mapping[str, Any], provenance: str, task: Task) -> None:
    """Raise `ValueError` where an option is asked for that the head in the unlearner's folder was not made with."""
    if unlearner.head is None:
        return
    previous = unlearner.head
    default = {f.name: f.default for f in fields(unlearner)}
    for name, value in known.items():
        asked = getattr(unlearner, name)
        if asked not in (default[name], value):
            raise ValueError(
                f"{name}={asked!r} is not that of the head in {previous}, {value!r}, which cannot change: leave it "
                "out, or fit a new head without --head"
            )
    if task.declared != provenance:
        raise ValueError(
            f"task.provenance is {task.declared!r}, the head in {previous} was fitted with {provenance!r}: a head "
            "belongs to one feature map"
        )


def handed_out(done: Unlearned, head: AnalyticHead | ConvexHead, task: Task, previous: Path | None) -> Unlearned:
    """Add to a head's release its feature map, and what the operator is told: what it is, and what still holds the forgotten rows.

    Args:
        done: the release.
        head: that it is of.
        task: of the feature map.
        previous: the folder of the head that forgot, where there was one.
    """
    left = None if previous is None else str(files_of(previous)[0].parent)
    told = [
        "The released model is a linear head on the task's feature map, another model than the original: their accuracies differ "
        "for that reason too, and not only for what was forgotten."
    ]
    if left is not None:
        told.append(f"{left} still holds what the forgotten rows added: delete it.")
    notes = {"rows": len(head), "delete": left}
    return replace(done, features=task.features, notes=notes, told=tuple(told), keeper=partial(keep, head))


def alone_with(folder: Path | None) -> AbstractContextManager[None]:
    """Hold the previous head: two requests at once would each lack what the other forgot."""
    if (
        folder is None or not os.path.isdir(folder) or not os.access(folder, os.W_OK)
    ):  # the last: nobody can lock it there
        return nullcontext()
    return held(Path(folder), inside=True, error=StateError)


def keep(head: AnalyticHead | ConvexHead, folder: Path | None) -> None:
    """Put a head's state and its key where the next request finds them."""
    if folder is not None:
        head.save(state_in(folder) / "head.state")
        write_new(keys_in(folder) / "head.key", head.key.hex().encode() + b"\n", private=True)


def secret_beside(out: Path) -> Path:
    """The folder beside `out` that its owner alone may see."""
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.name}.{SECRET}")


def files_of(folder: Path) -> tuple[Path, Path]:
    """State and key of a head, whether they are there or not."""
    folder = Path(folder)
    secret = secret_beside(folder)
    if not secret.is_dir() and (folder / "head.state").exists():  # of an earlier version
        return folder / "head.state", folder / "head.key"
    return secret / "state" / "head.state", secret / "keys" / "head.key"


def load_head(folder: Path, *, noise: Budget | None = None) -> AnalyticHead | ConvexHead:
    """The head that an earlier request left.

    Args:
        folder: of that call, `<folder>.secret` beside it; earlier versions kept all in one.
        noise: what the releases of a convex head are to meet from now on; by default as before.

    Raises:
        StateError: key or state is missing, or was altered.
    """
    state, kept = files_of(folder)
    try:
        key = bytes.fromhex(kept.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise StateError(
            f"{folder} holds no key of a head: cannot read {kept}: {error.strerror}; give the folder that unlearn made for a head"
        ) from error
    except ValueError as error:
        raise StateError(f"{folder} holds no key of a head: {kept} is not in hexadecimal digits") from error
    if len(key) < 32:
        raise StateError(f"{kept} holds {len(key)} bytes, not a whole key of 32")
    if kind_of(state) == CONVEX:
        return ConvexHead.load(state, key=key, noise_std=noise)
    return AnalyticHead.load(state, key=key)
