"""Linearised fine-tuning: the tangent features of a public network, sketched in public random directions.

f(x; w0 + R a) = f(x; w0) + J(x) R a to first order, so that a head that is linear in J(x) R is fine-tuning of the layers
that R reaches, linearised. Sources: Achille et al. 2020, arXiv 2012.11140 (linearised fine-tuning with a squared loss);
Golatkar et al. 2020, arXiv 2012.13431 (forgetting in it, with a measured rest); Jacot et al. 2018, arXiv 1806.07572.
"""

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap

from expunge import _validate
from expunge._fixed import fixed
from expunge.errors import ModelRefused
from expunge.features.frozen_network import FrozenNetwork, named_module, taken

__all__ = ["TangentFeatures"]

Parameters = dict[str, Tensor]


@fixed("directions", "seed", "bias", "output", "hidden", "names", "patterns")
@fixed("parameters_covered", "outputs", "hidden_width")
class TangentFeatures(FrozenNetwork):
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
        _validate.whole(directions=directions)
        _validate.whole(0, seed=seed)
        if seed >= 2**32:
            raise ValueError(f"seed must be below 2^32, all that the CPU's generator keeps, not {seed}")
        super().__init__(network, shape=shape, provenance=provenance, step=step, block=block)
        self.directions, self.seed, self.bias = int(directions), int(seed), bool(bias)
        self.output, self.hidden = named_module(network, "output", output), named_module(network, "hidden", hidden)
        self.names, self.patterns = _matching(self.network, parameters), tuple(parameters)
        self.parameters_covered = sum(p.numel() for p in self._reached().values())
        if directions > self.parameters_covered:
            raise ValueError(f"directions must be at most {self.parameters_covered}, the parameters that "
                             f"{list(parameters)} match, not {directions}")  # fmt: skip
        order, signs = _sketch(list(self._reached().values()), self.directions, self.seed)
        self.register_buffer("order", order)
        self.register_buffer("signs", signs)
        self._finish()
        row = self._probe(self.network)
        target, extra = self._outputs(self._reached(), row.new_zeros(self.shape))
        self.outputs, self.hidden_width = target.numel(), extra.numel()
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
    def label(self) -> str:
        """Of messages and bars."""
        return "tangent features"

    def told(self) -> str:
        """What is linearised, and the sketch."""
        reached = f"{' '.join(self.patterns)} ({len(self.names)} tensors, {self.parameters_covered} parameters)"
        return (
            f"linearised in {reached}, {self.directions} directions of the public seed {self.seed}, "
            f"output {self.output or 'of the network'}, hidden {self.hidden or 'none'}"
        )

    def extra_repr(self) -> str:
        """Sizes and seed."""
        return f"directions={self.directions}, seed={self.seed}, width={self.width}, {self.mode} mode"

    def raw(self, rows: Tensor) -> Tensor:
        """Tangent by output, hidden, constant; each row under `vmap` as a batch of one that no neighbour enters."""
        sketched, hidden = (self._by_directions if self.mode == "forward" else self._by_outputs)(rows)
        constant = torch.ones(len(rows), int(self.bias), dtype=torch.float64, device=rows.device)
        return torch.cat([sketched.flatten(1), hidden, constant], dim=1)

    def _outputs(self, tensors: Parameters, row: Tensor) -> tuple[Tensor, Tensor]:
        """(output, hidden), flat, of one row; differentiable by `tensors`."""
        wanted = sorted({name for name in (self.output, self.hidden) if name is not None})
        out, found = taken(self.network, wanted, lambda: functional_call(self.network, tensors, (row[None],)))
        target = cast("Tensor", out) if self.output is None else found[self.output]
        extra = row.new_zeros(0) if self.hidden is None else found[self.hidden]
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

    def _try(self) -> None:
        """One row through, so that what cannot be differentiated is refused at once."""
        try:
            self._raw(torch.zeros(1, *self.shape, dtype=torch.float64, device=self.signs.device), 1)
        except RuntimeError as error:
            raise ModelRefused(f"torch.func cannot differentiate this network row by row: {error}") from error


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
