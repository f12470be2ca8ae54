"""Five data sets, each with a network and feature maps that no row had a say in."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from paper.data import features, mnist
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from leaders.adult import PROVENANCE, adult
from leaders.messages import PROVENANCE as WORDS
from leaders.messages import WIDTH, messages

__all__ = ["BUDGET", "NOISY", "RADIUS", "SETS", "STEPS", "Setting", "loss"]

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
RADIUS, STEPS = 0.5, 20  # of the noisy methods, the demo's: fixed before any model was trained
NOISY = {"grad_clip": 1.0, "weight_decay": 20.0}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def network(width: int, hidden: int, classes: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set and what is trained on it.

    Args:
        name: of the set.
        rows: loads rows to learn and rows to test, (x, y), x float32 of shape (n, width).
        width: features of a row.
        classes: labels are below it.
        make_model: the network.
        recipe: of training, retraining and recovery alike.
        features: of a row, for the convex head; a constant is added by the heads.
        provenance: of these features.
        wide: random features beside the row's numbers, for the exact head.
        source: why a row's numbers depend on no other row.
        epochs: of training and retraining.
        regularization: λ of the convex head.
        residual: β of the convex head.
    """

    name: str
    rows: Callable[[], tuple[ex.Examples, ex.Examples]]
    width: int
    classes: int
    make_model: Callable[[], nn.Module]
    recipe: ex.recovery.Recipe
    features: Callable[[Tensor], Tensor]
    provenance: str
    wide: int
    source: str
    epochs: int = 20
    regularization: float = 1e-4
    residual: float = 1e-8

    def layer(self) -> ex.features.RandomFeatures:
        """The exact head's feature map."""
        return ex.features.RandomFeatures(self.width, self.wide, seed=0, keep_inputs=True)


def _pictures() -> tuple[ex.Examples, ex.Examples]:
    """MNIST as multiples of 1/256, so that random features are exact sums."""
    held = mnist()
    return tuple(
        ex.Examples(x.reshape(len(x), -1).float() / 256, y.long())
        for x, y in ((held.train_x, held.train_y), (held.test_x, held.test_y))
    )


def _features(name: str) -> tuple[ex.Examples, ex.Examples]:
    held = features(name)
    return tuple(
        ex.Examples((x.float() / 255 - held.mean) / held.std, y.long())
        for x, y in ((held.train_x, held.train_y), (held.test_x, held.test_y))
    )


def _adult() -> tuple[ex.Examples, ex.Examples]:
    return tuple(ex.Examples(*rows.tensors[:2]) for rows in adult())


_LAYER = ex.features.RandomFeatures(784, 1024, seed=0)
_BACKBONE = "public ImageNet backbone, projection fitted on {}"
SETS = {
    s.name: s
    for s in (
        Setting(
            name="MNIST", rows=_pictures, width=784, classes=10, make_model=partial(network, 784, 32, 10),
            recipe=ex.recovery.Recipe(learning_rate=0.1), features=_LAYER, provenance=f"pixels; {_LAYER.provenance}",
            wide=8192, source="pixels",
        ),
        Setting(
            name="CIFAR-10 features", rows=partial(_features, "cifar10"), width=512, classes=10,
            make_model=partial(network, 512, 32, 10), recipe=ex.recovery.Recipe(learning_rate=0.05), features=Tensor.double,
            provenance=_BACKBONE.format("CIFAR-100"), wide=4096, source=_BACKBONE.format("CIFAR-100"),
        ),
        Setting(
            name="CIFAR-100 features", rows=partial(_features, "cifar100"), width=512, classes=100,
            make_model=partial(network, 512, 64, 100), recipe=ex.recovery.Recipe(learning_rate=0.05), features=Tensor.double,
            provenance=_BACKBONE.format("CIFAR-10"), regularization=1e-3, wide=4096, source=_BACKBONE.format("CIFAR-10"),
        ),
        Setting(
            name="Adult", rows=_adult, width=104, classes=2, make_model=partial(network, 104, 32, 2),
            recipe=ex.recovery.Recipe(learning_rate=0.05), features=Tensor.double, provenance=PROVENANCE,
            wide=1024, source=PROVENANCE,
        ),
        Setting(
            name="SMS spam", rows=messages, width=WIDTH, classes=2, make_model=partial(network, WIDTH, 32, 2),
            recipe=ex.recovery.Recipe(learning_rate=0.1), features=Tensor.double, provenance=WORDS, wide=1024, source=WORDS,
        ),
    )
}  # fmt: skip
