"""The parameters of a model, where expunge put them: put back before every gradient, and at release.

A model or a loss may do with its parameters what it likes in a forward pass: give them other storage (`weight.data = ...`,
`.to(memory_format)`, cuDNN's flatten_parameters), another dtype, or put new objects in their place. None of it reaches the
iterate, which lies elsewhere, and none of it outlives the step: the next one, and the release, find the objects and the
memory that were there at the start. What cannot be put back ends the run: a parameter, buffer or module that appears, goes
or is replaced, a public part that changes, a tensor that stays behind in an attribute.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.errors import RunError
from expunge.training.tensors import named_modules, plain_name
from expunge.training.watch import Watch

__all__ = ["Placement"]


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
        self._watch = Watch(model, covered, estimated=estimated)
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
                self._watch.warn(slot.name, "was given other storage or replaced")
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
        """As `Watch.tidy`."""
        self._watch.tidy()

    def inspect(self, *, moved: bool) -> None:
        """As `Watch.inspect`."""
        self._watch.inspect(moved=moved)

    def settle(self) -> None:
        """At release: everything where it was, nothing left behind, nothing public changed; gradients dropped.

        Raises:
            RunError: the message names what is otherwise.
        """
        self._watch.tidy()
        self.put(with_grad=False)
        self._watch.refuse_changed()
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
