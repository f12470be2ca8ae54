"""A network with patches: what `expunge.accounting.Prune` speaks of, as a module."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from expunge.errors import ModelRefused

__all__ = ["Patched", "chain", "described"]


class Patched(nn.Module):
    """A network whose score of one class is raised on one linear piece a patch; elsewhere its scores are as they were, bit for bit.

    A patch is open by 1 where every hidden unit has its sign by at least the slack, and closed where one has not its sign; in
    between it opens linearly. No input opens two patches, as any two of them differ in the sign of a unit.

    Args:
        network: a chain of supported layers, see `chain`.
        signs: +1 or -1, shape (patches, hidden units).
        slacks: above 0, shape (patches,).
        shifts: what is added to the score, shape (patches,).
        targets: the class, shape (patches,).
        labels: 1 where rows to be forgotten had this label, shape (patches, classes); the model does not read them.
    """

    def __init__(
        self, network: nn.Sequential, *, signs: Tensor, slacks: Tensor, shifts: Tensor, targets: Tensor, labels: Tensor
    ) -> None:
        super().__init__()
        self.network = network
        kind = next(network.parameters())
        for name, given in (
            ("signs", signs),
            ("slacks", slacks),
            ("shifts", shifts),
            ("targets", targets),
            ("labels", labels),
        ):
            setattr(self, name, nn.Parameter(given.to(kind.device, kind.dtype), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Scores, shape (n, classes)."""
        units: list[Tensor] = []
        scores = walk(self.network, x, units)
        hidden = torch.cat([u.flatten(1) for u in units], dim=1)
        raised = scores.clone()
        patches = (self.get_parameter(name) for name in ("signs", "slacks", "shifts", "targets"))
        for sign, slack, shift, target in zip(*patches, strict=True):
            closed = F.relu(1 - sign * hidden / slack).sum(dim=1)
            opened = closed < 1
            if bool(opened.any()):
                raised[opened, int(target)] += shift * (1 - closed[opened])
        return raised


def walk(network: nn.Sequential, x: Tensor, units: list[Tensor]) -> Tensor:
    """Run a chain, and keep what goes into every ReLU."""
    for layer in network:
        if isinstance(layer, nn.ReLU):
            units.append(x)
        x = layer(x)
    return x


def chain(model: nn.Module) -> nn.Sequential:
    """The layers of a network one after another, as modules.

    Raises:
        ModelRefused: it is no chain of Linear, Conv2d, ReLU, AvgPool2d, Flatten, Identity and Dropout.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # of fx, several kinds
        raise ModelRefused(
            f"patches need a network that is a chain of layers, and this one cannot be traced: {error}"
        ) from error
    found = nn.Sequential(*_links(traced))
    if any(p.dtype not in (torch.float32, torch.float64) for p in found.parameters()):
        raise ModelRefused("patches need a network in float32 or float64: convert it before")
    return found


def described(layer: nn.Module) -> str:
    """A layer in the words of `expunge.accounting.Prune`."""
    if isinstance(layer, nn.Conv2d):
        told = {
            "out": [layer.out_channels],
            "kernel": layer.kernel_size,
            "stride": layer.stride,
            "padding": layer.padding,
        }
        return "conv2d " + " ".join(f"{name}={','.join(map(str, values))}" for name, values in told.items())
    if isinstance(layer, nn.AvgPool2d):
        told = {"kernel": _pair(layer.kernel_size), "stride": _pair(layer.stride), "padding": _pair(layer.padding)}
        return "avgpool2d " + " ".join(f"{name}={','.join(map(str, values))}" for name, values in told.items())
    return type(layer).__name__.lower()


_NOTHING = (nn.Identity, nn.Dropout)  # in evaluation mode
_TAKEN = (nn.Linear, nn.ReLU, nn.Conv2d, nn.AvgPool2d, nn.Flatten)
_CALLED = {torch.relu: nn.ReLU, F.relu: nn.ReLU, torch.flatten: nn.Flatten, "relu": nn.ReLU, "flatten": nn.Flatten}


def _links(traced: fx.GraphModule) -> Iterator[nn.Module]:
    before: fx.Node | None = None
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            if before is not None:
                raise ModelRefused("patches need a network of one input")
        elif node.all_input_nodes != [before]:
            raise ModelRefused(f"patches need a chain of layers, and '{node.name}' takes another way")
        elif node.op != "output":
            yield from _link(traced, node)
        before = node


def _link(traced: fx.GraphModule, node: fx.Node) -> Iterator[nn.Module]:
    layer = (
        traced.get_submodule(str(node.target)) if node.op == "call_module" else _CALLED.get(node.target, nn.Module)()
    )  # pyright: ignore
    if isinstance(layer, _NOTHING):
        return
    if not isinstance(layer, _TAKEN) or type(layer) not in _TAKEN:
        told = node.target if type(layer) is nn.Module else type(layer).__name__
        raise ModelRefused(
            f"patches cannot take the layer '{node.name}' ({told}): networks of {', '.join(t.__name__ for t in _TAKEN)} can be patched"
        )
    plain = (
        not isinstance(layer, nn.Conv2d)
        or (
            layer.groups == 1
            and layer.dilation == (1, 1)
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
        )
    ) and (
        not isinstance(layer, nn.AvgPool2d)
        or (_pair(layer.padding) == (0, 0) and not layer.ceil_mode and layer.divisor_override is None)
    )
    if not plain:
        raise ModelRefused(
            f"patches cannot take '{node.name}': groups, dilation, named padding, padded or rounded pooling are not known to them"
        )
    yield nn.ReLU() if isinstance(layer, nn.ReLU) else layer  # one in place would overwrite what patches look at


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
