"""The executors: for each mechanism the steps that it is a proof of."""

from collections.abc import Callable, Iterator
from types import MappingProxyType

from expunge.accounting import (
    BlockwiseGradientClipping,
    GradientClipping,
    Mechanism,
    ModelClipping,
    OutputPerturbation,
    ScheduledGradientClipping,
)
from expunge.unlearners.blockwise_gradient_clipping import blockwise_gradient_clipping
from expunge.unlearners.gradient_clipping import gradient_clipping
from expunge.unlearners.model_clipping import model_clipping
from expunge.unlearners.output_perturbation import output_perturbation
from expunge.unlearners.scheduled_gradient_clipping import scheduled_gradient_clipping

__all__ = ["EXECUTORS"]

# Retraining has no entry: it starts from a fresh model and is `unlearners.retrain`.
EXECUTORS: MappingProxyType[type[Mechanism], Callable[..., Iterator[int]]] = MappingProxyType(
    {
        GradientClipping: gradient_clipping,
        ScheduledGradientClipping: scheduled_gradient_clipping,
        BlockwiseGradientClipping: blockwise_gradient_clipping,
        ModelClipping: model_clipping,
        OutputPerturbation: output_perturbation,
    }
)
