"""Attacks that make the scores for audits (torch): they run mechanisms and train shadow models, many at once."""

from expunge.attacks.arena import Arena
from expunge.attacks.canaries_of_unlearners import unlearner_canaries
from expunge.attacks.heads import HeadArena, head_membership
from expunge.attacks.one_training import canaries
from expunge.attacks.residual import residual_worlds
from expunge.attacks.shadow_models import membership
from expunge.attacks.task_audit import Effort, audit_task
from expunge.attacks.ununlearning import Questions, in_context, nearest_class_means
from expunge.attacks.weight_distances import distances
from expunge.attacks.worlds import two_worlds

__all__ = [
    "Arena",
    "Effort",
    "HeadArena",
    "Questions",
    "audit_task",
    "canaries",
    "distances",
    "head_membership",
    "in_context",
    "membership",
    "nearest_class_means",
    "residual_worlds",
    "two_worlds",
    "unlearner_canaries",
]
