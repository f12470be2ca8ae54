"""What is proven: floats in, upper bounds out. No torch, no files, no randomness."""

from expunge.accounting.calibrate import calibrate, fewest_steps, meets
from expunge.accounting.composition import (
    Remaining,
    compose,
    group_epsilon_delta,
    group_mu,
    remaining,
    requests_left,
)
from expunge.accounting.guarantee import Budget, Guarantee, Kind, Mechanism, Relation, delta_at, guarantee, interval
from expunge.accounting.mechanisms import (
    MECHANISMS,
    BlockwiseGradientClipping,
    DPTraining,
    ExactRidge,
    GradientClipping,
    MeasuredResidual,
    ModelClipping,
    OutputPerturbation,
    Replay,
    Retrain,
    ScheduledGradientClipping,
    UndeclaredFeatures,
)
from expunge.accounting.spending import best_schedule, best_steps, frontier

__all__ = [
    "MECHANISMS",
    "BlockwiseGradientClipping",
    "Budget",
    "DPTraining",
    "ExactRidge",
    "GradientClipping",
    "Guarantee",
    "Kind",
    "MeasuredResidual",
    "Mechanism",
    "ModelClipping",
    "OutputPerturbation",
    "Relation",
    "Remaining",
    "Replay",
    "Retrain",
    "ScheduledGradientClipping",
    "UndeclaredFeatures",
    "best_schedule",
    "best_steps",
    "calibrate",
    "compose",
    "delta_at",
    "fewest_steps",
    "frontier",
    "group_epsilon_delta",
    "group_mu",
    "guarantee",
    "interval",
    "meets",
    "remaining",
    "requests_left",
]
