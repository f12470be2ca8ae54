"""The parameters of a model, where expunge put them: put back before every gradient, and at release.

A model or a loss may do with its parameters what it likes in a forward pass: give them other storage (`weight.data = ...`,
`.to(memory_format)`, cuDNN's flatten_parameters), another dtype, or put new objects in their place. None of it reaches the
iterate, which lies elsewhere, and none of it outlives the step: the next one, and the release, find the objects and the
memory that were there at the start. What cannot be put back ends the run: a parameter, buffer or module that appears, goes
or is replaced, a public part that changes, a tensor that stays behind in an attribute.
"""

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.errors import ModelRefused, RunError
from expunge.training.hidden_states import Known, attributes, held_in, hidden_state
from expunge.training.tensors import named_buffers, named_modules, named_parameters, plain_name

__all__ = ["Placement"]

_log = logging.getLogger("expunge")


@dataclass
class _Slot:
    """One covered parameter: where it is registered, by all its names, and its parts of the two flat buffers."""

    name: str
    places: Sequence[tuple[nn.Module, str]]
    parameter: nn.Parameter
    data: Tensor
    grad: Tensor


class Placement:
    """Covered parameters as views of one flat buffer, their gradients as views of another, both of shape (d,).

    Args:
        model: every check of `FlatWeights` is behind it.
        covered: names of its covered parameters, in the order of the buffers.
        flat: the buffer of the weights, in the model's dtype; only `put` and the caller write to it.
        estimated: names of buffers that the run may change.
    """

    def __init__(self, model: nn.Module, covered: Sequence[str], flat: Tensor, *, estimated: Collection[str]) -> None:
        self.model, self.flat = model, flat
        self.grad = torch.empty_like(flat)  # the first gradient is collected, all of it
        self._slots = _slots(model, covered, flat, self.grad)
        self._known = Known(model)
        self._structure = _structure(model)
        self._attributes = [(prefix, module, attributes(module)) for prefix, module in named_modules(model)]
        self._estimated = frozenset(estimated)
        self._buffers = {name: _digest(b) for name, b in named_buffers(model) if name not in self._estimated}
        spared = {id(slot.parameter) for slot in self._slots}
        self._public = {name: _digest(p) for name, p in named_parameters(model) if id(p) not in spared}
        self._warned: set[str] = set()
        self.put()

    def put(self, *, with_grad: bool = True) -> None:
        """Register every covered parameter again where it was, on its part of the buffer, with its part of the gradient."""
        for slot in self._slots:
            parameter = slot.parameter
            if _registered(slot) is not parameter:
                for owner, key in slot.places:
                    setattr(owner, key, parameter)
                if _registered(slot) is not parameter:
                    raise RunError(f"parameter '{slot.name}' went during the run and cannot be put back")
            if not _lies_on(parameter, slot.data):
                parameter.data = slot.data
            parameter.requires_grad_(True)
            parameter.grad = slot.grad.view_as(slot.data) if with_grad else None

    def collect(self) -> None:
        """After a backward pass: the gradients of whatever parameters are registered now, all on the flat buffer.

        Raises:
            RunError: a gradient has another shape than its parameter had.
        """
        for slot in self._slots:
            registered = _registered(slot)
            moved = registered is not slot.parameter or not _lies_on(slot.parameter, slot.data)
            if moved:
                self._warn(slot.name, "was given other storage or replaced")
            grad = None if registered is None else registered.grad
            if grad is None:
                slot.grad.zero_()
            elif grad.layout is torch.strided and _lies_on(grad, slot.grad):
                continue
            elif grad.numel() != slot.grad.numel():
                raise RunError(
                    f"the gradient of '{slot.name}' has shape {tuple(grad.shape)}, not {tuple(slot.data.shape)}"
                )
            else:
                slot.grad.copy_(grad.detach().to_dense().view_as(slot.data))
            if registered is not None:  # its memory goes as soon as it was copied
                grad = registered.grad = None

    def reached(self) -> bool:
        """Whether a backward pass that began without gradients (`put(with_grad=False)`) gave any parameter one."""
        found = (_registered(slot) for slot in self._slots)
        return any(parameter is not None and parameter.grad is not None for parameter in found)

    def replaced(self) -> str | None:
        """The name of a parameter in whose place another object is registered now."""
        return next((slot.name for slot in self._slots if _registered(slot) is not slot.parameter), None)

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
                self._warn(plain_name(f"{prefix}.{key}" if prefix else key), "was given a tensor")

    def inspect(self, *, moved: bool) -> None:
        """After the first gradient, before anything is spent: what the run would refuse at its end.

        Args:
            moved: whether the buffer of the weights holds something else than before the gradient.

        Raises:
            ModelRefused: a forward pass leaves data in a container or an object of the model.
            RunError: it changes a public buffer.
        """
        if moved:
            self._warn("the weights", "were moved in place")
        found = hidden_state(self.model, numbers=False)
        if found is not None:
            raise ModelRefused(f"after one batch {found}: the model must keep nothing of a batch or of its weights")
        self._refuse_changed_buffers()

    def settle(self) -> None:
        """At release: everything where it was, nothing left behind, nothing public changed; gradients dropped.

        Raises:
            RunError: the message names what is otherwise.
        """
        self.tidy()
        self.put(with_grad=False)
        found = hidden_state(self.model, numbers=False)
        if found is not None:
            raise RunError(f"after the run {found}: it would carry what the run computed past the certificate")
        self._refuse_changed_buffers()
        for name, parameter in named_parameters(self.model):
            if name in self._public and _digest(parameter) != self._public[name]:
                raise RunError(f"parameter '{name}' was declared public, but the run changes it: it carries data")
            parameter.grad = None
        self.grad = self.grad.new_empty(0)  # its memory is wanted for the released weights
        for slot in self._slots:
            slot.grad = self.grad

    def part(self) -> None:
        """Give every covered parameter storage of its own."""
        for slot in self._slots:
            slot.parameter.data = slot.data.clone()

    def parts(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector of shape (d,) as tensors by name, of the shapes of the covered parameters."""
        sizes = [slot.data.numel() for slot in self._slots]
        return {slot.name: part.view_as(slot.data) for slot, part in zip(self._slots, flat.split(sizes), strict=True)}

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

    def _warn(self, name: str, what: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            _log.warning(
                "%s %s by the model or the loss: put back after every step, so that such changes (projections, casts, "
                "memory) are no part of the run or of what it releases",
                name if name == "the weights" else f"'{name}'", what,
            )  # fmt: skip


def _slots(model: nn.Module, covered: Sequence[str], flat: Tensor, grad: Tensor) -> list[_Slot]:
    where = {
        plain_name(f"{prefix}.{key}" if prefix else key): (module, key, parameter)
        for prefix, module in named_modules(model)
        for key, parameter in module._parameters.items()  # pyright: ignore[reportPrivateUsage]
        if parameter is not None
    }
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module, key, parameter in where.values():
        places.setdefault(id(parameter), []).append((module, key))
    sizes = [where[name][2].numel() for name in covered]
    slots: list[_Slot] = []
    for name, data, g in zip(covered, flat.split(sizes), grad.split(sizes), strict=True):
        parameter = where[name][2]
        shape = parameter.shape
        slots.append(_Slot(name, places[id(parameter)], parameter, data.view(shape), g.view(shape)))
    return slots


def _registered(slot: _Slot) -> nn.Parameter | None:
    """What stands in its place; where it has several, one in which something else stands now."""
    found = [owner._parameters.get(key) for owner, key in slot.places]  # pyright: ignore[reportPrivateUsage]
    return next((held for held in found if held is not slot.parameter), slot.parameter)


def _lies_on(tensor: Tensor, place: Tensor) -> bool:
    """Whether a tensor is this very memory, seen this very way."""
    return (
        tensor.data_ptr() == place.data_ptr()
        and tensor.dtype == place.dtype
        and tensor.shape == place.shape
        and tensor.stride() == place.stride()
    )


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
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()
