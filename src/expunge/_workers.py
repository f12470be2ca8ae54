"""How many processes share a run, asked without loading torch: a verb that is not made for several refuses to run in them."""

import os
import sys
from typing import Any, cast

from expunge.errors import RunError

__all__ = ["STATED", "in_shards", "processes", "refuse_without_group", "refuse_workers", "stated_workers"]

STATED = "workers"  # in the environment of a record


def processes() -> tuple[int, int]:
    """This process' rank in the default process group of torch.distributed, and how many there are; (0, 1) without one."""
    group = cast("Any", sys.modules.get("torch.distributed"))  # whoever initialised a group has loaded it
    if group is None or not group.is_available() or not group.is_initialized():
        return 0, 1
    return int(group.get_rank()), int(group.get_world_size())


def refuse_workers(verb: str) -> None:
    """Raise unless this process runs alone.

    Several processes would each run on their own: with noise of their own, so that one set of weights is released several
    times, or with other outcomes than the certificate says.

    Args:
        verb: that was called, in words.

    Raises:
        RunError: it is one of several, by a process group or by torchrun.
    """
    rank, size = processes()
    started = _started_by_torchrun()
    if size > 1:
        where = f"this process is rank {rank} of a process group of {size}"
    elif started > 1:
        where = f"torchrun started {started} processes"
    else:
        return
    raise RunError(
        f"{verb} is not made for several workers, and {where}: each would run on its own, with noise and outcomes of its own. "
        "Call it in a process that runs alone. docs/parallel.md says what several workers can do"
    )


def refuse_without_group() -> None:
    """Raise `RunError` where torchrun started several processes that have no process group: each would run on its own."""
    started, size = _started_by_torchrun(), processes()[1]
    if started > 1 and size == 1:
        raise RunError(
            f"torchrun started {started} processes, but there is no process group: each would run on its own, with noise of its "
            "own. Call torch.distributed.init_process_group() first, or start the script without torchrun"
        )


def in_shards(weights: object) -> bool:
    """Whether weights are a module with parameters in shards, of which no worker has all."""
    kinds, of = cast("Any", sys.modules.get("torch.distributed.tensor")), getattr(weights, "parameters", None)
    return kinds is not None and callable(of) and any(isinstance(p, kinds.DTensor) for p in cast("Any", of()))


def _started_by_torchrun() -> int:
    """How many processes torchrun, or a launcher with its variables, started together with this one; 1 where it started none."""
    if "TORCHELASTIC_RUN_ID" not in os.environ and "RANK" not in os.environ:
        return 1
    told = os.environ.get("WORLD_SIZE", "1")
    return int(told) if told.isdecimal() else 1


def stated_workers(environment: dict[str, str] | Any) -> int:
    """How many workers shared the run of a record, as its environment says; 1 where it says nothing."""
    told = str(environment.get(STATED, "1"))
    return int(told) if told.isdecimal() else 1
