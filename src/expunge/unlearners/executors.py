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
from expunge.unlearners import (
    blockwise_gradient_clipping,
    gradient_clipping,
    model_clipping,
    output_perturbation,
    scheduled_gradient_clipping,
)

__all__ = ["EXECUTORS"]

# Retraining has no entry: it starts from a fresh model and is made by `train_from_scratch`.
EXECUTORS: MappingProxyType[type[Mechanism], Callable[..., Iterator[int]]] = MappingProxyType(
    {
        GradientClipping: gradient_clipping.noisy_steps,
        ScheduledGradientClipping: scheduled_gradient_clipping.noisy_steps,
        BlockwiseGradientClipping: blockwise_gradient_clipping.noisy_steps,
        ModelClipping: model_clipping.noisy_steps,
        OutputPerturbation: output_perturbation.noisy_steps,
    }
)
