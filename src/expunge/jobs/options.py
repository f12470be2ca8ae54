"""The settings of all lanes: one list, with defaults and a line on each, for every command that runs or compares lanes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from expunge.accounting import (
    MECHANISMS,
    Budget,
    ExactRidge,
    GradientClipping,
    GridRidge,
    MeasuredResidual,
    Mechanism,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Replay,
    Retrain,
    calibrate,
)

__all__ = ["COMPARED", "FAMILIES", "HEADS", "LANES", "TAKES", "Noisy", "Settings", "refuse_extreme", "refuse_options"]

# The mechanisms whose settings fit on a command line; the others are for the library.
FAMILIES: Mapping[str, Any] = {m.name: m for m in (GradientClipping, ModelClipping, OutputPerturbation)}
HEADS = (ExactRidge.name, MeasuredResidual.name)
LANES = (*FAMILIES, Retrain.name, *HEADS, Replay.name)
_SMALLEST, _LARGEST = 1e-100, 1e100
_TRAINING = frozenset({"epochs", "recovery_lr", "optimizer", "batch_size"})


def refuse_extreme(**given: object) -> None:
    """Raise `ValueError` where a number is none, or so large or small that sums and squares of it leave floating point."""
    for name, value in given.items():
        if isinstance(value, float) and not (value == 0.0 or _SMALLEST <= abs(value) <= _LARGEST):
            raise ValueError(
                f"{name} must lie between {_SMALLEST:g} and {_LARGEST:g}, where floating point can be relied on, not {value!r}"
            )


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

    def __post_init__(self) -> None:
        refuse_extreme(**{f.name: getattr(self, f.name) for f in fields(self)})

    def calibrated(self, name: str, budget: Budget, relation: Relation) -> Mechanism:
        """The mechanism of this name with the least noise that meets a budget.

        Raises:
            ValueError: it is none of `FAMILIES`, or a field is out of its range.
            BudgetUnreachable: no noise meets the budget.
        """
        if name in (Retrain.name, ExactRidge.name, GridRidge.name, Replay.name):
            raise ValueError(f"{name} is exact: it meets every budget and has nothing to calibrate")
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

    def __post_init__(self) -> None:
        refuse_extreme(**{f.name: getattr(self, f.name) for f in fields(self)})

    def refuse_foreign(self, lane: str, given: Iterable[str] | None = None) -> None:
        """Raise `ValueError` where an option is given that the lane does not take, or the folder that it needs is not.

        Args:
            lane: one of `LANES`.
            given: names of options that were typed; by default those that differ from the defaults.
        """
        refuse_options(lane, self.changed() if given is None else given)
        if lane == Replay.name and self.trace is None:
            raise ValueError(f"mechanism {lane!r} needs --trace: the folder of train_traced or train_shards")

    def for_lane(self, lane: str) -> "Settings":
        """These settings, with the defaults in place of what a lane takes none of."""
        own = TAKES.get(lane, frozenset[str]())
        noisy = {f.name: getattr(self.noisy, f.name) for f in fields(Noisy) if f.name in own}
        return Settings(noisy=Noisy(**noisy), **{f.name: getattr(self, f.name) for f in fields(self) if f.name in own})

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, by name."""
        return {
            f.name: getattr(part, f.name)
            for part in cast("tuple[Any, ...]", (self.noisy, self))
            for f in fields(part)
            if f.metadata and getattr(part, f.name) != f.default
        }


# Which options each mechanism takes; whatever else is given with it is refused.
TAKES: Mapping[str, frozenset[str]] = {
    **{
        name: frozenset({f.name for f in fields(Noisy)} & {f.name for f in fields(family)})
        | _TRAINING
        | {"rescale", "relation"}
        for name, family in FAMILIES.items()
    },
    Retrain.name: _TRAINING | {"relation"},
    ExactRidge.name: frozenset({"ridge", "grid", "head"}),
    MeasuredResidual.name: frozenset({"loss", "regularization", "residual", "head"}),
    Replay.name: frozenset({"trace"}),
}
# What a comparison of all lanes reads, whichever is taken.
COMPARED = frozenset({f.name for f in fields(Noisy)}) | {"epochs", "batch_size", "ridge", "grid", "head", "trace"}


def refuse_options(lane: str, given: Iterable[str], *, also: Iterable[str] = ()) -> None:
    """Raise `ValueError` unless the mechanism takes all options that are given, of those that any mechanism takes.

    Args:
        lane: one of `LANES`.
        given: names, as fields are called.
        also: names that are of use whatever the mechanism.
    """
    if lane not in LANES:
        raise ValueError(f"mechanism must be one of {', '.join(LANES)}, not {lane!r}")
    known = frozenset[str]().union(*TAKES.values())
    foreign = [name for name in given if name in known - TAKES[lane] - set(also)]
    if foreign:
        name = foreign[0]
        takers = [other for other, own in TAKES.items() if name in own]
        raise ValueError(
            f"mechanism {lane!r} takes no {_option(name)}, which was given and would do nothing; "
            f"{', '.join(takers)} {'takes' if len(takers) == 1 else 'take'} it"
            + "".join(f"; nor {_option(other)}" for other in foreign[1:])
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
