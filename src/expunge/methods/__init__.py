"""What is run (torch): the only room that changes weights under a guarantee. One executor for each mechanism."""

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
from expunge.methods.blockwise_gradient_clipping import blockwise_gradient_clipping, layer_sizes
from expunge.methods.gradient_clipping import gradient_clipping
from expunge.methods.model_clipping import model_clipping
from expunge.methods.noise import Noise
from expunge.methods.output_perturbation import output_perturbation
from expunge.methods.scheduled_gradient_clipping import scheduled_gradient_clipping
from expunge.methods.weights import FlatWeights, clip_
from expunge.randomness.generators import secret_generator

__all__ = [
    "EXECUTORS",
    "FlatWeights",
    "Noise",
    "blockwise_gradient_clipping",
    "clip_",
    "gradient_clipping",
    "layer_sizes",
    "model_clipping",
    "output_perturbation",
    "scheduled_gradient_clipping",
    "secret_generator",
]

# Retraining has no entry: it starts from a fresh model and is `pipeline.retrain`.
EXECUTORS: MappingProxyType[type[Mechanism], Callable[..., Iterator[int]]] = MappingProxyType(
    {
        GradientClipping: gradient_clipping,
        ScheduledGradientClipping: scheduled_gradient_clipping,
        BlockwiseGradientClipping: blockwise_gradient_clipping,
        ModelClipping: model_clipping,
        OutputPerturbation: output_perturbation,
    }
)
