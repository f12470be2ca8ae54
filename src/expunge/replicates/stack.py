"""The weights of many models of one architecture as the rows of one tensor."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from expunge.errors import ModelRefused, NonFinite
from expunge.training.loss import NO_GRADIENT

__all__ = ["Stack"]

# loss(model, batch) -> scalar, as in the verbs; here it may do no more with the model than call it.
Loss = Callable[[Callable[..., Any], Any], Tensor]


class Stack:
    """R models of one architecture; `theta`, shape (R, d), holds a model a row, in the order of its parameters.

    On an accelerator all models take a step together (`torch.func.vmap`). On a CPU models with convolutions take it one
    after another, channels last: together they would be grouped convolutions, which are slower there.

    Args:
        model: the architecture; its own weights are not used. All parameters are covered, buffers must be absent.
        theta: the weights, shape (R, d), float32 or float64; kept, not copied.
        compiled: whether `torch.compile` makes one program of a model's loss and its derivative, and one of its outputs; it
            needs a C++ compiler and some seconds at the first step.
        autocast: torch.bfloat16 for mixed precision, in which `gradient` calls the model (`torch.autocast`); weights,
            losses, updates and `outputs` stay in theta's. None: all in theta's.

    Raises:
        ModelRefused: the model has buffers.
        ValueError: theta has another shape, or autocast is another type (float16 would need its losses scaled).
    """

    def __init__(
        self, model: nn.Module, theta: Tensor, *, compiled: bool = False, autocast: torch.dtype | None = None
    ) -> None:
        buffers = [name for name, _ in model.named_buffers()]
        if buffers:
            raise ModelRefused(f"a stack of models holds parameters only; '{buffers[0]}' is a buffer")
        self._model = copy.deepcopy(model).to(theta.device, theta.dtype)
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        if theta.dim() != 2 or theta.shape[1] != sum(self._sizes):
            raise ValueError(f"theta must have shape (runs, {sum(self._sizes)}), not {tuple(theta.shape)}")
        if autocast not in (None, torch.bfloat16):
            raise ValueError(f"autocast must be torch.bfloat16 or None, not {autocast!r}")
        self.theta = theta
        self._compiled, self._autocast = compiled, autocast
        convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        has_convolutions = any(isinstance(module, convolutions) for module in model.modules())
        self._one_by_one = theta.device.type == "cpu" and has_convolutions

    @classmethod
    def of(cls, models: Sequence[nn.Module], *, compiled: bool = False, autocast: torch.dtype | None = None) -> "Stack":
        """The weights of given models, copied."""
        if not models:
            raise ValueError("a stack needs at least one model")
        rows = [torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in models]
        return cls(models[0], torch.stack(rows), compiled=compiled, autocast=autocast)

    @classmethod
    def fresh(
        cls,
        make_model: Callable[[], nn.Module],
        seeds: Sequence[int],
        *,
        compiled: bool = False,
        autocast: torch.dtype | None = None,
    ) -> "Stack":
        """One freshly initialised model for each seed; torch's global generator is left as it was."""
        models: list[nn.Module] = []
        for seed in seeds:
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
                models.append(make_model())
        return cls.of(models, compiled=compiled, autocast=autocast)

    @property
    def runs(self) -> int:
        """R."""
        return len(self.theta)

    def to(self, device: torch.device | str) -> "Stack":
        """The same models on another device."""
        return self.with_theta(self.theta.to(device))

    def copy(self) -> "Stack":
        """The same models, weights copied."""
        return self.with_theta(self.theta.clone())

    def with_theta(self, theta: Tensor) -> "Stack":
        """Other weights for the same architecture, shape (any number of runs, d); kept, not copied."""
        return Stack(self._model, theta, compiled=self._compiled, autocast=self._autocast)

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
            TypeError: the loss has no gradient.
        """

        def one(weights: dict[str, Tensor], batch: Any) -> Tensor:
            return loss(lambda *inputs: self._call(weights, inputs, self._autocast), batch)

        each = self._for_each(self._program(one))

        def gradient(theta: Tensor, batch: Any) -> Tensor:
            with torch.enable_grad():
                leaf = theta.detach().requires_grad_()
                losses = each(self._named(leaf), batch)
                if not losses.requires_grad:
                    raise TypeError(NO_GRADIENT)
                (found,) = torch.autograd.grad(losses.sum(), leaf)
            if not bool(torch.isfinite(losses).all()):
                raise NonFinite(f"the loss of run {int((~torch.isfinite(losses)).nonzero()[0])} is not finite")
            return found

        return gradient

    def _program(self, one: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.compile(one) if self._compiled else one

    def _call(self, weights: dict[str, Tensor], inputs: tuple[Any, ...], autocast: torch.dtype | None = None) -> Any:
        """What one model says; a single tensor in theta's type."""
        if autocast is None:
            return functional_call(self._model, weights, inputs)
        with torch.autocast(self.theta.device.type, dtype=autocast):
            found = functional_call(self._model, weights, inputs)
        return found.to(self.theta.dtype) if isinstance(found, Tensor) else found

    def _for_each(self, one: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function of the parts of one run as a function of all runs', with the runs as leading axis of its result."""
        if not self._one_by_one:
            return vmap(one, randomness="different")

        def each(weights: dict[str, Tensor], *rest: Any) -> Tensor:
            runs = range(len(next(iter(weights.values()))))
            return torch.stack([one(*_of_run((weights, *rest), run)) for run in runs])

        return each

    @torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
    def outputs(self, x: Tensor) -> Tensor:
        """What every model says of the same inputs, shape (R, n, ...)."""
        training = self._model.training
        self._model.eval()
        x = _channels_last(x) if self._one_by_one else x

        def one(weights: dict[str, Tensor]) -> Tensor:
            return self._call(weights, (x,))

        found = self._for_each(self._program(one))(self._named(self.theta))
        self._model.train(training)
        return found

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split(self._sizes, dim=1)
        return {
            name: part.reshape(len(theta), *shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


def _channels_last(x: Tensor) -> Tensor:
    """Pictures, and weights of their convolutions, as CPU kernels like them; anything else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _of_run(batch: Any, run: int) -> Any:
    """One run's part of tensors, lists, tuples and dicts of them whose leading axis is the runs, channels last."""
    if isinstance(batch, dict):
        return {key: _of_run(value, run) for key, value in cast("dict[Any, Any]", batch).items()}
    if isinstance(batch, list | tuple):
        return tuple(_of_run(value, run) for value in cast("tuple[Any, ...]", batch))
    return _channels_last(batch[run])
