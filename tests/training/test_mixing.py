"""A loss or a model that mixes the examples of a batch is refused: before the first step, or at the step that shows it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import expunge as ex
from expunge.data import Examples
from expunge.errors import ModelRefused, NonFinite
from expunge.training.mixing import telling_rows
from expunge.training.still import coins_held_still

F = nn.functional
N = 96


def data(order: str = "sorted", seed: int = 0) -> ex.Examples:
    coins = torch.Generator().manual_seed(seed)
    x, y = torch.randn(N, 8, generator=coins), torch.arange(N) // (N // 3)
    index = torch.arange(N) if order == "sorted" else torch.randperm(N, generator=coins)
    return ex.Examples(x[index], y[index])


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))


def train(loss: Any, make: Any = build, rows: Any = None, at_once: int = 32, **changed: Any) -> ex.Unlearned:
    options = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "steps": 6} | changed
    mechanism = ex.DPTraining(sample_clip=1.0, group_size=1, **options)
    return ex.train_private(
        make, rows or data(), mechanism, loss=loss, learning_rate=0.1, expected_batch=32.0, at_once=at_once,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def plain(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


WEIGHT = torch.tensor([1.0, 5.0, 90.0])


def weighted(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], weight=WEIGHT)


def ignoring(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], ignore_index=2)


def by_sum(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def focal_normalised(model: nn.Module, batch: Any) -> Tensor:
    losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (losses * losses.detach()).sum() / losses.detach().sum()


def hardest(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none").topk(max(1, len(batch[1]) // 2)).values.mean()


def mixup(model: nn.Module, batch: Any) -> Tensor:
    order = torch.randperm(len(batch[0]))
    return F.cross_entropy(model(0.7 * batch[0] + 0.3 * batch[0][order]), batch[1])


def mixup_of_numpy(model: nn.Module, batch: Any) -> Tensor:
    order = torch.from_numpy(np.random.permutation(len(batch[0])))  # noqa: NPY002
    return F.cross_entropy(model(0.7 * batch[0] + 0.3 * batch[0][order]), batch[1])


def neighbour(model: nn.Module, batch: Any) -> Tensor:
    chosen = torch.randint(len(batch[0]), (len(batch[0]),))
    return F.cross_entropy(model(batch[0] + batch[0][chosen]), batch[1])


def centred(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0] - batch[0].mean(dim=0)), batch[1])


def in_large_batches_only(model: nn.Module, batch: Any) -> Tensor:
    return weighted(model, batch) if len(batch[0]) >= 30 else plain(model, batch)


def balanced(model: nn.Module, batch: Any) -> Tensor:
    """The mean of the classes' means."""
    losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return torch.stack([losses[batch[1] == label].mean() for label in batch[1].unique()]).mean()


MIXING = [
    weighted, by_sum, focal_normalised, hardest, mixup, mixup_of_numpy, neighbour, centred, balanced,
    in_large_batches_only,
]  # fmt: skip


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("loss", MIXING, ids=lambda loss: loss.__name__)
def test_losses_that_mix_examples_are_refused_before_the_first_step(loss: Any, order: str) -> None:
    """In whatever order the rows lie: sorted by label, as folders of pictures are, the first ones show nothing."""
    with pytest.raises(ModelRefused, match=r"^the gradients of examples in one batch"):
        train(loss, rows=data(order))


def test_a_loss_that_counts_what_it_ignores_is_refused() -> None:
    """An example that is ignored has no loss of its own: zero divided by zero."""
    with pytest.raises(NonFinite, match="the loss is nan"):
        train(ignoring)


class Centring(nn.Module):
    """Takes the batch's mean away in training, and in evaluation it does not."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0) if self.training else x


class Reading(nn.Module):
    """Uses a parameter's values outside of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x) + x @ self.layer.weight)


@pytest.mark.parametrize(
    "make", [lambda: nn.Sequential(Centring(), build()), lambda: nn.Sequential(build(), Centring()), Reading]
)
def test_models_that_mix_examples_in_training_mode_are_refused(make: Any) -> None:
    with pytest.raises(ModelRefused, match="gradients of examples in one batch"):
        train(plain, make)


MEAN = {"x": torch.zeros(8)}


def against_a_running_mean(model: nn.Module, batch: Any) -> Tensor:
    """Each example alone, and yet what the others left."""
    losses = plain(model, (batch[0] - MEAN["x"], batch[1]))
    if len(batch[0]) > 1:
        MEAN["x"] = 0.9 * MEAN["x"] + 0.1 * batch[0].mean(dim=0)
    return losses


