"""The weights of many models of one architecture as the rows of one tensor."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from expunge.errors import ModelRefused, NonFinite

__all__ = ["Stack"]

# loss(model, batch) -> scalar, as in the verbs; here it may do no more with the model than call it.
Loss = Callable[[Callable[..., Any], Any], Tensor]


class Stack:
    """R models of one architecture; `theta`, shape (R, d), holds a model a row, in the order of its parameters.

    Args:
        model: the architecture; its own weights are not used. All parameters are covered, buffers must be absent.
        theta: the weights, shape (R, d), float32 or float64; kept, not copied.

    Raises:
        ModelRefused: the model has buffers.
        ValueError: theta has another shape.
    """

    def __init__(self, model: nn.Module, theta: Tensor) -> None:
        buffers = [name for name, _ in model.named_buffers()]
        if buffers:
            raise ModelRefused(f"a stack of models holds parameters only; '{buffers[0]}' is a buffer")
        self._model = copy.deepcopy(model).to(theta.device, theta.dtype)
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        if theta.dim() != 2 or theta.shape[1] != sum(self._sizes):
            raise ValueError(f"theta must have shape (runs, {sum(self._sizes)}), not {tuple(theta.shape)}")
        self.theta = theta

    @classmethod
    def of(cls, models: Sequence[nn.Module]) -> "Stack":
        """The weights of given models, copied."""
        if not models:
            raise ValueError("a stack needs at least one model")
        rows = [torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in models]
        return cls(models[0], torch.stack(rows))

    @classmethod
    def fresh(cls, make_model: Callable[[], nn.Module], seeds: Sequence[int]) -> "Stack":
        """One freshly initialised model for each seed; torch's global generator is left as it was."""
        models: list[nn.Module] = []
        for seed in seeds:
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
                models.append(make_model())
        return cls.of(models)

    @property
    def runs(self) -> int:
        """R."""
        return len(self.theta)

    def to(self, device: torch.device | str) -> "Stack":
        """The same models on another device."""
        return Stack(self._model, self.theta.to(device))

    def copy(self) -> "Stack":
        """The same models, weights copied."""
        return Stack(self._model, self.theta.clone())

    def model(self, run: int) -> nn.Module:
        """One of them as a module of its own."""
        model = copy.deepcopy(self._model)
        with torch.no_grad():
            for parameter, part in zip(model.parameters(), self.theta[run].split(self._sizes), strict=True):
                parameter.copy_(part.view_as(parameter))
        return model

    def gradient(self, loss: Loss) -> Callable[[Tensor, Any], Tensor]:
        """The function (theta, batch) -> gradients, shape (R, d), that the executors drive.

        The loss is `loss(model, batch)` for one run, and may only call the model; the tensors of the batch have the runs
        as their leading axis.

        Raises (when called):
            NonFinite: the loss of some run is NaN or infinite.
        """

        def one(weights: dict[str, Tensor], batch: Any) -> Tensor:
            return loss(lambda *inputs: functional_call(self._model, weights, inputs), batch)

        each = vmap(one, randomness="different")

        def gradient(theta: Tensor, batch: Any) -> Tensor:
            with torch.enable_grad():
                leaf = theta.detach().requires_grad_()
                losses = each(self._named(leaf), batch)
                (found,) = torch.autograd.grad(losses.sum(), leaf)
            if not bool(torch.isfinite(losses).all()):
                raise NonFinite(f"the loss of run {int((~torch.isfinite(losses)).nonzero()[0])} is not finite")
            return found

        return gradient

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def outputs(self, x: Tensor) -> Tensor:
        """What every model says of the same inputs, shape (R, n, ...)."""
        training = self._model.training
        self._model.eval()

        def one(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(self._model, weights, (x,))

        found = vmap(one)(self._named(self.theta))
        self._model.train(training)
        return found

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split(self._sizes, dim=1)
        return {
            name: part.reshape(len(theta), *shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
