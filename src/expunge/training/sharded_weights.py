"""A model's trainable weights in shards (`fully_shard`), each worker's part as one flat vector: `FlatWeights` for many workers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.certificate.digests import digest_tensors
from expunge.errors import ModelRefused, NonFinite, RunError
from expunge.parallel.sharding import Part, is_sharded, local, partition_of, reshard
from expunge.parallel.workers import Workers
from expunge.training.centers import flat_center
from expunge.training.loss import Loss, backward
from expunge.training.pieces import all_finite
from expunge.training.tensors import named_modules, plain_name, refuse_other_state, tensor_infos
from expunge.training.watch import Watch
from expunge.training.weights import covered_parameters, public_names, refuse_uncovered

__all__ = ["ShardedWeights"]


class ShardedWeights:
    """The trainable parameters of a model in shards, this worker's part in one contiguous vector, relative to a centre.

    `theta` is this worker's part of the iterate, float64; its norm is that of the whole. The parameters stay where
    `fully_shard` put them, and are written before every gradient and at release.

    Args:
        model: `fully_shard` was called on all of it; it is changed in place.
        public: as in `FlatWeights`.
        center: likewise; whole, on every worker.
        workers: that share the run.

    Raises:
        ModelRefused, NonFinite: as `FlatWeights`; a layout that is not understood.
    """

    norms: Sequence[Any] = ()
    estimated: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        *,
        workers: Workers,
        public: Sequence[str] = (),
        center: nn.Module | dict[str, Tensor] | None = None,
    ) -> None:
        reshard(model)
        self.model = model
        self.public = public_names(model, public)
        refuse_uncovered(model, self.public, reset_buffers=False)
        covered = covered_parameters(model, self.public)
        self.names = [name for name, _ in covered]
        self.sizes = [parameter.numel() for _, parameter in covered]
        self._parameters = [parameter for _, parameter in covered]
        self._owners = _owners(model, self.names)
        self.dtype, self.device = covered[0][1].dtype, local(covered[0][1]).device
        self.partition = partition_of(covered, workers)
        self._center, self.center_digest = self._centered(center)
        flat = torch.cat([local(p).reshape(-1) for p in self._parameters])
        if not all_finite(flat):
            raise NonFinite("the model's weights hold NaN or infinity; there is nothing to unlearn from")
        values = flat.to(torch.float64, copy=True)
        if self._center is not None:
            values.sub_(self._center)
        self.theta: Tensor = Part.of(values, self.partition)
        self._values, self._inspected = values, False
        self._watch = Watch(model, self.names, estimated=())
        self.write()

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """(name, size) of every covered parameter that is not empty, in order; whole ones."""
        return tuple((name, size) for name, size in zip(self.names, self.sizes, strict=True) if size)

    def write(self) -> None:
        """Bring this worker's shards to `theta`; gradients go."""
        self._put()
        for parameter, part in zip(self._parameters, self._written(), strict=True):
            local(parameter).view(-1).copy_(part)
            parameter.grad = None

    def gradient(self, loss: Loss) -> Callable[[Tensor, Any], Tensor]:
        """The function (theta, batch) -> this worker's part of the gradient, in the model's type.

        `fully_shard` averages gradients over the workers and cuts them: the loss must be scaled by their number.

        Raises (when called):
            NonFinite, TypeError, ModelRefused, RunError: as in `FlatWeights.gradient`.
        """

        def gradient(theta: Tensor, batch: Any) -> Tensor:
            assert theta is self.theta
            self.write()
            backward(loss, self.model, batch)
            self._put()
            grads = [self._grad(p) for p in self._parameters]
            if all(g is None for g in grads):
                raise TypeError(
                    "loss(model, batch) does not depend on any covered weight of the model it is given: compute it from "
                    "model(...), not from another model or from numbers"
                )
            found = [
                torch.zeros_like(local(p)).view(-1) if g is None else g
                for p, g in zip(self._parameters, grads, strict=True)
            ]
            self._watch.tidy()
            if not self._inspected:
                self._watch.inspect(moved=not self._as_written())
                self._inspected = True
            return Part.of(torch.cat(found), self.partition)

        return gradient

    @property
    def replaced(self) -> str | None:
        """The name of a covered parameter in whose place another object is registered now."""
        pairs = zip(self.names, self._owners, self._parameters, strict=True)
        return next((name for name, (owner, key), p in pairs if _registered(owner, key) is not p), None)

    def load(self, full: Tensor) -> None:
        """Bring `theta` to this worker's part of a whole vector, shape (total,)."""
        self._values.copy_(self.partition.taken(full))

    def whole_theta(self) -> Tensor | None:
        """All workers' `theta`, on rank 0; None elsewhere."""
        return self.partition.gathered(self._values)

    def release(self) -> None:
        """Write the final weights, and drop the gradients.

        Raises:
            RunError: the model holds anything else than it held at the start and these weights, bit for bit.
        """
        self.write()
        self._watch.tidy()
        self._watch.refuse_changed()
        try:
            refuse_other_state(self.model)
        except ModelRefused as error:
            raise RunError(f"after the run {error}") from error
        self.check_released()

    def check_released(self) -> None:
        """Raise `RunError` unless this worker's shards hold the final weights, bit for bit; after `release`."""
        self._put()
        if not self._as_written():
            raise RunError("a shard would be released with other values than the mechanism gave it")

    def _put(self) -> None:
        """Have every parameter be its shard again, the one that was there at the start."""
        reshard(self.model)
        name = self.replaced
        if name is not None:
            raise RunError(f"parameter '{name}' was replaced during the run, and shards are not put back")

    def _written(self) -> list[Tensor]:
        """What `theta` stands for, in the model's type, one tensor a shard."""
        values = self._values if self._center is None else self._values + self._center
        return list(values.to(self.dtype).split([local(p).numel() for p in self._parameters]))

    def _as_written(self) -> bool:
        return all(
            torch.equal(local(p).reshape(-1), part) for p, part in zip(self._parameters, self._written(), strict=True)
        )

    def _grad(self, parameter: nn.Parameter) -> Tensor | None:
        grad = parameter.grad
        if grad is None:
            return None
        if not is_sharded(grad) or grad.shape != parameter.shape:
            raise RunError(
                "a gradient is not cut as its parameter is: leave reduce-scatter to fully_shard (set_requires_gradient_sync)"
            )
        return local(grad).reshape(-1)

    def _centered(self, center: nn.Module | dict[str, Tensor] | None) -> tuple[Tensor | None, str]:
        if center is None:
            return None, "zero"
        shapes = [p.shape for p in self._parameters]
        full = flat_center(center, self.names, shapes, self.device, torch.float64)
        of_the_model = full.cpu() if self.dtype == torch.float64 else full.cpu().float()
        return self.partition.taken(full), digest_tensors(tensor_infos({"center": of_the_model}))


def _owners(model: nn.Module, names: Sequence[str]) -> list[tuple[nn.Module, str]]:
    """Module and key of every parameter."""
    where = {
        plain_name(f"{prefix}.{key}" if prefix else key): (module, key)
        for prefix, module in named_modules(model)
        for key in module._parameters  # pyright: ignore[reportPrivateUsage]
    }
    return [where[name] for name in names]


def _registered(owner: nn.Module, key: str) -> nn.Parameter | None:
    return owner._parameters.get(key)  # pyright: ignore[reportPrivateUsage]
