"""What drives the steps of a verb: a bar, and state files between the steps."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from expunge.data import Examples, as_examples
from expunge.progress import track
from expunge.state import Pace, StateFile

__all__ = ["drive", "state_file"]


def drive(
    steps: Iterator[int], total: int, label: str, file: StateFile | None, snapshot: Callable[[], dict[str, Any]]
) -> int:
    """Run the steps to their end, with a bar and state files; return how many there were.

    States are taken between steps only, so whatever moment an interruption picks, the last file is whole.

    Args:
        steps: of a verb.
        total: how many there will be.
        label: of the bar.
        file: from `state_file`.
        snapshot: everything needed to go on after the step that is done.
    """
    done, pace = 0, Pace()
    for _ in track(steps, total=total, label=label):
        done += 1
        if file is not None:
            pace.save(lambda: file.save(snapshot()))
    return done


def state_file(
    path: str | os.PathLike[str] | None, verb: str, model: nn.Module, data: Any, settings: Mapping[str, Any]
) -> StateFile | None:
    """The state file of a verb; None without a path.

    Args:
        path: of the file.
        verb: that writes it.
        model: its names, shapes and dtypes tell runs apart.
        data: likewise their content: a run that went on with other data would be certified for data it did not have.
        settings: likewise, JSON-ready.

    Raises:
        ValueError: the data make batches of their own.
    """
    if path is None:
        return None
    examples = as_examples(data)
    if examples is None:
        raise ValueError("a state file needs data as Examples(x, y): a loader's order cannot be restored")
    shapes = [[name, list(p.shape), str(p.dtype)] for name, p in model.named_parameters()]
    rows = [[list(t.shape), str(t.dtype)] for t in examples.tensors]
    return StateFile(path, {"verb": verb, "model": shapes, "data": [rows, _digest(examples)], **settings})


def _digest(examples: Examples) -> str:
    """Of every value, in order."""
    found = hashlib.sha256()
    for part in examples.chunks(1 << 14):
        for rows in part:
            found.update(rows.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
