"""What is proven: floats in, upper bounds out. No torch, no files, no randomness."""

from expunge.accounting.calibrate import calibrate, fewest_steps, meets
from expunge.accounting.guarantee import Budget, Guarantee, Kind, Mechanism, Relation, delta_at, guarantee, interval
from expunge.accounting.mechanisms import (
    MECHANISMS,
    GradientClipping,
    ModelClipping,
    OutputPerturbation,
    Retrain,
    ScheduledGradientClipping,
)
from expunge.accounting.spending import best_schedule, best_steps, frontier

__all__ = [
    "MECHANISMS",
    "Budget",
    "GradientClipping",
    "Guarantee",
    "Kind",
    "Mechanism",
    "ModelClipping",
    "OutputPerturbation",
    "Relation",
    "Retrain",
    "ScheduledGradientClipping",
    "best_schedule",
    "best_steps",
    "calibrate",
    "delta_at",
    "fewest_steps",
    "frontier",
    "guarantee",
    "interval",
    "meets",
]
