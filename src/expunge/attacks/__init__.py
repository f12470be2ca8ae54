"""Attacks that make the scores for audits (torch): they run mechanisms and train shadow models, many at once."""

from expunge.attacks.arena import Arena
from expunge.attacks.distances import distances
from expunge.attacks.job import Effort, audit_task
from expunge.attacks.membership import membership
from expunge.attacks.one_training import canaries
from expunge.attacks.worlds import two_worlds

__all__ = ["Arena", "Effort", "audit_task", "canaries", "distances", "membership", "two_worlds"]
