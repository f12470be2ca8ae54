"""Rewind and shards: training that leaves a trace from which any record can be forgotten exactly, for any network."""

from expunge.trace.checkpoint_placement import best_checkpoints, expected_shard_steps, expected_steps, first_uses
from expunge.trace.rewinding import Rewound, rewind
from expunge.trace.schedule import Schedule
from expunge.trace.shards import Ensemble, RewoundShards, Serves, Shards, ShardsCost, train_shards
from expunge.trace.trace import Cost, Trace, cost, train_traced

__all__ = [
    "Cost",
    "Ensemble",
    "Rewound",
    "RewoundShards",
    "Schedule",
    "Serves",
    "Shards",
    "ShardsCost",
    "Trace",
    "best_checkpoints",
    "cost",
    "expected_shard_steps",
    "expected_steps",
    "first_uses",
    "rewind",
    "train_shards",
    "train_traced",
]
