"""What every unlearner returns: a model, and the record of the run that a certificate is issued from."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge.accounting import Mechanism
from expunge.certificate.digests import weights_digest
from expunge.certificate.record import NO_NOISE, UNCHECKED, RunRecord
from expunge.data import Examples, as_examples
from expunge.data.arrays import as_tensor
from expunge.data.examples import Batch
from expunge.errors import RunError
from expunge.training.randomness import environment, mode
from expunge.training.scores import inputs_of, scores_of
from expunge.training.tensors import dtype_name, named_parameters, saved_tensors

__all__ = ["Unlearned", "noiseless_record"]

Array = NDArray[Any]


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
        keeper: writes what the next request goes on from into a working folder; None where nothing is kept.
        notes: what is particular to this run beside the certificate, JSON-ready.
        recovered: what was done between certified and released weights, in a sentence; "" where it was training on the retained data.
        told: the same for the operator, in sentences: what the accuracy means, what else holds the forgotten rows.
    """

    model: nn.Module
    record: RunRecord
    start_clipped: bool = False
    certified: nn.Module | None = None
    features: Callable[[Tensor], Tensor] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recovered: str = ""
    told: tuple[str, ...] = ()
    saver: Callable[[Path], Any] | None = field(default=None, repr=False)
    keeper: Callable[[Path], None] | None = field(default=None, repr=False)

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
    def predict(self, rows: Examples | Tensor | Array | Mapping[str, Tensor | Array]) -> Tensor:
        """The model's scores for rows, in their order: (n, classes) for a classifier.

        Of rows by position the first tensor is the input. Of rows by name all fields but labels are: one goes to the model
        as it is, several go by their names, `model(input_ids=..., attention_mask=...)`.

        Args:
            rows: `Examples`, by position or by name; or inputs alone, a tensor, a numpy array, or a mapping of them by name.

        Raises:
            TypeError: other rows, only labels among them, several inputs for a head; or a model that returns neither scores
                nor something that has them as `logits`.
        """
        if isinstance(rows, np.ndarray):
            rows = as_tensor("rows", rows)
        batches = rows.split(1024) if isinstance(rows, Tensor) else _batches(rows)
        with mode(self.model, training=False):
            return torch.cat([self._scores(batch) for batch in batches])

    def _scores(self, batch: Batch | Tensor) -> Tensor:
        if self.features is None:
            return scores_of(self.model, batch)
        inputs = inputs_of(batch)
        if isinstance(inputs, dict):
            raise TypeError(f"the features of a head are a map of one input, and {sorted(inputs)} are given")
        return scores_of(self.model, self.features(inputs).double())


def _batches(rows: Any) -> Iterable[Batch]:
    examples = as_examples(rows)
    if examples is None:
        raise TypeError(f"predict takes Examples, or tensors of them, not {type(rows).__name__}")
    return examples.chunks(1024)


def noiseless_record(
    mechanism: Mechanism, model: nn.Module, *, coverage: str = UNCHECKED, workers: int = 1
) -> RunRecord:
    """The record of a run without noise and without counted steps: retraining, or another unlearner that draws none.

    Args:
        mechanism: that was run.
        model: with its output.
        coverage: how it was checked that no forgotten row took part, see `RunRecord`.
        workers: how many shared the run.
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
        environment=environment(first.device, workers),
        estimated=estimated,
        coverage=coverage,
    )
