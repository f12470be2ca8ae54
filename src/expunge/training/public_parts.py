"""New models of a task whose public parts are those of the public checkpoint, and stay so."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from expunge.errors import ModelRefused
from expunge.training.task import Task
from expunge.training.tensors import named_buffers, named_parameters
from expunge.training.weights import public_names

__all__ = ["keeping_public"]


@contextmanager
def keeping_public(task: Task) -> Generator[Task]:
    """The task with a builder of models that start from its centre and hold its public parts, which no training moves.

    Public parameters are frozen; public statistics that a training has moved are put back at the end.

    Raises:
        ModelRefused: `make_model` builds no tensor of a public name and shape.
    """
    if task.make_model is None or not (task.public or task.center is not None):
        yield task
        return
    names = set(public_names(task.model, task.public))
    held = {name: t for name, t in (*named_parameters(task.model), *named_buffers(task.model)) if name in names}
    built: list[nn.Module] = []
    yield replace(task, make_model=partial(_built, task.make_model, task.center, held, built))
    if built:
        _put(built[-1], held)


def _built(
    make_model: Callable[[], nn.Module], center: Any, held: dict[str, Tensor], built: list[nn.Module]
) -> nn.Module:
    model = make_model()
    if center is not None:
        state = center.state_dict() if isinstance(center, nn.Module) else center
        model.load_state_dict(cast("Any", state), strict=False)
    for name, parameter in named_parameters(model):
        if name in held:
            parameter.requires_grad_(False)
    _put(model, held)
    built.append(model)
    return model


def _put(model: nn.Module, held: dict[str, Tensor]) -> None:
    own = dict((*named_parameters(model), *named_buffers(model)))
    with torch.no_grad():
        for name, tensor in held.items():
            if name not in own or own[name].shape != tensor.shape:
                raise ModelRefused(f"make_model builds no '{name}' of shape {tuple(tensor.shape)}, which is public")
            own[name].copy_(tensor)
