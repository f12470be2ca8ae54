"""What a public pre-trained network says of a row, as features: its output, or that of a layer before it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from expunge._fixed import fixed
from expunge.features.frozen_network import FrozenNetwork, named_module, taken

__all__ = ["PublicNetwork"]


@fixed("output")
class PublicNetwork(FrozenNetwork):
    """φ(x) = the output of a public network, or of a submodule of it, flattened: float64, in multiples of `step`.

    A row's features are those of the row alone, rounded to `step`. For speed rows are evaluated in blocks of one size, the
    last one filled up; wherever a feature lies so near the border between two steps that the block's rounding might
    decide, the row is evaluated again, alone. With `block=1` no use is made of that allowance.

    The network is copied, made float64 and put into evaluation mode; the caller's own is left as it was.

    Args:
        network: public, trained on no row that may be forgotten. A batch of rows goes in.
        shape: of one row as the network takes it, e.g. (3, 224, 224).
        provenance: why the network depends on no row that may be forgotten, in a line; "" says that this is not known, and
            certificates of heads will then be of kind `none`.
        output: the submodule whose output is taken, e.g. the pooling layer, "avgpool" of a residual network; by default the
            network's own output.
        block: rows evaluated together.
        step: a power of two; with `AnalyticHead(grid=features.step)`, which takes up to 2^26 of them, no sum is rounded.

    Raises:
        ValueError, TypeError: an argument makes no sense, or a name matches nothing.
        ModelRefused: in evaluation mode the network draws random numbers, changes its buffers or lets rows of a batch
            see one another; or what is taken is not one tensor with a row for each row.
        NonFinite: it has weights or outputs that are not finite.

    Source: the analytic head on a frozen backbone, Zhuang et al. 2022, arXiv 2205.14922; Tang et al. 2025, arXiv 2505.12239.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        shape: Sequence[int],
        provenance: str,
        output: str | None = None,
        block: int = 16,
        step: float = 2.0**-16,
    ) -> None:
        super().__init__(network, shape=shape, provenance=provenance, step=step, block=block)
        self.output = named_module(network, "output", output)
        self._finish()
        self._width = self._probe(self._taken).numel()

    @property
    def width(self) -> int:
        """Features of a row."""
        return self._width

    @property
    def label(self) -> str:
        """Of messages and bars."""
        return "features of the public network"

    def told(self) -> str:
        """Which output is taken."""
        return f"frozen, output {self.output or 'of the network'}"

    def raw(self, rows: Tensor) -> Tensor:
        """The output, flattened."""
        found = self._taken(rows)
        assert isinstance(found, Tensor)
        return found.reshape(len(rows), -1)

    def extra_repr(self) -> str:
        """Which output, and how many features."""
        return f"output={self.output!r}, width={self.width}"

    def _taken(self, rows: Tensor) -> object:
        names = () if self.output is None else (self.output,)
        with torch.no_grad():
            returned, found = taken(self.network, names, lambda: self.network(rows))
        return returned if self.output is None else found[self.output]
