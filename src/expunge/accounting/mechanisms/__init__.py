"""The closed table of mechanisms: one file for each theorem. A verifier trusts these names and no others."""

from types import MappingProxyType

from expunge.accounting.mechanisms.blockwise_gradient_clipping import BlockwiseGradientClipping
from expunge.accounting.mechanisms.dp_training import DPTraining
from expunge.accounting.mechanisms.exact_ridge import ExactRidge
from expunge.accounting.mechanisms.gradient_clipping import GradientClipping
from expunge.accounting.mechanisms.grid_ridge import GridRidge
from expunge.accounting.mechanisms.measured_residual import MeasuredResidual
from expunge.accounting.mechanisms.model_clipping import ModelClipping
from expunge.accounting.mechanisms.output_perturbation import OutputPerturbation
from expunge.accounting.mechanisms.prune import Prune
from expunge.accounting.mechanisms.replay import Replay
from expunge.accounting.mechanisms.retrain import Retrain
from expunge.accounting.mechanisms.scheduled_gradient_clipping import ScheduledGradientClipping
from expunge.accounting.mechanisms.undeclared_features import UndeclaredFeatures
from expunge.accounting.mechanisms.unproven import Unproven
from expunge.accounting.protocol import Mechanism

__all__ = [
    "MECHANISMS",
    "WITHDRAWN",
    "BlockwiseGradientClipping",
    "DPTraining",
    "ExactRidge",
    "GradientClipping",
    "GridRidge",
    "MeasuredResidual",
    "ModelClipping",
    "OutputPerturbation",
    "Prune",
    "Replay",
    "Retrain",
    "ScheduledGradientClipping",
    "UndeclaredFeatures",
    "Unproven",
]

MECHANISMS: MappingProxyType[str, type[Mechanism]] = MappingProxyType(
    {
        mechanism.name: mechanism
        for mechanism in (
            GradientClipping,
            ScheduledGradientClipping,
            BlockwiseGradientClipping,
            ModelClipping,
            OutputPerturbation,
            Retrain,
            DPTraining,
            ExactRidge,
            GridRidge,
            MeasuredResidual,
            Replay,
            UndeclaredFeatures,
            Prune,
            Unproven,
        )
    }
)

WITHDRAWN: MappingProxyType[str, str] = MappingProxyType({ExactRidge.name: ExactRidge.withdrawn})
"""By name: why a mechanism is no longer issued. Certificates of schema 1 that carry it verify as they did."""
