"""Policies learned from demonstrations, and a demonstrator as what is forgotten.

Demonstrations are `Examples(states, actions, ids=, groups=)`, a step a row and a demonstrator a group; `cloning` and
`EnergyMatching` are losses of a task, `PersistentEnergyMatching` is a recovery. Every verb and unlearner takes them as they
take any other task: nothing of expunge knows a policy from a classifier.
"""

from expunge.policies.cartpole import Demonstrator, demonstrations, returns
from expunge.policies.energies import EnergyMatching, Langevin, cloning, energy, occupancy_gap
from expunge.policies.persistent import PersistentEnergyMatching
from expunge.policies.scores import action_scores
from expunge.policies.trajectories import by_demonstrator

__all__ = [
    "Demonstrator",
    "EnergyMatching",
    "Langevin",
    "PersistentEnergyMatching",
    "action_scores",
    "by_demonstrator",
    "cloning",
    "demonstrations",
    "energy",
    "occupancy_gap",
    "returns",
]
