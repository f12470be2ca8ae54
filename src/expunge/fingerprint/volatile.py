"""What gives another answer at every call, whatever was seeded: clocks, the system's coins, and code found at run time."""

import importlib
import os
import random
import secrets
import sys
import time
import uuid
from typing import Any, cast

import numpy as np
import torch

__all__ = ["COINS", "SEEDED", "reason", "reason_unseeded"]

COINS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
"""Types whose objects have a state of their own."""

# The global generators, which are seeded before every step: see `coins.seed_globals`.
SEEDED: tuple[object, ...] = (cast("Any", random)._inst, cast("Any", np.random).mtrand._rand, torch.default_generator)

_CLOCK = "a clock, or what follows one"
_SYSTEM = "the system's coins, which no step seeds"
_LATER = "code that is found at run time only"
_REASONS: tuple[tuple[object, str], ...] = (
    *((getattr(time, name), _CLOCK) for name in (
        "time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time",
        "process_time_ns", "thread_time", "thread_time_ns",
    )),
    *((getattr(secrets, name), _SYSTEM) for name in secrets.__all__),
    *((thing, _SYSTEM) for thing in (os.urandom, random.SystemRandom, uuid.uuid1, uuid.uuid4)),
    *((thing, _LATER) for thing in (
        eval, exec, compile, __import__, importlib.import_module, importlib.reload, sys.modules,
    )),
)  # fmt: skip
_NEED_SEEDS = (
    np.random.default_rng, np.random.RandomState, np.random.SeedSequence, np.random.PCG64, np.random.PCG64DXSM,
    np.random.MT19937, np.random.Philox, np.random.SFC64, random.Random,
)  # fmt: skip
_UNSEEDED = "unseeded here: without a seed it takes the system's coins"


def reason(value: object) -> str | None:
    """Why something of a library cannot be part of code that is to be run again; None where it can."""
    return next((why for thing, why in _REASONS if value is thing), None)


def reason_unseeded(value: object) -> str | None:
    """Likewise of something that is called without an argument."""
    return _UNSEEDED if any(value is thing for thing in _NEED_SEEDS) else None
