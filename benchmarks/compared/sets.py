"""Four data sets, each with a network, a feature map that no row had a say in, and one request."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from paper.data import features, mnist
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from compared.adult import PROVENANCE, adult
from compared.messages import PROVENANCE as WORDS
from compared.messages import WIDTH, messages
from expunge.accounting import Mechanism

__all__ = ["BUDGET", "SETS", "Case", "Setting", "loss"]

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
CANDIDATES = 0.1  # of the rows; half of them are learned and to be forgotten, half are never seen
CANARIES = 0.03  # of the rows: candidates with a wrong label, which are learned by heart or not at all
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
        recovery_epochs: after noise.
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
    recovery_epochs: int = 5
    regularization: float = 1e-4
    residual: float = 1e-8

    def layer(self) -> ex.features.RandomFeatures:
        """The exact head's feature map."""
        return ex.features.RandomFeatures(self.width, self.wide, seed=0, keep_inputs=True)

    def mechanisms(self) -> dict[str, Mechanism]:
        """Every noisy method, calibrated to the budget."""
        sizes = ex.unlearners.layer_sizes(self.make_model())
        clips = (RADIUS / len(sizes) ** 0.5,) * len(sizes)
        rates = [0.02 * 0.9**t for t in range(STEPS)]
        return {
            "gradient_clipping": ex.accounting.calibrate(
                lambda s: ex.accounting.GradientClipping(
                    init_clip=RADIUS, steps=STEPS, noise_std=s, learning_rate=0.01, **NOISY
                ), BUDGET,
            ),
            "scheduled_gradient_clipping": ex.accounting.calibrate(
                lambda s: ex.accounting.ScheduledGradientClipping(
                    init_clip=RADIUS, learning_rate=rates, noise_std=(s,) * STEPS, **NOISY
                ), BUDGET,
            ),
            "blockwise_gradient_clipping": ex.accounting.calibrate(
                lambda s: ex.accounting.BlockwiseGradientClipping(
                    block_sizes=sizes, block_clips=clips, steps=STEPS, noise_std=s, blind=True, learning_rate=0.01, **NOISY
                ), BUDGET,
            ),
            "model_clipping": ex.accounting.calibrate(
                lambda s: ex.accounting.ModelClipping(model_clip=RADIUS, learning_rate=0.1, steps=STEPS, noise_std=s), BUDGET
            ),
            "output_perturbation": ex.accounting.calibrate(lambda s: ex.accounting.OutputPerturbation(init_clip=RADIUS, noise_std=s), BUDGET),
        }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A setting from one seed: split, coins, initialisation, training and noise follow it.

    A tenth of the rows are candidates. A fair coin decides for each whether it is learned and to be forgotten, or never
    seen. Some of them are canaries: they have a wrong label, and the audit guesses their coins from the released model.
    """

    setting: Setting
    train: ex.Examples
    test: ex.Examples
    seed: int

    def coins(self, use: int) -> torch.Generator:
        """A generator for each use."""
        return torch.Generator().manual_seed(10_000 * (self.seed + 1) + use)

    @cached_property
    def _order(self) -> Tensor:
        return torch.randperm(len(self.train), generator=self.coins(0))

    @cached_property
    def _count(self) -> int:
        return int(CANDIDATES * len(self.train))

    @cached_property
    def candidates(self) -> ex.Examples:
        """Learned and to be forgotten, or never seen; canaries first."""
        x, y = self.train.tensors
        rows, coins = self._order[: self._count], self.coins(11)
        wrong = torch.randint(1, self.setting.classes, (self.canaries,), generator=coins)
        labels = y[rows].clone()
        labels[: self.canaries] = (labels[: self.canaries] + wrong) % self.setting.classes
        return ex.Examples(x[rows], labels, ids=[self.train.ids[row] for row in rows.tolist()])

    @cached_property
    def canaries(self) -> int:
        """How many candidates have a wrong label."""
        return int(CANARIES * len(self.train))

    @cached_property
    def members(self) -> Tensor:
        """The coins, shape (candidates,), bool."""
        return torch.rand(self._count, generator=self.coins(1)) < 0.5

    @cached_property
    def forget(self) -> ex.Examples:
        """To be forgotten."""
        return self.candidates.take(self.members.nonzero().flatten())

    @cached_property
    def ordinary(self) -> ex.Examples:
        """Those to be forgotten that have their own label."""
        return self.candidates.take(self.members[self.canaries :].nonzero().flatten() + self.canaries)

    @cached_property
    def retain(self) -> ex.Examples:
        """What stays, under the names that candidates have: a row's position in the training set."""
        rows = self.train.take(self._order[self._count :])
        return rows.renamed(rows.ids)

    @cached_property
    def learned(self) -> ex.Examples:
        """What the original models were trained on."""
        return self.retain + self.forget

    def trained(self, rows: ex.Examples, use: int, epochs: float | None = None) -> ex.Unlearned:
        """The network, trained from scratch."""
        s = self.setting
        return ex.unlearners.train_from_scratch(
            s.make_model, rows, loss=loss, epochs=epochs or s.epochs, recipe=s.recipe, generator=self.coins(use)
        )

    @cached_property
    def original(self) -> nn.Module:
        """Trained on everything learned."""
        return self.trained(self.learned, 2).model

    @cached_property
    def reference(self) -> nn.Module:
        """Trained on the retained rows alone, for the audit: how hard each candidate is."""
        return self.trained(self.retain, 3).model


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
