"""One function an unlearner: what is kept from the training is made first, then the clock runs from the request to the model."""

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import expunge as ex
from compared.sets import BUDGET, Case, loss
from expunge.accounting import Mechanism
from expunge.certificate.record import RunRecord
from expunge.trace import train_shards, train_traced

__all__ = ["UNLEARNERS", "Outcome", "outcomes"]

SHARDS, SLICES = 5, 4
_AT_ONCE = 8192  # rows


@dataclass
class Outcome:
    """What an unlearner made of a request.

    Args:
        scores: of rows x, shape (n, classes).
        seconds: from the request to the released model.
        mechanism: None where nothing is proven.
        record: of the run, for a certificate; with the module that is released.
        kept: bytes kept from the training for requests, besides model and data.
        reads: what the request reads.
        one_row: seconds for a single row, where they were measured and are others.
    """

    scores: Callable[[Tensor], Tensor]
    seconds: float
    mechanism: Mechanism | None = None
    record: tuple[RunRecord, nn.Module] | None = None
    kept: int = 0
    reads: str = "retained data"
    one_row: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Seconds inside `running`."""

    seconds = 0.0

    @contextmanager
    def running(self) -> Generator[None]:
        """Count what is done inside."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun


def nothing(case: Case) -> Outcome:
    """The original model: the control that must be caught."""
    return Outcome(case.original, 0.0, reads="nothing")


def retraining(case: Case) -> Outcome:
    """From scratch, for as long as the original."""
    clock = Clock()
    with clock.running():
        done = case.trained(case.retain, 4)
    return Outcome(done.model, clock.seconds, done.record.mechanism, (done.record, done.model))


def retraining_shortly(case: Case) -> Outcome:
    """From scratch, for as many steps as the noisy methods take in all."""
    s = case.setting
    most = max(m.gradient_steps for m in s.mechanisms().values())
    clock = Clock()
    with clock.running():
        done = case.trained(case.retain, 5, s.recovery_epochs + most * s.recipe.batch_size / len(case.retain))
    return Outcome(done.model, clock.seconds, done.record.mechanism, (done.record, done.model))


def noisy(name: str, case: Case, *, null: bool = False) -> Outcome:
    """A noisy method and recovery, from the original or from its null start, which never saw data."""
    s, clock = case.setting, Clock()
    mechanism = s.mechanisms()[name]
    start = ex.unlearners.null_start(case.original) if null else case.original
    with clock.running():
        done = ex.unlearn(start, case.retain, mechanism, loss=loss, generator=case.coins(6))
        model = ex.recovery.recover(
            done.model, case.retain, loss=loss, epochs=s.recovery_epochs, recipe=s.recipe, rescale=True,
            generator=case.coins(7),
        )  # fmt: skip
    return Outcome(model, clock.seconds, None if null else mechanism, (done.record, model))


def exact_head(case: Case) -> Outcome:
    """Sums over a row's numbers and random features of them; a request subtracts its rows."""
    s, clock, once = case.setting, Clock(), Clock()
    layer = s.layer()
    head = ex.heads.AnalyticHead(ridge=1.0, classes=s.classes, provenance=f"{s.source}; {layer.provenance}")
    for rows in (case.retain, case.forget):
        for part in _parts(rows):
            head.learn(_with_one(layer(part.tensors[0])), part.tensors[1], ids=part.ids)
    with tempfile.TemporaryDirectory() as folder:
        head.save(Path(folder) / "head.state")
        kept = (Path(folder) / "head.state").stat().st_size
    x, y = case.forget.tensors
    with clock.running():
        head.forget(_with_one(layer(x)), y, ids=case.forget.ids)
        done = head.unlearned()
    weights = head.weights
    row = case.retain.take([0])
    with once.running():
        head.forget(_with_one(layer(row.tensors[0])), row.tensors[1], ids=row.ids)
        _ = head.weights

    def scores(x: Tensor) -> Tensor:
        return torch.cat([_with_one(layer(part)) @ weights for part in x.split(_AT_ONCE)])

    return Outcome(
        scores, clock.seconds, done.record.mechanism, (done.record, done.model), kept=kept,
        reads="sums and forgotten rows", one_row=once.seconds, details={"features": layer.width},
    )  # fmt: skip


