"""Many runs at once: seeds, splits and hyper-parameters as the leading axis. For experiments, sweeps and audits.

A run here has no record and no certificate; `unlearn` makes those, one run at a time, with the same executors.
"""

from expunge.replicates.rows import Rows, RunBatches, crops, rotations
from expunge.replicates.stack import Stack
from expunge.replicates.verbs import accuracy_runs, recover_runs, unlearn_runs

__all__ = ["Rows", "RunBatches", "Stack", "accuracy_runs", "crops", "recover_runs", "rotations", "unlearn_runs"]
