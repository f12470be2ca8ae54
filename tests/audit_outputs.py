"""Outputs of models, as audits compare them."""

import numpy as np


def outputs(shift=0.0, scale=1.0, models=64, n=40, seed=0):
    """Of models on examples of different difficulty; another seed is another set of models, on the same examples."""
    difficulty = np.random.default_rng(99).normal(0, 3, n)
    return difficulty + shift + scale * np.random.default_rng(seed).normal(size=(models, n))