def convex_head(case: Case) -> Outcome:
    """A logistic head, brought to the retained rows from where it stands, with noise."""
    s, clock, once = case.setting, Clock(), Clock()
    head = ex.heads.ConvexHead(
        loss="logistic", regularization=s.regularization, classes=s.classes, residual=s.residual, noise_std=BUDGET,
        provenance=s.provenance,
    )  # fmt: skip
    learned = _wide(case, case.learned)
    head.fit(learned, generator=case.coins(8))
    with tempfile.TemporaryDirectory() as folder:
        head.save(Path(folder) / "head.state")
        kept = (Path(folder) / "head.state").stat().st_size
    del learned
    with clock.running():
        done = head.unlearn(_wide(case, case.retain), ex.Request.rows(case.forget.ids), generator=case.coins(9))
    row = case.retain.take([0])
    with once.running():
        head.unlearn(_wide(case, case.retain), ex.Request.rows(row.ids), generator=case.coins(10))
    return Outcome(
        lambda x: done.model(s.features(x)), clock.seconds, done.record.mechanism, (done.record, done.model),
        kept=kept, reads="retained features", one_row=once.seconds,
    )  # fmt: skip


def rewinding(case: Case) -> Outcome:
    """Replay of a traced training."""
    s, clock, once = case.setting, Clock(), Clock()
    steps = len(case.learned) // s.recipe.batch_size
    with tempfile.TemporaryDirectory() as folder:
        trace = train_traced(
            s.make_model, case.learned, loss=loss, epochs=s.epochs, steps_per_epoch=steps, folder=folder, recipe=s.recipe,
            key=bytes([case.seed + 1] * 32),
        )  # fmt: skip
        kept, expected = trace.storage, trace.expected_steps() / (s.epochs * steps)
        with clock.running():
            done = ex.trace.rewind(trace, case.forget.ids, case.learned, make_model=s.make_model, loss=loss)
        row = case.retain.ids[:1]
        with once.running():
            ex.trace.rewind(trace, row, case.retain, make_model=s.make_model, loss=loss)
    return Outcome(
        done.model, clock.seconds, done.record.mechanism, (done.record, done.model), kept=kept, one_row=once.seconds,
        reads="retained data, checkpoints", details={"replayed": done.cost.fraction, "one row, expected": expected},
    )  # fmt: skip


def sharding(case: Case) -> Outcome:
    """Five models on a fifth of the rows each, in four slices; as many gradients in training as the one model takes."""
    s, clock, once = case.setting, Clock(), Clock()
    passes = round(s.epochs * 2 / (SLICES + 1))
    with tempfile.TemporaryDirectory() as folder:
        shards = train_shards(
            s.make_model, case.learned, loss=loss, shards=SHARDS, slices=SLICES, epochs_per_slice=passes,
            steps_per_epoch=len(case.learned) // SHARDS // s.recipe.batch_size, folder=folder, recipe=s.recipe,
            key=bytes([case.seed + 1] * 32),
        )  # fmt: skip
        kept, expected = shards.storage, shards.expected_cost()
        with clock.running():
            done = shards.rewind(case.forget.ids, case.learned, make_model=s.make_model, loss=loss)
        row = case.retain.ids[:1]
        with once.running():
            shards.rewind(row, case.retain, make_model=s.make_model, loss=loss)
    return Outcome(
        done.model, clock.seconds, done.record.mechanism, (done.record, done.model), kept=kept, one_row=once.seconds,
        reads="retained data, checkpoints", details={"replayed": done.cost.fraction, "one row, expected": expected},
    )  # fmt: skip


UNLEARNERS: dict[str, Callable[[Case], Outcome]] = {
    "nothing": nothing,
    "retrain": retraining,
    "retrain_shortly": retraining_shortly,
    "grid_ridge": exact_head,
    "measured_residual": convex_head,
    "replay": rewinding,
    "shards": sharding,
    **{
        name: partial(noisy, name)
        for name in (
            "gradient_clipping", "scheduled_gradient_clipping", "blockwise_gradient_clipping", "model_clipping",
            "output_perturbation",
        )
    },
    "null_start": partial(noisy, "gradient_clipping", null=True),
}  # fmt: skip


def outcomes(case: Case) -> Iterator[tuple[str, Outcome]]:
    """Every unlearner in turn."""
    for name, forget in UNLEARNERS.items():
        yield name, forget(case)


def _parts(rows: ex.Examples) -> Iterator[ex.Examples]:
    """Few enough at once that wide features fit into memory."""
    for start in range(0, len(rows), _AT_ONCE):
        yield rows.take(list(range(start, min(start + _AT_ONCE, len(rows)))))


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)


def _wide(case: Case, rows: ex.Examples) -> ex.Examples:
    x, y = rows.tensors
    return ex.Examples(case.setting.features(x), y, ids=rows.ids)
