"""What a run must leave as it is: the modules of a model, their attributes, and its public parts."""

import hashlib
import logging
from collections.abc import Collection

import torch
from torch import Tensor, nn

from expunge.errors import ModelRefused, RunError
from expunge.parallel.sharding import local
from expunge.training.hidden_states import Known, attributes, held_in, hidden_state
from expunge.training.tensors import named_buffers, named_modules, named_parameters, plain_name

__all__ = ["Watch"]

_log = logging.getLogger("expunge")


class Watch:
    """What a model held at the start, to be found again after every step and at release.

    Args:
        model: every check of `FlatWeights` is behind it.
        covered: names of its covered parameters; of one with several names the first.
        estimated: names of buffers that the run may change.
    """

    def __init__(self, model: nn.Module, covered: Collection[str], *, estimated: Collection[str]) -> None:
        self.model = model
        self._known = Known(model)
        self._structure = _structure(model)
        self._attributes = [(prefix, module, attributes(module)) for prefix, module in named_modules(model)]
        self._estimated = frozenset(estimated)
        self._buffers = {name: _digest(b) for name, b in named_buffers(model) if name not in self._estimated}
        spared = {id(p) for name, p in named_parameters(model) if name in covered}  # by all of its names
        self._public = {name: _digest(p) for name, p in named_parameters(model) if id(p) not in spared}
        self._warned: set[str] = set()

    def tidy(self) -> None:
        """After a step: what its forward pass left in attributes goes, what it registered or removed ends the run.

        Raises:
            RunError: a parameter, a buffer or a module appeared, went or was replaced.
        """
        self._refuse_another_structure()
        for prefix, module, kept in self._attributes:
            now = vars(module)
            for key, value in attributes(module).items():
                if (key in kept and value is kept[key]) or held_in(value, self._known, numbers=False) is None:
                    continue
                if key in kept:
                    now[key] = kept[key]
                else:
                    del now[key]
                self.warn(plain_name(f"{prefix}.{key}" if prefix else key), "was given a tensor")

    def inspect(self, *, moved: bool) -> None:
        """After the first gradient, before anything is spent: what the run would refuse at its end.

        Args:
            moved: whether the buffer of the weights holds something else than before the gradient.

        Raises:
            ModelRefused: a forward pass leaves data in a container or an object of the model.
            RunError: it changes a public buffer.
        """
        if moved:
            self.warn("the weights", "were moved in place")
        found = hidden_state(self.model, numbers=False)
        if found is not None:
            raise ModelRefused(f"after one batch {found}: the model must keep nothing of a batch or of its weights")
        self._refuse_changed_buffers()

    def refuse_changed(self) -> None:
        """At release, with the parameters where they were: raise where something was left behind or something public changed.

        Raises:
            RunError: the message names what is otherwise.
        """
        found = hidden_state(self.model, numbers=False)
        if found is not None:
            raise RunError(f"after the run {found}: it would carry what the run computed past the certificate")
        self._refuse_changed_buffers()
        for name, parameter in named_parameters(self.model):
            if name in self._public and _digest(parameter) != self._public[name]:
                raise RunError(f"parameter '{name}' was declared public, but the run changes it: it carries data")
            parameter.grad = None

    def _refuse_another_structure(self) -> None:
        now = _structure(self.model)
        if len(now) != len(self._structure):
            raise RunError("a module appeared or went during the run: build every part of the model before it")
        for (prefix, module, names), (old_prefix, old_module, old_names) in zip(now, self._structure, strict=True):
            if prefix != old_prefix or module is not old_module:
                raise RunError(f"module '{old_prefix}' was replaced during the run: build every part before it")
            if names != old_names:
                kind, key = min(set(names) ^ set(old_names))
                name = f"{prefix}.{key}" if prefix else key
                what = "appeared" if (kind, key) in names else "went"
                raise RunError(f"{kind} '{plain_name(name)}' {what} during the run: it would carry data past the noise")

    def _refuse_changed_buffers(self) -> None:
        """A buffer that the steps update would release the weights between the steps."""
        for name, buffer in named_buffers(self.model):
            if name in self._buffers and _digest(buffer) != self._buffers[name]:
                raise RunError(
                    f"buffer '{name}' was declared public, but the model changes it in training: it carries data"
                )

    def warn(self, name: str, what: str) -> None:
        """Say once that the model or the loss did something to a part, which was put back."""
        if name not in self._warned:
            self._warned.add(name)
            _log.warning(
                "%s %s by the model or the loss: put back after every step, so that such changes (projections, casts, "
                "memory) are no part of the run or of what it releases",
                name if name == "the weights" else f"'{name}'", what,
            )  # fmt: skip


_Structure = list[tuple[str, nn.Module, tuple[tuple[str, str], ...]]]


def _structure(model: nn.Module) -> _Structure:
    """Every module with the names of its own parameters and buffers."""
    return [
        (
            prefix,
            module,
            (
                *(("parameter", key) for key, p in module._parameters.items() if p is not None),  # pyright: ignore[reportPrivateUsage]
                *(("buffer", key) for key, b in module._buffers.items() if b is not None),  # pyright: ignore[reportPrivateUsage]
            ),
        )
        for prefix, module in named_modules(model)
    ]


def _digest(tensor: Tensor) -> bytes:
    """Of dtype, shape and every bit."""
    found = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    found.update(local(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()
