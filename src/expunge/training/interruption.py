"""What drives the steps of a verb: a bar, and state files between the steps."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import rfc8785
import torch
from torch import nn

from expunge._lock import held
from expunge._progress import track
from expunge.certificate.digests import digest_tensors, weights_tensors
from expunge.data import Examples, as_examples
from expunge.data.batches import tensors_in
from expunge.data.ids import ids_in
from expunge.errors import StateError
from expunge.fingerprint import code_digest, model_digest
from expunge.parallel.sharding import sharded, whole
from expunge.parallel.workers import ALONE, Workers
from expunge.training.randomness import environment
from expunge.training.state import Pace, StateFile
from expunge.training.tensors import named_buffers, tensor_infos

__all__ = ["agree", "alone", "drive", "state_file"]


def drive(
    steps: Iterator[int],
    total: int,
    label: str,
    file: StateFile | None,
    snapshot: Callable[[], dict[str, Any]],
    workers: Workers = ALONE,
) -> int:
    """Run the steps to their end, with a bar and state files; return how many there were.

    States are taken between steps only, so whatever moment an interruption picks, the last file is whole.

    Args:
        steps: of a verb.
        total: how many there will be.
        label: of the bar.
        file: from `state_file`.
        snapshot: everything needed to go on after the step that is done; of several workers all take it together.
        workers: that share the run; rank 0 writes.
    """
    done, pace = 0, Pace()

    def write() -> None:
        assert file is not None
        now = snapshot()
        if workers.first:
            file.save(now)

    for _ in track(steps, total=total, label=label):
        done += 1
        if file is not None:
            pace.save(write, workers.share(pace.is_due))
    return done


def alone(path: str | os.PathLike[str] | None, workers: Workers = ALONE) -> AbstractContextManager[None]:
    """Hold a state file against other processes while a run uses it; without a path nothing is held.

    Raises:
        StateError: another process uses it.
    """
    return nullcontext() if path is None or not workers.first else held(path, error=StateError)


def agree(
    workers: Workers,
    verb: str,
    model: nn.Module,
    data: Any,
    settings: Mapping[str, Any],
    *,
    code: Mapping[str, Any],
    forget: Any = None,
) -> None:
    """Raise unless all workers are about to do the same: one run cannot be shared by workers that differ.

    Args:
        workers: that share the run.
        verb: that was called.
        model: its names, shapes and weights, bit for bit.
        data: likewise their content.
        settings: likewise, JSON-ready.
        code: functions and objects that the run calls, with what they hold.
        forget: the forgotten rows, where they are known.

    Raises:
        RunError: they differ; the message names in what.
        ValueError: the data make batches of their own, which several workers cannot take apart.
    """
    if not workers.several:
        return
    examples = as_examples(data)
    if examples is None:
        raise ValueError(
            "several workers share global batches, and a loader makes batches of its own: give the data as Examples(x, y), all of "
            "them on every worker"
        )
    tensors = weights_tensors(model)
    workers.agree(
        {
            "the verb": verb,
            "the model": [(t.name, t.dtype, t.shape) for t in tensors],
            "the weights": digest_tensors(tensors),
            # Of shards every worker has others, and hooks of its own.
            "the code of the model, and what it holds (a rank or a device: take it from the group or the weights)": None
            if sharded(model)
            else model_digest(model, strict=False),
            "the model's buffers": None if sharded(model) else digest_tensors(tensor_infos(dict(named_buffers(model)))),
            "the code of loss or recovery, and what it holds (likewise)": {
                name: code_digest(part, name=name, strict=False) for name, part in code.items()
            },
            "the forget set": _known(forget),
            "the data": (
                _forms(examples),
                _digest(examples),
                hashlib.sha256("\n".join(examples.ids).encode()).hexdigest(),
            ),
            "the options": hashlib.sha256(rfc8785.dumps(dict(settings))).hexdigest(),
            "the versions": environment(torch.device("cpu"), workers.size),
        }
    )


def _known(forget: Any) -> Any:
    """What a worker was told of the forgotten rows, to be compared and not kept."""
    examples = None if forget is None else as_examples(forget)
    if examples is None:
        names = None if forget is None else ids_in(forget)
        return None if forget is None else "a loader" if names is None else sorted(map(str, names))
    return _forms(examples), _digest(examples)


def state_file(
    path: str | os.PathLike[str] | None,
    verb: str,
    model: nn.Module,
    data: Any,
    settings: Mapping[str, Any],
    *,
    code: Mapping[str, object],
    drawn: bool = False,
) -> StateFile | None:
    """The state file of a verb; None without a path.

    Args:
        path: of the file.
        verb: that writes it.
        model: its weights and buffers tell runs apart, bit for bit, and its code.
        data: likewise their content: a run that went on with other data would be certified for data it did not have.
        settings: likewise, JSON-ready.
        code: name -> the caller's functions (loss, make_model), likewise with all that they hold (`expunge.fingerprint`).
        drawn: the model's weights are drawn by the run itself, so that only their shapes count.

    Raises:
        ValueError: the data make batches of their own.
    """
    if path is None:
        return None
    examples = as_examples(data)
    if examples is None:
        raise ValueError("a state file needs data as Examples(x, y): a loader's order cannot be restored")
    tensors = [(n, whole(t)) for n, t in (*model.named_parameters(), *model.named_buffers())]
    run: dict[str, Any] = {
        "verb": verb,
        "model": _kinds(model) if sharded(model) else model_digest(model, strict=False),
        "weights": "drawn" if drawn else code_digest([(n, t.detach()) for n, t in tensors], strict=False),
        "data": [_forms(examples), _digest(examples)],
    }
    run |= {name: code_digest(part, name=name, strict=False) for name, part in code.items()}
    return StateFile(path, run | dict(settings))


def _kinds(model: nn.Module) -> list[list[str]]:
    """Names and kinds of the modules of a model in shards, which holds what belongs to this worker alone."""
    found: list[list[str]] = []
    for name, module in model.named_modules():
        kind = next(k for k in type(module).__mro__ if not k.__module__.startswith("torch.distributed."))
        found.append([name, f"{kind.__module__}.{kind.__qualname__}"])
    return found


def _forms(examples: Examples) -> list[Any]:
    rows = [[list(t.shape), str(t.dtype)] for t in examples.values]
    if not examples.fields:
        return rows
    return [[name, *form] for name, form in zip(examples.fields, rows, strict=True)]


def _digest(examples: Examples) -> str:
    """Of every value, in order."""
    found = hashlib.sha256()
    for part in examples.chunks(1 << 14):
        for rows in tensors_in(part):
            found.update(rows.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
