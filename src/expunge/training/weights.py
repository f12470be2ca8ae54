"""A model's trainable weights as one flat vector.

Clipping, noise and digests are then one operation each, and nothing that was learned can be forgotten on the way: a
model with anything else that may carry data is refused, unless the caller says what it is.
"""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from expunge.certificate.digests import digest_tensors
from expunge.errors import ModelRefused, NonFinite, RunError
from expunge.parallel.sharding import local
from expunge.parallel.workers import ALONE, Workers
from expunge.training.centers import flat_center
from expunge.training.hidden_states import hidden_state
from expunge.training.loss import Loss, backward
from expunge.training.peft_layers import refuse_idle_adapters
from expunge.training.pieces import all_finite, norm, slices
from expunge.training.placement import Placement
from expunge.training.statistics import norms_to_estimate, statistics_of
from expunge.training.tensors import (
    dtype_name,
    named_buffers,
    named_parameters,
    refuse_other_state,
    same_bits,
    save_bytes,
    save_weights,
    saved_tensors,
    tensor_infos,
)

__all__ = [
    "FlatWeights",
    "clip_",
    "clip_factor",
    "covered_parameters",
    "dtype_name",
    "public_names",
    "refuse_uncovered",
    "save_bytes",
    "save_weights",
    "step_",
]

_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
_SHOWN = 8  # names in a message
# The clip aims this fraction inside its radius, so that rounding of the norm and the product cannot leave the ball.
_INSIDE = 1 - 1e-6


def clip_factor(x: Tensor, radius: float) -> Tensor:
    """What rows of `x`, shape (..., d), are multiplied by so that each has an L2 norm of at most `radius`; shape (..., 1).

    The norm is accumulated in float64: in float32 it drifts by percents over hundreds of millions of weights.

    Returns:
        Float64, at most 1, and 1 for a row that is inside.

    Raises:
        NonFinite: a row holds NaN or infinity, which no clip bounds.
    """
    length = norm(x)
    if not bool(torch.isfinite(length).all()):
        raise NonFinite("NaN or infinity where a vector is clipped: in the gradient, the weights, or the start")
    return torch.where(length > radius * _INSIDE, radius * _INSIDE / length, 1.0)


def clip_(x: Tensor, radius: float) -> Tensor:
    """Scale `x` of shape (..., d), float32 or float64, in place so that each row has an L2 norm of at most `radius`.

    Raises:
        NonFinite: a row holds NaN or infinity, which no clip bounds.
    """
    factor = clip_factor(x, radius)
    return x.mul_(factor.to(x.dtype)) if bool((factor < 1).any()) else x


def step_(theta: Tensor, gradient: Tensor, *, keep: float, rate: float | Tensor) -> Tensor:
    """Set θ to keep θ - rate g in place.

    Args:
        theta: shape (d,) or (runs, d).
        gradient: g, of theta's shape, of any real type; no copy of it in θ's type is made for one run.
        keep: at most 1.
        rate: the learning rate; shape (1,) or (runs, 1) where each run has its own.
    """
    if theta.dim() > 1:
        return theta.mul_(keep).addcmul_(gradient.to(theta.dtype), torch.as_tensor(rate).to(theta), value=-1)
    pace = -float(rate)
    for piece in slices(theta):
        theta[piece].mul_(keep).add_(gradient[piece].to(theta.dtype), alpha=pace)
    return theta


