"""One run on several workers (torch.distributed): who they are, what they agree on, and which part of the weights each holds.

A verb that shares a run computes the same global batches and the same global noise on every worker; `Workers` holds what they
say to each other, `unwrapped` the model under a wrapper. docs/parallel.md says what is shared and what is refused.
"""

from expunge.parallel.models import unwrapped
from expunge.parallel.sharding import sharded
from expunge.parallel.workers import Workers

__all__ = ["Workers", "sharded", "unwrapped"]
