"""What may follow a certificate without voiding it: training on retained data with a fresh optimiser and fresh coins.

Any computation on the released weights, the retained data, public data and fresh coins is post-processing. Nothing here
takes the original model, its buffers or optimiser state, or the forgotten data. `FineTuning`, `ResilientConstrained`,
`SelfTraining` and, at test time, `AdaBn`, `Tent` and `Cafa` are each a `Recovery`; anybody's own class is another.
"""

from expunge.recovery.constrained import ResilientConstrained
from expunge.recovery.fine_tuning import FineTuning
from expunge.recovery.noisy_label import SelfTraining
from expunge.recovery.progress import Progress
from expunge.recovery.protocol import Recovery
from expunge.recovery.rescale import rescale_
from expunge.recovery.test_time import AdaBn, Cafa, Tent
from expunge.recovery.training import Recipe, training_steps
from expunge.recovery.verbs import recover

__all__ = [
    "AdaBn",
    "Cafa",
    "FineTuning",
    "Progress",
    "Recipe",
    "Recovery",
    "ResilientConstrained",
    "SelfTraining",
    "Tent",
    "recover",
    "rescale_",
    "training_steps",
]