class FlatWeights:
    """Every trainable parameter of a model in one contiguous vector, relative to a centre.

    `theta` is the iterate of the theory, float64, of shape (d,): the weights minus the centre. It lies where
    neither model nor loss can reach it. `write` brings the model to it, before every gradient and at release, whatever
    was done to the model in between: so the clip bounds every step, and what is released is what was noised.

    Args:
        model: any module; its parameters are re-laid into one buffer and stay usable.
        public: patterns (`fnmatch`, e.g. "backbone.*") of parameters and buffers that do not depend on the forgotten
            data: left alone, not covered.
        center: a state dict (or module) of a public checkpoint; by default the centre is zero.
        reset_buffers: accept BatchNorm and InstanceNorm, whose running statistics are then reset.
        workers: that share the run, each with all of the weights; their gradients are added up.

    Raises:
        ModelRefused: the proof could not cover something; the message names the remedy.
        NonFinite: the weights hold NaN or infinity.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        public: Sequence[str] = (),
        center: nn.Module | dict[str, Tensor] | None = None,
        reset_buffers: bool = False,
        workers: Workers = ALONE,
    ) -> None:
        self.model, self._workers = model, workers
        self.public = public_names(model, public)
        refuse_uncovered(model, self.public, reset_buffers=reset_buffers)
        self.norms = norms_to_estimate(model, self.public) if reset_buffers else []
        self.estimated = statistics_of(model, self.norms)
        covered = covered_parameters(model, self.public)
        first = covered[0][1]
        self.names = [name for name, _ in covered]
        self.sizes = [parameter.numel() for _, parameter in covered]
        self._shapes = [parameter.shape for _, parameter in covered]
        self.dtype, self.device = first.dtype, first.device
        with torch.no_grad():
            flat = torch.cat([parameter.detach().reshape(-1) for _, parameter in covered])
            if not all_finite(flat):
                raise NonFinite("the model's weights hold NaN or infinity; there is nothing to unlearn from")
            self._center = (
                None if center is None else flat_center(center, self.names, self._shapes, self.device, torch.float64)
            )
        # First: it frees the memory that the parameters had.
        self._placed = Placement(model, self.names, flat, estimated=self.estimated)
        self.theta = flat.to(torch.float64, copy=True)
        if self._center is not None:
            self.theta.sub_(self._center)
        self._inspected = False
        self.write()

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """(name, size) of every covered parameter that is not empty, in order."""
        return tuple((name, size) for name, size in zip(self.names, self.sizes, strict=True) if size)

    @property
    def center_digest(self) -> str:
        """The digest of the covered part of the public checkpoint, or `zero`."""
        if self._center is None:
            return "zero"
        center = self._center.cpu()
        of_the_model = center if self.dtype == torch.float64 else center.float()  # as in every certificate before
        return digest_tensors(tensor_infos({"center": of_the_model}))

    def write(self, *, with_grad: bool = True) -> None:
        """Bring the model's parameters to `theta`, on the objects and the memory that were theirs at the start."""
        self._placed.put(with_grad=with_grad)
        if self._center is None:  # in one call, on all cores
            self._placed.flat.copy_(self.theta)
            return
        for piece in slices(self.theta):
            self._placed.flat[piece].copy_(self._values(piece))

    def _values(self, piece: slice) -> Tensor:
        """The weights that `theta` stands for, in float64."""
        return self.theta[piece] if self._center is None else self.theta[piece] + self._center[piece]

    def _as_written(self) -> bool:
        """Whether the buffer of the weights holds what `write` put there."""
        flat = self._placed.flat
        return all(torch.equal(flat[piece], self._values(piece).to(flat.dtype)) for piece in slices(flat))

    def gradient(self, loss: Loss) -> Callable[[Tensor, Any], Tensor]:
        """The function (theta, batch) -> gradient of shape (d,), in the model's type, that the executors drive.

        Raises (when called):
            NonFinite: the loss is NaN or infinite.
            TypeError: the loss is not a scalar tensor, or does not depend on the covered weights.
            ModelRefused: a forward pass leaves data in the model (at the first call).
            RunError: it adds, removes or replaces parts of the model, or changes a public buffer.
        """

        def gradient(theta: Tensor, batch: Any) -> Tensor:
            assert theta is self.theta
            first = not self._inspected
            self.write(with_grad=not first)
            if not first:  # the first time every gradient is collected, and whether there is any
                self._placed.grad.zero_()
            self._backward(loss, batch)
            if first and not self._placed.reached():
                raise TypeError(
                    "loss(model, batch) does not depend on any covered weight of the model it is given: compute it from "
                    "model(...), not from another model or from numbers"
                )
            self._placed.collect()
            self._placed.tidy()
            self._add_up()
            if first:
                self._placed.inspect(moved=not self._as_written())
                self._inspected = True
            return self._placed.grad

        return gradient

    def _backward(self, loss: Loss, batch: Any) -> None:
        """One worker's, which tells the others where it fails: they would wait for its gradient."""
        if not self._workers.several:
            backward(loss, self.model, batch)
            return
        failed: Exception | None = None
        try:
            backward(loss, self.model, batch)
        except Exception as error:  # noqa: BLE001  raised again
            failed = error
        self._workers.together(failed)

    def _add_up(self) -> None:
        """Set the gradient to the sum of the workers', added in float32 at least."""
        grad = self._placed.grad
        if not self._workers.several:
            return
        if grad.dtype in (torch.float32, torch.float64):
            self._workers.add_(grad)
        else:
            grad.copy_(self._workers.add_(grad.float()))

    def load(self, full: Tensor) -> None:
        """Bring `theta` to a saved one, shape (d,)."""
        self.theta.copy_(full)

    def whole_theta(self) -> Tensor | None:
        """`theta`, as it is saved; of weights in shards all workers make it together, and rank 0 has it."""
        return self.theta

    @property
    def replaced(self) -> str | None:
        """The name of a covered parameter in whose place another object is registered now."""
        return self._placed.replaced()

    def release(self) -> None:
        """Write the final weights, drop the gradients, and give every parameter storage of its own again.

        Raises:
            RunError: the model holds anything else than it held at the start and these weights, bit for bit.
        """
        self.write(with_grad=False)
        self._placed.settle()
        self._placed.part()
        try:
            refuse_other_state(self.model)
        except ModelRefused as error:
            raise RunError(f"after the run {error}") from error
        self.check_released()

    def check_released(self) -> None:
        """Raise `RunError` unless the model holds the final weights, bit for bit; after `release`."""
        found = saved_tensors(self.model)
        for name, tensor in self._placed.parts(self._placed.flat).items():
            if name not in found or not same_bits(found[name], tensor):
                raise RunError(f"'{name}' would be released with other values than the mechanism gave it")


