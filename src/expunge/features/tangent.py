"""Linearised fine-tuning: the tangent features of a public network, sketched in public random directions.

f(x; w0 + R a) = f(x; w0) + J(x) R a to first order, so that a head that is linear in J(x) R is fine-tuning of the layers
that R reaches, linearised. Sources: Achille et al. 2020, arXiv 2012.11140 (linearised fine-tuning with a squared loss);
Golatkar et al. 2020, arXiv 2012.13431 (forgetting in it, with a measured rest); Jacot et al. 2018, arXiv 1806.07572.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from math import frexp
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from expunge import _validate
from expunge._fixed import fixed
from expunge._progress import track
from expunge.errors import ModelRefused, NonFinite
from expunge.record import digest_safetensors
from expunge.training.weights import save_bytes

__all__ = ["TangentFeatures"]

_ALLOWED = 2.0**-36  # rounding of a feature, for a largest one of 1: 2^17 units of float64
_STEPS = 2.0**52  # of a feature: beyond, float64 has no multiples of the step to round to
_BAR_FROM = 8  # blocks
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMBERS = (*_FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32)

Parameters = dict[str, Tensor]


@fixed("shape", "directions", "seed", "step", "block", "bias", "output", "hidden", "names", "patterns")
@fixed("parameters_covered", "outputs", "hidden_width")
class TangentFeatures(nn.Module):
    """φ(x) = J(x) R, the hidden features of the same network, and a constant 1: float64, in multiples of `step`.

    J(x), shape (outputs, P), is the derivative of the network's output by P of its parameters, at its public weights. R,
    shape (P, directions), is a sign sketch: every parameter goes to one direction, all directions to equally many, each
    with a random sign times the root mean square of the public tensor it belongs to. Inner products of φ are in
    expectation over the seed those of J with parameters so scaled, and with as many directions as parameters they are
    those exactly.

    A row's features are those of the row alone, rounded to `step`. For speed rows are evaluated in blocks of one size, the
    last one filled up; wherever a feature lies so near the border between two steps that the block's rounding might
    decide, the row is evaluated again, alone. With `block=1` no use is made of that allowance.

    The network is copied, made float64 and put into evaluation mode; the caller's own is left as it was.

    Args:
        network: public, trained on no row that may be forgotten. A batch of rows goes in, a tensor comes out.
        shape: of one row as the network takes it, e.g. (1, 28, 28).
        directions: at most P. The sketch of one output is so wide.
        seed: of the sketch; public, chosen without the data. It has a generator of its own, on the CPU.
        provenance: why the network depends on no row that may be forgotten, in a line; "" says that this is not known, and
            certificates of heads will then be of kind `none`.
        parameters: patterns of the names of the parameters that R reaches, e.g. ("head.*", "*.bias").
        output: the submodule whose output is differentiated; by default the network's own output.
        hidden: the submodule whose output is appended as it is; None for none.
        bias: append a constant 1.
        step: a power of two; with `AnalyticHead(grid=features.step)`, which takes up to 2^26 of them, no sum is rounded.
        block: rows evaluated together. Memory is 24 · block · outputs · P bytes and more.

    Raises:
        ValueError, TypeError: an argument makes no sense, or a name or pattern matches nothing.
        ModelRefused: in evaluation mode the network draws random numbers, changes its buffers or lets rows of a batch
            see one another.
        NonFinite: it has weights or outputs that are not finite.
    """

    order: Tensor
    signs: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        shape: Sequence[int],
        directions: int,
        seed: int,
        provenance: str,
        parameters: Sequence[str] = ("*",),
        output: str | None = None,
        hidden: str | None = None,
        bias: bool = True,
        step: float = 2.0**-16,
        block: int = 16,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch module, not {type(network).__name__}")
        _validate.whole(directions=directions, block=block, **{f"shape[{k}]": n for k, n in enumerate(shape)})
        _validate.whole(0, seed=seed)
        _validate.positive(step=step)
        if seed >= 2**32:
            raise ValueError(f"seed must be below 2^32, all that the CPU's generator keeps, not {seed}")
        if frexp(step)[0] != 0.5:
            raise ValueError(f"step must be a power of two, so that its multiples are exact, not {step!r}")
        if provenance != "":
            _validate.text(provenance=provenance)
        self.shape, self.directions, self.seed = tuple(shape), int(directions), int(seed)
        self.step, self.block, self.bias = float(step), int(block), bool(bias)
        self.output, self.hidden = _module(network, "output", output), _module(network, "hidden", hidden)
        self._given, self._original = provenance, _digest_of(network)
        self.network = _frozen(network)
        self.names, self.patterns = _matching(self.network, parameters), tuple(parameters)
        self.parameters_covered = sum(p.numel() for p in self._reached().values())
        if directions > self.parameters_covered:
            raise ValueError(f"directions must be at most {self.parameters_covered}, the parameters that "
                             f"{list(parameters)} match, not {directions}")  # fmt: skip
        order, signs = _sketch(list(self._reached().values()), self.directions, self.seed)
        self.register_buffer("order", order)
        self.register_buffer("signs", signs)
        self._digest = _digest_of(self)
        self.outputs, self.hidden_width = self._probe()
        self._try()

    @property
    def width(self) -> int:
        """d: outputs · directions, the hidden features, and the constant."""
        return self.outputs * self.directions + self.hidden_width + int(self.bias)

    @property
    def mode(self) -> str:
        """Either "forward" or "reverse": one pass for each direction or for each output, whichever are fewer."""
        return "forward" if self.directions < self.outputs else "reverse"

    @property
    def provenance(self) -> str:
        """What a certificate may say: the network's provenance as it was given, its digest, and the sketch; or ""."""
        if not self._given:
            return ""
        reached = f"{' '.join(self.patterns)} ({len(self.names)} tensors, {self.parameters_covered} parameters)"
        return (
            f"{self._given}; network {self._original} linearised in {reached}, {self.directions} directions of the public "
            f"seed {self.seed}, output {self.output or 'of the network'}, hidden {self.hidden or 'none'}, step {self.step!r}"
        )

    def train(self, mode: bool = True) -> "TangentFeatures":
        """The flag of this module alone: the network inside stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (n, width), float64, of rows of shape (n, *shape): tangent by output, hidden, constant.

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
            pieces = track(pieces, total=count, label="tangent features")
        with torch.no_grad():
            return torch.cat([rows.new_zeros(0, self.width), *self._rounded(pieces)])

    def extra_repr(self) -> str:
        """Sizes and seed."""
        return f"directions={self.directions}, seed={self.seed}, width={self.width}, {self.mode} mode"

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
        sketched, taken = (self._by_directions if self.mode == "forward" else self._by_outputs)(filled)
        constant = torch.ones(block, int(self.bias), dtype=torch.float64, device=piece.device)
        return torch.cat([sketched.flatten(1), taken, constant], dim=1)[: len(piece)]

    def _outputs(self, tensors: Parameters, row: Tensor) -> tuple[Tensor, Tensor]:
        """(output, hidden), flat, of one row; differentiable by `tensors`."""
        taken: dict[str, list[Tensor]] = {}

        def taking(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            def take(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:  # noqa: ARG001
                taken.setdefault(name, []).append(out.clone())  # what follows may work in place

            return take

        wanted = {name for name in (self.output, self.hidden) if name is not None}
        handles = [self.network.get_submodule(name).register_forward_hook(taking(name)) for name in wanted]
        try:
            out = cast("Tensor", functional_call(self.network, tensors, (row[None],)))
        finally:
            for handle in handles:
                handle.remove()
        for name in wanted:
            if len(taken.get(name, [])) != 1:
                raise ModelRefused(
                    f"{name} runs {len(taken.get(name, []))} times in a pass: name a module that runs once"
                )
        target = out if self.output is None else taken[self.output][0]
        extra = row.new_zeros(0) if self.hidden is None else taken[self.hidden][0]
        return target.reshape(-1), extra.reshape(-1)

    def _by_outputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Reverse mode: the gradient of every output, then the sketch. Shapes (b, outputs, directions), (b, hidden)."""
        basis = torch.eye(self.outputs, dtype=torch.float64, device=rows.device)

        def one(row: Tensor) -> tuple[Parameters, Tensor]:
            def of(tensors: Parameters) -> tuple[Tensor, Tensor]:
                return self._outputs(tensors, row)

            _, pull, taken = cast("tuple[Tensor, Any, Tensor]", vjp(of, self._reached(), has_aux=True))
            (gradients,) = vmap(pull)(basis)
            return gradients, taken

        gradients, taken = vmap(one)(rows)
        flat = torch.cat([gradients[name].flatten(2) for name in self._reached()], dim=2)
        # `gather` is four times as fast here as indexing.
        placed = flat.gather(2, self.order.expand(len(rows), self.outputs, -1)).mul_(self.signs)
        return placed.view(len(rows), self.outputs, -1, self.directions).sum(2), taken

    def _by_directions(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Forward mode: one Jacobian-vector product for each direction; the shapes of `_by_outputs`."""
        towards = self._directions()

        def one(row: Tensor) -> tuple[Tensor, Tensor]:
            def of(tensors: Parameters) -> tuple[Tensor, Tensor]:
                return self._outputs(tensors, row)

            def along(direction: Parameters) -> tuple[Tensor, Tensor]:
                done = jvp(of, (self._reached(),), (direction,), has_aux=True)
                _, moved, taken = cast("tuple[Tensor, Tensor, Tensor]", done)
                return moved, taken

            moved, taken = vmap(along, out_dims=(1, 0))(towards)
            return moved, taken[0]

        with warnings.catch_warnings():
            # Torch's own forward mode loads scripted functions at its first use.
            warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
            return vmap(one)(rows)

    def _directions(self) -> Parameters:
        """R as tangents, each of shape (directions, *its tensor's)."""
        places, signs = self.order.view(-1, self.directions), self.signs.view(-1, self.directions)
        dense = torch.zeros(self.directions, self.parameters_covered, dtype=torch.float64, device=signs.device)
        dense.scatter_add_(1, places.T, signs.T)
        parts = dense.split([p.numel() for p in self._reached().values()], dim=1)
        return {
            name: part.reshape(-1, *p.shape) for part, (name, p) in zip(parts, self._reached().items(), strict=True)
        }

    def _reached(self) -> Parameters:
        """The tensors that R reaches, by name."""
        held: Parameters = dict(self.network.named_parameters())
        return {name: held[name] for name in self.names}

    def _checked(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.dtype not in _NUMBERS:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a tensor of real numbers that float64 holds exactly, not {kind}")
        if x.dim() != 1 + len(self.shape) or x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (n, {', '.join(map(str, self.shape))}), not {tuple(x.shape)}")
        held = (*self.network.parameters(), *self.network.buffers(), self.signs)
        if wrong := {t.dtype for t in held if t.is_floating_point()} - {torch.float64}:
            raise TypeError(f"tangent features must stay float64, they were cast to {sorted(map(str, wrong))}")
        if _digest_of(self) != self._digest:
            raise ModelRefused(
                "weights of the network or the sketch were changed; make the features anew from the network"
            )
        if any(module.training for module in self.network.modules()):
            raise ModelRefused("a part of the network was put into training mode: call .network.eval()")
        rows = x.detach().to(torch.float64)
        if not bool(torch.isfinite(rows).all()):
            raise NonFinite("x holds NaN or infinity")
        return rows

    def _probe(self) -> tuple[int, int]:
        """(outputs, hidden width), once the network has shown on two rows of a fixed seed that it is a function of a row."""
        for name, module in self.network.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                raise ModelRefused(
                    f"{name} has no running statistics: its rows see one another; give it some, or freeze it"
                )
        coins = torch.Generator().manual_seed(0)
        pair = torch.rand(2, *self.shape, generator=coins, dtype=torch.float64).to(self.order.device)
        held = {name: b.clone() for name, b in self.network.named_buffers()}
        before = torch.get_rng_state()
        with torch.no_grad():
            together = self.network(pair)
            alone = [self.network(row[None]) for row in pair]
            drawn = not torch.equal(before, torch.get_rng_state())
            torch.set_rng_state(before)
            if drawn:
                raise ModelRefused(
                    "the network draws random numbers in evaluation mode: features would differ at every call"
                )
            if not isinstance(together, Tensor) or together.shape[:1] != (2,):
                raise ModelRefused("the network must return one tensor, a row of outputs for each row given")
            if changed := [n for n, b in self.network.named_buffers() if not torch.equal(b, held[n])]:
                raise ModelRefused(f"the network changes its buffers {changed} in evaluation mode")
            single = torch.cat(alone)
            if not bool(torch.isfinite(single).all()):
                raise NonFinite("the network's outputs are not finite on rows of numbers from 0 to 1")
            if float((together - single).abs().max()) > _ALLOWED * (1 + float(single.abs().max())):
                raise ModelRefused("rows of one batch see one another in this network: features are of a row alone")
            target, extra = self._outputs(self._reached(), pair[0])
        return target.numel(), extra.numel()

    def _try(self) -> None:
        """One row through, so that what cannot be differentiated is refused at once."""
        try:
            self._raw(torch.zeros(1, *self.shape, dtype=torch.float64, device=self.signs.device), 1)
        except RuntimeError as error:
            raise ModelRefused(f"torch.func cannot differentiate this network row by row: {error}") from error


def _digest_of(network: nn.Module) -> str:
    return digest_safetensors(save_bytes(network))


def _frozen(network: nn.Module) -> nn.Module:
    """A copy in float64 and evaluation mode, without gradients."""
    own = copy.deepcopy(network).to(torch.float64).eval().requires_grad_(False)
    for name, tensor in (*own.named_parameters(), *own.named_buffers()):
        if not bool(torch.isfinite(tensor).all()):
            raise NonFinite(f"{name} of the network holds NaN or infinity")
    return own


def _module(network: nn.Module, field: str, name: str | None) -> str | None:
    if name is not None and name not in dict(network.named_modules()):
        raise ValueError(f"{field} must name a submodule of the network, not {name!r}")
    return name


def _matching(network: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the parameters that a pattern matches, in the network's order."""
    if isinstance(patterns, str):
        raise TypeError(f"parameters must be a sequence of patterns, not the string {patterns!r}")
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"parameters: the pattern {pattern!r} matches none of {', '.join(names)}")
    found = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
    if not found:
        raise ValueError("parameters must hold at least one pattern")
    return found


def _sketch(tensors: Sequence[Tensor], directions: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which parameter stands in which place, and its entry of R there; shapes (k · directions,).

    Place i belongs to direction i mod directions. Places beyond the parameters hold the entry 0.
    """
    coins = torch.Generator().manual_seed(seed)
    total = sum(t.numel() for t in tensors)
    order, signs = torch.randperm(total, generator=coins), torch.randint(2, (total,), generator=coins) * 2 - 1
    sizes = [float(t.square().mean().sqrt()) for t in tensors]
    overall = (sum(s**2 * t.numel() for s, t in zip(sizes, tensors, strict=True)) / total) ** 0.5
    # A tensor of zeros says nothing of the size of a sensible move.
    scales = torch.cat([torch.full((t.numel(),), s or overall or 1.0) for s, t in zip(sizes, tensors, strict=True)])
    missing = -total % directions
    entries = torch.cat([(signs * scales.double())[order], torch.zeros(missing, dtype=torch.float64)])
    device = tensors[0].device
    return torch.cat([order, torch.zeros(missing, dtype=order.dtype)]).to(device), entries.to(device)


def _near_a_border(values: Tensor, step: float) -> Tensor:
    """Rows, shape (b,), with a value so near to half a step that rounding might decide it."""
    allowed = _ALLOWED * values.abs().amax(1, keepdim=True).clamp(min=1.0)
    steps = values / step
    return ((steps - steps.floor() - 0.5).abs() * step <= allowed).any(1)
