"""A frozen copy of a public network whose features of a row are the row's own, whatever its batch."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import frexp
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from expunge import _validate
from expunge._fixed import fixed
from expunge._progress import track
from expunge.certificate.digests import weights_digest
from expunge.errors import ModelRefused, NonFinite

__all__ = ["FrozenNetwork", "named_module", "taken"]

_ALLOWED = 2.0**-36  # rounding of a feature, for a largest one of 1: 2^17 units of float64
_STEPS = 2.0**52  # of a feature: beyond, float64 has no multiples of the step to round to
_BAR_FROM = 8  # blocks
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMBERS = (*_FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32)


@fixed("shape", "step", "block")
class FrozenNetwork(nn.Module, ABC):
    """Features that a copy of a public network gives, in float64 and evaluation mode, in multiples of `step`.

    A row's features are those of the row alone, rounded to `step`. For speed rows are evaluated in blocks of one size, the
    last one filled up; wherever a feature lies so near the border between two steps that the block's rounding might
    decide, the row is evaluated again, alone.

    Args:
        network: public; the caller's own is left as it was.
        shape: of one row as the network takes it.
        provenance: why the network depends on no row that may be forgotten, in a line; "" where this is not known.
        step: a power of two.
        block: rows evaluated together.
    """

    def __init__(
        self, network: nn.Module, *, shape: Sequence[int], provenance: str, step: float, block: int
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch module, not {type(network).__name__}")
        _validate.whole(block=block, **{f"shape[{k}]": n for k, n in enumerate(shape)})
        _validate.positive(step=step)
        if frexp(step)[0] != 0.5:
            raise ValueError(f"step must be a power of two, so that its multiples are exact, not {step!r}")
        if provenance != "":
            _validate.text(provenance=provenance)
        self.shape, self.step, self.block = tuple(shape), float(step), int(block)
        self._given, self._original = provenance, weights_digest(network)
        self.network = _frozen(network)

    @property
    @abstractmethod
    def width(self) -> int:
        """Features of a row."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What the features are called in messages and above bars."""

    @abstractmethod
    def told(self) -> str:
        """What is done with the network, in words, for `provenance`."""

    @abstractmethod
    def raw(self, rows: Tensor) -> Tensor:
        """Features without rounding, shape (b, width), of rows of shape (b, *shape), float64."""

    @property
    def provenance(self) -> str:
        """What a certificate may say: the network's provenance as it was given, its digest, and what is done; or ""."""
        return f"{self._given}; network {self._original} {self.told()}, step {self.step!r}" if self._given else ""

    def train(self, mode: bool = True) -> Self:
        """The flag of this module alone: the network inside stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (n, width), float64, of rows of shape (n, *shape).

        Raises:
            ValueError: another shape, or a feature above 2^52 steps.
            TypeError: x holds no real numbers, or this module was cast: its weights would be other ones.
            ModelRefused: weights were changed since it was made.
            NonFinite: NaN or infinity in x or in a feature.
        """
        rows = self._checked(x)
        pieces = iter(rows.split(self.block))
        count = -(-len(rows) // self.block)
        if count >= _BAR_FROM:
            pieces = track(pieces, total=count, label=self.label)
        with torch.no_grad():
            return torch.cat([rows.new_zeros(0, self.width), *self._rounded(pieces)])

    def _finish(self) -> None:
        """Remember what the module holds; the last step of making one."""
        self._digest = weights_digest(self)

    def _rounded(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        for done, piece in enumerate(pieces):
            if not len(piece):
                continue
            values = self._raw(piece, self.block)
            if not bool(torch.isfinite(values).all()):
                row = done * self.block + int((~torch.isfinite(values)).any(1).nonzero()[0])
                raise NonFinite(f"the features of row {row} hold NaN or infinity: scale its input, or leave it out")
            if self.block > 1:
                for row in _near_a_border(values, self.step).nonzero().flatten().tolist():
                    values[row] = self._raw(piece[row : row + 1], 1)[0]
            steps = torch.round(values / self.step)
            if float(steps.abs().max()) > _STEPS:
                raise ValueError(
                    f"a feature is {float(values.abs().max()):g}, more than 2^52 times step={self.step:g}: give a larger step"
                )
            yield steps * self.step + 0.0  # -0 becomes 0

    def _raw(self, piece: Tensor, block: int) -> Tensor:
        """Features without rounding, shape (b, width), of at most `block` rows, evaluated as a block of that size."""
        # The kernels see one shape of input only, and rows at the start of memory of their own.
        filled = torch.cat([piece, piece[-1:].expand(block - len(piece), *self.shape)])
        return self.raw(filled)[: len(piece)]

    def _checked(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.dtype not in _NUMBERS:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a tensor of real numbers that float64 holds exactly, not {kind}")
        if x.dim() != 1 + len(self.shape) or x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (n, {', '.join(map(str, self.shape))}), not {tuple(x.shape)}")
        held = (*self.parameters(), *self.buffers())
        if wrong := {t.dtype for t in held if t.is_floating_point()} - {torch.float64}:
            raise TypeError(f"{self.label} must stay float64, they were cast to {sorted(map(str, wrong))}")
        if weights_digest(self) != self._digest:
            raise ModelRefused(
                "weights of the network or the sketch were changed; make the features anew from the network"
            )
        if any(module.training for module in self.network.modules()):
            raise ModelRefused("a part of the network was put into training mode: call .network.eval()")
        rows = x.detach().to(torch.float64)
        if not bool(torch.isfinite(rows).all()):
            raise NonFinite("x holds NaN or infinity")
        return rows

    def _probe(self, of: Callable[[Tensor], object]) -> Tensor:
        """What `of` makes of a row; raises unless it shows on two rows of a fixed seed that it is a function of a row."""
        for name, module in self.network.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                raise ModelRefused(
                    f"{name} has no running statistics: its rows see one another; give it some, or freeze it"
                )
        coins = torch.Generator().manual_seed(0)
        device = next((t.device for t in (*self.network.parameters(), *self.network.buffers())), None)
        pair = torch.rand(2, *self.shape, generator=coins, dtype=torch.float64).to(device)
        held = {name: b.clone() for name, b in self.network.named_buffers()}
        before = torch.get_rng_state()
        with torch.no_grad():
            together = of(pair.clone())  # a network may work in place
            alone = [of(row[None].clone()) for row in pair]
        drawn = not torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
        if drawn:
            raise ModelRefused(
                "the network draws random numbers in evaluation mode: features would differ at every call"
            )
        found = [part for part in (together, *alone) if isinstance(part, Tensor)]
        if [tuple(part.shape[:1]) for part in found] != [(2,), (1,), (1,)]:
            raise ModelRefused("the network must return one tensor, a row of outputs for each row given")
        if changed := [n for n, b in self.network.named_buffers() if not torch.equal(b, held[n])]:
            raise ModelRefused(f"the network changes its buffers {changed} in evaluation mode")
        single = torch.cat(found[1:])
        if not bool(torch.isfinite(single).all()):
            raise NonFinite("the network's outputs are not finite on rows of numbers from 0 to 1")
        if float((found[0] - single).abs().max()) > _ALLOWED * (1 + float(single.abs().max())):
            raise ModelRefused("rows of one batch see one another in this network: features are of a row alone")
        return single[:1]


def taken(network: nn.Module, names: Sequence[str], call: Callable[[], object]) -> tuple[object, Mapping[str, Any]]:
    """What a call of the network returns, and what the submodules of these names put out in it.

    Raises:
        ModelRefused: one of them does not run exactly once.
    """
    found: dict[str, list[Any]] = {name: [] for name in names}

    def taking(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def take(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:  # noqa: ARG001
            found[name].append(out.clone() if isinstance(out, Tensor) else out)  # what follows may work in place

        return take

    handles = [network.get_submodule(name).register_forward_hook(taking(name)) for name in names]
    try:
        returned = call()
    finally:
        for handle in handles:
            handle.remove()
    for name, outs in found.items():
        if len(outs) != 1:
            raise ModelRefused(f"{name} runs {len(outs)} times in a pass: name a module that runs once")
    return returned, {name: outs[0] for name, outs in found.items()}


def named_module(network: nn.Module, field: str, name: str | None) -> str | None:
    """`name`, which is None or that of a submodule; raises `ValueError`."""
    if name is not None and name not in dict(network.named_modules()):
        raise ValueError(f"{field} must name a submodule of the network, not {name!r}")
    return name


def _frozen(network: nn.Module) -> nn.Module:
    """A copy in float64 and evaluation mode, without gradients."""
    own = copy.deepcopy(network).to(torch.float64).eval().requires_grad_(False)
    for name, tensor in (*own.named_parameters(), *own.named_buffers()):
        if not bool(torch.isfinite(tensor).all()):
            raise NonFinite(f"{name} of the network holds NaN or infinity")
    return own


def _near_a_border(values: Tensor, step: float) -> Tensor:
    """Rows, shape (b,), with a value so near to half a step that rounding might decide it."""
    allowed = _ALLOWED * values.abs().amax(1, keepdim=True).clamp(min=1.0)
    steps = values / step
    return ((steps - steps.floor() - 0.5).abs() * step <= allowed).any(1)
