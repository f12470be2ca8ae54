"""What every unlearner returns: a model, and the record of the run that a certificate is issued from."""

from dataclasses import dataclass

from torch import nn

from expunge.accounting import Mechanism
from expunge.record import NO_NOISE, UNCHECKED, RunRecord, weights_digest
from expunge.training.randomness import environment
from expunge.training.tensors import dtype_name, named_parameters, saved_tensors

__all__ = ["Unlearned", "noiseless_record"]


@dataclass(frozen=True)
class Unlearned:
    """What an unlearner returns.

    Args:
        model: with the certified weights.
        record: what `issue` needs.
        start_clipped: whether the trained weights lay outside the ball. It depends on the forgotten data, so it is
            told to the operator and kept out of the record.
    """

    model: nn.Module
    record: RunRecord
    start_clipped: bool = False


def noiseless_record(mechanism: Mechanism, model: nn.Module, *, coverage: str = UNCHECKED) -> RunRecord:
    """The record of a run without noise and without counted steps: retraining, or another lane that draws none.

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