def public_names(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """The parameters and buffers that patterns name, under every name they have.

    Raises:
        ModelRefused: a pattern matches nothing.
    """
    if isinstance(patterns, str):
        raise TypeError(f"public must be a sequence of patterns, not the string {patterns!r}")
    tensors = [*named_parameters(model), *named_buffers(model)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in tensors):
            raise ModelRefused(f"public: the pattern {pattern!r} matches no parameter or buffer")
    found = {name for name, _ in tensors if any(fnmatchcase(name, pattern) for pattern in patterns)}
    # A frozen parameter is one object by whichever of its names it was meant; a trained one must be named by all of them.
    meant = {id(t) for name, t in tensors if name in found and not t.requires_grad}
    return tuple(name for name, t in tensors if name in found or id(t) in meant)


def refuse_uncovered(model: nn.Module, public: Sequence[str], *, reset_buffers: bool) -> None:
    """Refuse a model that holds anything else than parameters, public buffers and statistics that are estimated again.

    Args:
        model: the model, not changed.
        public: names, from `public_names`.
        reset_buffers: whether BatchNorm and InstanceNorm statistics are estimated again.

    Raises:
        ModelRefused: the message names the part and the remedy.
    """
    for name, parameter in named_parameters(model):
        if is_lazy(parameter):
            raise ModelRefused(f"parameter '{name}' is not initialised yet: run one batch through the model first")
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        if tensor.is_meta:
            raise ModelRefused(
                f"'{name}' is on the meta device, where nothing has a value: load the model's weights first"
            )
    refuse_idle_adapters(model)
    _refuse_tied(model, public)
    estimated = statistics_of(model, norms_to_estimate(model, public))
    _refuse_buffers(model, public, estimated if reset_buffers else (), estimated)
    found = hidden_state(model)
    if found is not None:
        raise ModelRefused(
            f"{found}; no state dict shows it, and no noise reaches it: register it as a parameter, or as a buffer declared "
            "in public=[...] if it does not depend on the forgotten data; delete it if the model does not need it (weights "
            "that a hook computes: use torch.nn.utils.parametrizations)"
        )
    refuse_other_state(model)


def _refuse_buffers(model: nn.Module, public: Sequence[str], reset: Sequence[str], estimated: Sequence[str]) -> None:
    """Raise where buffers are neither public nor reset: all of them are named at once."""
    open_ = [name for name, _ in named_buffers(model) if name not in public and name not in reset]
    if not open_:
        return
    name, others = open_[0], open_[1:]
    more = f" (and {len(others)} more: {', '.join(map(repr, others[:_SHOWN]))}{', ...' if others[_SHOWN:] else ''})"
    raise ModelRefused(
        f"buffer '{name}'{more if others else ''} may carry data that the noise does not reach. "
        + ("Pass buffers='reset' (the layer's statistics are reset and estimated again on the retained data); or "
           if name in estimated else "For a constant ")
        + f"that does not depend on the forgotten data pass public={[name, *others[:_SHOWN]]}"
    )  # fmt: skip


def covered_parameters(model: nn.Module, public: Sequence[str]) -> list[tuple[str, nn.Parameter]]:
    """The parameters that the noise must reach, after every check."""
    distinct: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in named_parameters(model):
        distinct.setdefault(id(parameter), (name, parameter))
    covered = [(name, parameter) for name, parameter in distinct.values() if name not in public]
    if not any(parameter.numel() for _, parameter in covered):
        raise ModelRefused("the model has no trainable parameter outside public=[...]")
    for name, parameter in covered:
        if not parameter.requires_grad:
            raise ModelRefused(
                f"parameter '{name}' is frozen, so the noise would not reach it. If it was trained on the data, set "
                f"requires_grad=True; if it does not depend on the forgotten data, pass public=['{name}']"
            )
        if parameter.dtype not in _DTYPES:
            raise ModelRefused(
                f"parameter '{name}' is {dtype_name(parameter.dtype)}; convert with model.float(), .bfloat16() or .double()"
            )
        if parameter.dtype != covered[0][1].dtype or parameter.device != covered[0][1].device:
            raise ModelRefused(
                f"parameter '{name}' is {dtype_name(parameter.dtype)} on {parameter.device}, but '{covered[0][0]}' is "
                f"{dtype_name(covered[0][1].dtype)} on {covered[0][1].device}: use one dtype and one device"
            )
    return covered


def _refuse_tied(model: nn.Module, public: Sequence[str]) -> None:
    """Two parameters on one memory: counted, clipped and noised twice, or public under one name and covered under the other.

    One parameter under several names is one: it is covered once, under the first. Public parts may share among themselves.
    """
    reach: dict[tuple[int, bool], tuple[int, str]] = {}  # storage, whether public -> the farthest end so far, whose
    for storage, start, end, name in sorted(_spans(model, public)):
        ours = name in public
        for theirs in (False,) if ours else (False, True):
            far, other = reach.get((storage, theirs), (0, ""))
            if start < far:
                raise ModelRefused(
                    f"'{other}' and '{name}' share their weights (tied), and are two parameters: tie them as one, e.g. "
                    "module.weight = other.weight, or give each its own copy, e.g. module.weight = "
                    "torch.nn.Parameter(module.weight.detach().clone(), requires_grad=module.weight.requires_grad); "
                    "where both are public, name both in public=[...]"
                )
        reach[storage, ours] = max(reach.get((storage, ours), (0, "")), (end, name))


def _spans(model: nn.Module, public: Sequence[str]) -> Iterator[tuple[int, int, int, str]]:
    """Storage, first and last byte, and name of every parameter and buffer; of one under several names once.

    A tensor that is public by some of its names alone comes twice, as if it were two.
    """
    seen = set[tuple[int, bool]]()
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        if is_lazy(tensor) or not tensor.numel() or (id(tensor), name in public) in seen:
            continue
        seen.add((id(tensor), name in public))
        part = local(tensor)
        if part.numel():
            start = int(part.storage_offset())
            last = sum((size - 1) * stride for size, stride in zip(part.shape, part.stride(), strict=True))
            wide = part.element_size()
            yield part.untyped_storage().data_ptr(), start * wide, (start + last + 1) * wide, name
