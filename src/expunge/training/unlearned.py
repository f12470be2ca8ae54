"""What every unlearner returns: a model, and the record of the run that a certificate is issued from."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.accounting import Mechanism
from expunge.data import Examples
from expunge.errors import RunError
from expunge.record import NO_NOISE, UNCHECKED, RunRecord, weights_digest
from expunge.training.randomness import environment, mode
from expunge.training.tensors import dtype_name, named_parameters, saved_tensors

__all__ = ["Unlearned", "noiseless_record"]


@dataclass(frozen=True)
class Unlearned:
    """What an unlearner returns.

    Args:
        model: what is released: with the certified weights, or with those after recovery.
        record: what `issue` needs.
        start_clipped: whether the trained weights lay outside the ball. It depends on the forgotten data, so it is
            told to the operator and kept out of the record.
        certified: with the certified weights, where `model` was trained on after them.
        features: the map from rows to what `model` takes, where it is a head; None where it takes the rows.
        saver: what `save` calls; set by a run on a task.
        notes: what is particular to this run beside the certificate, JSON-ready.
        told: the same for the operator, in sentences: what the accuracy means, what else holds the forgotten rows.
    """

    model: nn.Module
    record: RunRecord
    start_clipped: bool = False
    certified: nn.Module | None = None
    features: Callable[[Tensor], Tensor] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    told: tuple[str, ...] = ()
    saver: Callable[[Path], Any] | None = None

    def save(self, folder: str | os.PathLike[str]) -> Any:
        """Write weights, certificate and report into a new folder, keys into `<folder>.secret`; returns the certificate.

        Raises:
            OutputError: the folder exists, or something cannot be written.
            RunError: the run was of a model alone, without a task: use `issue`.
        """
        if self.saver is None:
            raise RunError(
                "this run knows no task, hence no forget set to commit to: use expunge.issue(done.record, ...)"
            )
        return self.saver(Path(folder))

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def predict(self, rows: Examples | Tensor) -> Tensor:
        """The model's scores for rows, in their order: (n, classes) for a classifier.

        Args:
            rows: `Examples` whose first tensor is the input, or that tensor.
        """
        x = rows.tensors[0] if isinstance(rows, Examples) else rows
        with mode(self.model, training=False):
            return torch.cat([self._scores(part) for part in x.split(1024)])

    def _scores(self, x: Tensor) -> Tensor:
        if self.features is None:
            return self.model(x)
        return self.model(self.features(x).double())


def noiseless_record(mechanism: Mechanism, model: nn.Module, *, coverage: str = UNCHECKED) -> RunRecord:
    """The record of a run without noise and without counted steps: retraining, or another unlearner that draws none.

    Args:
        mechanism: that was run.
        model: with its output.
        coverage: how it was checked that no forgotten row took part, see `RunRecord`.
    """
    first = next(model.parameters())
    held = dict(named_parameters(model))
    estimated = tuple(name for name in saved_tensors(model) if name not in held)
    return RunRecord(
        mechanism=mechanism,
        steps_done=0,
        noise=NO_NOISE,
        layers=tuple((name, p.numel()) for name, p in held.items() if p.numel()),
        weights_dtype=dtype_name(first.dtype),
        center="zero",
        buffers="reset" if estimated else "none",
        public=(),
        certified=weights_digest(model),
        environment=environment(first.device),
        estimated=estimated,
        coverage=coverage,
    )
