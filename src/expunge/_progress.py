"""Progress bars: for work longer than a second, and only on a terminal."""

import time
from collections.abc import Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["track"]

T = TypeVar("T")
_PATIENCE = 1.0  # seconds


def track(steps: Iterator[T], *, total: int | None, label: str) -> Iterator[T]:
    """Pass `steps` through, drawing a bar on standard error once they have taken a second.

    The bar shows counts and time only: losses between noisy steps are secret.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from steps
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    task = bar.add_task(label, total=total)
    begun, shown = time.monotonic(), False
    try:
        for done, step in enumerate(steps, start=1):
            yield step
            if not shown and time.monotonic() - begun > _PATIENCE:
                bar.start()
                shown = True
            bar.update(task, completed=done)
    finally:
        bar.stop()
