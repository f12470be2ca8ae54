"""The null start: a model that never saw data, the control of every experiment with a noisy mechanism."""

import copy
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from expunge.training.peft_layers import refuse_zero_centre
from expunge.training.statistics import reset_
from expunge.training.weights import FlatWeights

__all__ = ["null_start"]


def null_start(
    model: nn.Module,
    *,
    public: Sequence[str] = (),
    buffers: Literal["refuse", "reset"] = "refuse",
    center: nn.Module | dict[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of `model` at the centre of the ball: the start that never saw any data.

    Put through the same `unlearn` and `recover`, it is the control of every experiment: a certificate that covers the
    whole ball covers this start too, so the trained start can beat it only within the bound.

    Raises:
        ModelRefused: the model has adapters and there is no centre: at zero no gradient would reach them.
    """
    if center is None:
        refuse_zero_centre(model)
    work = copy.deepcopy(model)
    weights = FlatWeights(work, public=public, center=center, reset_buffers=buffers == "reset")
    weights.theta.zero_()
    reset_(weights.norms)
    weights.release()
    return work
