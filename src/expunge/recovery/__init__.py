"""What may follow a certificate without voiding it: training on retained data with a fresh optimiser and fresh coins.

Any computation on the released weights, the retained data, public data and fresh coins is post-processing. Nothing here
takes the original model, its buffers or optimiser state, or the forgotten data.
"""

from expunge.recovery.rescale import rescale_
from expunge.recovery.training import Recipe, training_steps

__all__ = ["Recipe", "rescale_", "training_steps"]
