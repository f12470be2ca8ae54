"""The closed table of ways to unlearn: plan, run, audit, compare and the command line are made from it."""

import logging
from types import MappingProxyType
from typing import Any

from expunge.accounting import Mechanism
from expunge.unlearners.blockwise_gradient_clipping import BlockwiseGradientClipping
from expunge.unlearners.dp_training import PrivateTraining
from expunge.unlearners.gradient_clipping import GradientClipping
from expunge.unlearners.grid_ridge import ExactHead
from expunge.unlearners.measured_residual import NoisyHead
from expunge.unlearners.model_clipping import ModelClipping
from expunge.unlearners.options import options_of
from expunge.unlearners.output_perturbation import OutputPerturbation
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.recalled import Procedure, Recalled
from expunge.unlearners.replay import Replaying
from expunge.unlearners.retrain import Retraining
from expunge.unlearners.scheduled_gradient_clipping import ScheduledGradientClipping

__all__ = ["RENAMED", "UNLEARNERS", "made", "options", "recalled"]

_log = logging.getLogger("expunge")

UNLEARNERS: MappingProxyType[str, Any] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            GradientClipping,
            ScheduledGradientClipping,
            BlockwiseGradientClipping,
            ModelClipping,
            OutputPerturbation,
            Retraining,
            ExactHead,
            NoisyHead,
            Replaying,
            PrivateTraining,
        )
    }
)

RENAMED: MappingProxyType[str, str] = MappingProxyType({"exact_ridge": ExactHead.name})
"""Names of earlier versions, by which `made` still finds an unlearner."""


def made(name: str, given: dict[str, Any]) -> Unlearner:
    """The unlearner of a name, with options.

    Args:
        name: of the table; one of an earlier version is taken with a warning.
        given: options by name; those that it does not take are refused.

    Raises:
        ValueError: an unknown name, or an option that it takes none of or whose value is out of range.
    """
    if name in RENAMED:
        _log.warning("the unlearner %r of earlier versions is now called %r, and was taken", name, RENAMED[name])
        name = RENAMED[name]
    if name not in UNLEARNERS:
        raise ValueError(f"unlearner must be one of {', '.join(UNLEARNERS)}, not {name!r}")
    kind = UNLEARNERS[name]
    foreign = [one for one in given if one not in options_of(kind)]
    if foreign:
        takers = [other for other, one in UNLEARNERS.items() if foreign[0] in options_of(one)]
        raise ValueError(
            f"unlearner {name!r} takes no {_typed(foreign[0])}, which was given and would do nothing; "
            f"{', '.join(takers)} {'takes' if len(takers) == 1 else 'take'} it"
            + "".join(f"; nor {_typed(other)}" for other in foreign[1:])
        )
    return kind(**given)


def options(name: str) -> dict[str, Any]:
    """The options of an unlearner of the table, with their defaults."""
    return options_of(UNLEARNERS[name])


def recalled(mechanism: Mechanism, procedure: Procedure) -> Recalled:
    """The unlearner that runs a certificate's mechanism.

    Args:
        mechanism: of the closed table.
        procedure: what is known of the run beside it.

    Raises:
        TypeError: no unlearner of the table runs it.
    """
    for kind in UNLEARNERS.values():
        found: Recalled | None = kind.recalled(mechanism, procedure)
        if found is not None:
            return found
    raise TypeError(f"no unlearner runs {mechanism!r}; known: {', '.join(UNLEARNERS)}")


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
