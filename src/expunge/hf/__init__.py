"""Fine-tuned transformers: LoRA adapters on a public base, from which persons are forgotten exactly.

Of the extra `hf`: transformers, peft and datasets. Nothing else of expunge imports it.
"""

from expunge.hf.bank import AdapterBank, train_adapters
from expunge.hf.base import PublicBase, check_base
from expunge.hf.keyed import KeyedAdapters, keyed_adapters
from expunge.hf.losses import causal_loss, row_losses
from expunge.hf.making import AdapterMaker
from expunge.hf.rows import examples
from expunge.hf.serving import AdapterMixture, Serving

__all__ = [
    "AdapterBank",
    "AdapterMaker",
    "AdapterMixture",
    "KeyedAdapters",
    "PublicBase",
    "Serving",
    "causal_loss",
    "check_base",
    "examples",
    "keyed_adapters",
    "row_losses",
    "train_adapters",
]