HELD: list[int] = []


def remembering(model: nn.Module, batch: Any) -> Tensor:
    HELD.append(len(batch[0]))
    return plain(model, batch)


@pytest.mark.parametrize("loss", [against_a_running_mean, remembering], ids=lambda loss: loss.__name__)
def test_a_loss_that_keeps_something_of_its_batches_is_refused(loss: Any) -> None:
    with pytest.raises(
        ModelRefused, match=r"the loss keeps something of the batches|gradients of examples in one batch"
    ):
        train(loss)


def test_a_rare_label_is_among_the_rows_that_are_tried() -> None:
    """One row in ten thousand, somewhere in the middle, whose weight differs."""
    x, y = torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(10_000).long()
    y[5_417] = 2
    with pytest.raises(ModelRefused, match=r"^the gradients"):
        train(weighted, rows=ex.Examples(x, y), sampling_rate=0.001)


def late(loss: Any, step: float) -> Any:
    """Another loss once the weights have moved so far."""

    def switched(model: nn.Module, batch: Any) -> Tensor:
        moved = float(next(model.parameters()).detach().norm())
        return loss(model, batch) if moved > step else plain(model, batch)

    return switched


@pytest.mark.parametrize("make", [build, with_dropout], ids=["plain", "dropout"])
@pytest.mark.parametrize("loss", [weighted, centred, hardest], ids=lambda loss: loss.__name__)
def test_a_loss_that_mixes_examples_later_is_refused_at_that_step(loss: Any, make: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelRefused, match=r"^at a step of the training the gradients"):
        train(late(loss, 2.2), make, steps=60, noise_multiplier=10.0)


def penalty_of_example(model: nn.Module, batch: Any) -> Tensor:
    losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (losses * WEIGHT[batch[1]]).mean()  # a weight for each example, divided by their number


def smoothed(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)


@pytest.mark.parametrize("make", [build, with_dropout], ids=["plain", "dropout"])
@pytest.mark.parametrize("loss", [plain, penalty_of_example, smoothed], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("at_once", [1, 7, 200])
def test_means_over_examples_are_trained_with(loss: Any, make: Any, at_once: int) -> None:
    assert train(loss, make, at_once=at_once).record.steps_done == 6


def test_an_example_that_is_fitted_well_is_no_false_alarm() -> None:
    """Its gradient is made of rounding: nothing that a bound of 1 would notice."""
    rows = data("shuffled")
    easy = ex.Examples(100 * F.one_hot(rows.tensors[1], 8).float(), rows.tensors[1])
    assert train(plain, rows=easy, steps=60, noise_multiplier=0.01).record.steps_done == 60


def test_the_watch_changes_no_bit_of_what_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.training.example_gradients import ExampleGradients

    watched = train(plain, with_dropout)
    monkeypatch.setattr(ExampleGradients, "_watch", lambda *_, **__: None)
    monkeypatch.setattr(ExampleGradients, "probe", lambda *_: None)
    assert train(plain, with_dropout).record.certified == watched.record.certified


def test_rows_of_every_label_and_of_the_ends_are_tried() -> None:
    x = torch.zeros(500, 4)
    x[123], x[321] = -9, 9
    y = torch.zeros(500).long()
    y[400:], y[499] = 3, 7
    rows = telling_rows(Examples(x, y))
    assert {123, 321} <= set(rows)
    assert {int(y[row]) for row in rows} == {0, 3, 7}
    assert len(rows) == len(set(rows)) < 64


def test_many_labels_are_tried_over_their_whole_range() -> None:
    y = torch.arange(1000)
    rows = telling_rows(Examples(torch.zeros(1000, 1), y))
    assert {0, 999} <= {int(y[row]) for row in rows}
    assert 24 <= len(rows) < 64


def test_coins_held_still_are_the_same_whatever_the_batch_and_come_back() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    layer = nn.Dropout(0.5)
    with coins_held_still(torch.device("cpu")):
        assert torch.equal(layer(torch.ones(3, 4)), torch.full((3, 4), 2.0))
        assert torch.equal(torch.rand(3), torch.full((3,), 0.5))
        assert torch.randperm(4).tolist() == [3, 2, 1, 0]
        assert torch.randint(5, 9, (2,)).tolist() == [5, 5]
        assert torch.bernoulli(torch.full((2,), 0.5)).tolist() == [1, 1]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
