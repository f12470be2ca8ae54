"""The settings of all lanes: one list, with defaults and a line on each, for every command that runs or compares lanes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from expunge.accounting import (
    MECHANISMS,
    Budget,
    ExactRidge,
    GradientClipping,
    MeasuredResidual,
    Mechanism,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Replay,
    Retrain,
    calibrate,
)

__all__ = ["FAMILIES", "HEADS", "LANES", "Noisy", "Settings"]

# The mechanisms whose settings fit on a command line; the others are for the library.
FAMILIES: Mapping[str, Any] = {m.name: m for m in (GradientClipping, ModelClipping, OutputPerturbation)}
HEADS = (ExactRidge.name, MeasuredResidual.name)
LANES = (*FAMILIES, Retrain.name, *HEADS, Replay.name)


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Of the noisy mechanisms; each takes those that it knows."""

    init_clip: float = field(
        default=0.5, metadata={"help": "Radius of the start (fixed without looking at the model)."}
    )
    grad_clip: float = field(default=1.0, metadata={"help": "Radius of each minibatch gradient."})
    model_clip: float = field(default=0.5, metadata={"help": "Radius of the weights after each step."})
    learning_rate: float = field(default=0.01, metadata={"help": "Learning rate of the noisy steps."})
    weight_decay: float = field(default=20.0, metadata={"help": "Decay towards the centre in the noisy steps."})
    steps: int = field(default=50, metadata={"help": "Number of noisy steps."})

    def calibrated(self, name: str, budget: Budget, relation: Relation) -> Mechanism:
        """The mechanism of this name with the least noise that meets a budget.

        Raises:
            ValueError: it is none of `FAMILIES`, or a field is out of its range.
            BudgetUnreachable: no noise meets the budget.
        """
        if name == Retrain.name:
            raise ValueError("retrain meets every budget and has nothing to calibrate")
        if name not in FAMILIES:
            library = " (from Python: expunge.calibrate)" if name in MECHANISMS else ""
            raise ValueError(f"mechanism must be one of {', '.join(FAMILIES)}, not {name!r}{library}")
        family = FAMILIES[name]
        known = {f.name for f in fields(family)}
        used = {f.name: getattr(self, f.name) for f in fields(self) if f.name in known}
        return calibrate(lambda s: family(**used, noise_std=s), budget, relation=relation)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of every lane; each takes those that it knows."""

    noisy: Noisy = Noisy()
    epochs: float = field(default=5, metadata={"help": "Recovery (or retraining): epochs."})
    recovery_lr: float = field(default=0.1, metadata={"help": "Recovery (or retraining): peak learning rate."})
    optimizer: str = field(default="sgd", metadata={"help": "Recovery (or retraining): sgd or adamw."})
    batch_size: int = field(default=128, metadata={"help": "Examples a batch."})
    rescale: bool = field(default=True, metadata={"help": "Recovery: first rescale layers."})
    ridge: float = field(default=1.0, metadata={"help": "Exact head: ridge."})
    grid: float = field(
        default=2.0**-12,
        metadata={"help": "Exact head: public step to which features are rounded, so that sums are whole numbers."},
    )
    loss: str = field(default="logistic", metadata={"help": "Convex head: logistic, squared or smooth_hinge."})
    regularization: float = field(default=1e-4, metadata={"help": "Convex head: lambda of its objective."})
    residual: float = field(
        default=1e-9, metadata={"help": "Convex head: the largest norm of the gradient where it stops."}
    )
    head: Path | None = field(default=None, metadata={"help": "Heads: the folder of the last call, to forget from."})
    trace: Path | None = field(
        default=None, metadata={"help": "Replay: the folder of a traced training, of one model or of shards."}
    )

    def refuse_foreign(self, lane: str) -> None:
        """Raise `ValueError` where a folder is named that the lane takes none of, or it lacks the one that it needs."""
        if lane not in LANES:
            raise ValueError(f"mechanism must be one of {', '.join(LANES)}, not {lane!r}")
        for name, takers in {"head": HEADS, "trace": (Replay.name,)}.items():
            given = getattr(self, name)
            if given is not None and lane not in takers:
                raise ValueError(
                    f"mechanism {lane!r} takes no --{name}, {given} was given; {', '.join(takers)} take one"
                )
        if lane == Replay.name and self.trace is None:
            raise ValueError(f"mechanism {lane!r} needs --trace: the folder of train_traced or train_shards")

    def for_lane(self, lane: str) -> "Settings":
        """These settings less the folders that a lane takes none of."""
        return replace(
            self, head=self.head if lane in HEADS else None, trace=self.trace if lane == Replay.name else None
        )

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, by name."""
        return {
            f.name: getattr(part, f.name)
            for part in cast("tuple[Any, ...]", (self.noisy, self))
            for f in fields(part)
            if f.metadata and getattr(part, f.name) != f.default
        }
