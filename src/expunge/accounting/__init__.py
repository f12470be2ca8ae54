"""What is proven: floats in, upper bounds out. No torch, no files, no randomness."""

from expunge.accounting.bounds import delta_at, guarantee, interval
from expunge.accounting.calibration import calibrate, fewest_steps, meets
from expunge.accounting.claims import (
    BehaviouralClaim,
    Bound,
    Budget,
    Claim,
    EpsilonDeltaClaim,
    ExactClaim,
    Kind,
    NoClaim,
    Relation,
    numbers_of,
)
from expunge.accounting.composition import (
    Remaining,
    compose,
    remaining,
    requests_left,
)
from expunge.accounting.groups import group_epsilon_delta, group_mu
from expunge.accounting.mechanisms import (
    MECHANISMS,
    WITHDRAWN,
    BlockwiseGradientClipping,
    DPTraining,
    ExactRidge,
    GradientClipping,
    GridRidge,
    MeasuredResidual,
    ModelClipping,
    OutputPerturbation,
    Replay,
    Retrain,
    ScheduledGradientClipping,
    UndeclaredFeatures,
)
from expunge.accounting.protocol import Mechanism
from expunge.accounting.spending import best_schedule, best_steps, frontier

__all__ = [
    "MECHANISMS",
    "WITHDRAWN",
    "BehaviouralClaim",
    "BlockwiseGradientClipping",
    "Bound",
    "Budget",
    "Claim",
    "DPTraining",
    "EpsilonDeltaClaim",
    "ExactClaim",
    "ExactRidge",
    "GradientClipping",
    "GridRidge",
    "Kind",
    "MeasuredResidual",
    "Mechanism",
    "ModelClipping",
    "NoClaim",
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
    "numbers_of",
    "remaining",
    "requests_left",
]
