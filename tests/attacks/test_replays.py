"""A rewind is refuted by nothing and equals retraining bit for bit; one that skips the replay is refuted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from expunge import Examples, Recipe, Replay, guarantee
from expunge.attacks import replay_canaries
from expunge.attacks.replays import _flat

CLAIM = guarantee(Replay(), delta=1e-5)
RECIPE = Recipe(learning_rate=0.5, batch_size=20, weight_decay=0.0)


def rows(n, seed, name):
    """Random labels: only learning by heart helps."""
    coins = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=coins)
    return Examples(torch.randn(n, 300, generator=coins), labels, ids=[f"{name}{k}" for k in range(n)])


RETAIN, CANDIDATES = rows(60, 0, "r"), rows(200, 1, "c")


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def make_model():
    return nn.Linear(300, 2)


def with_batchnorm():
    return nn.Sequential(nn.Linear(300, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def attacked(make=make_model, **how):
    fields = {"loss": loss, "epochs": 20, "recipe": RECIPE, "generator": torch.Generator().manual_seed(3)}
    return replay_canaries(make, RETAIN, CANDIDATES, **fields | how)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_rewind_is_not_refuted_and_has_the_bits_of_a_training_without_the_rows(shards):
    found = attacked(shards=shards)
    assert not found.findings[0].refutes(CLAIM)
    assert abs(found.details["auc"] - 0.5) < 0.12
    assert (found.details["bits"]["differ"], found.details["bits"]["largest"]) == (0.0, 0.0)


def test_buffers_dropout_and_augmentation_have_equal_bits_too():
    def augment(batch, generator):
        return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]

    assert attacked(with_batchnorm, augment=augment, epochs=3).details["bits"]["differ"] == 0


def test_a_rewind_that_skips_the_replay_is_refuted_and_its_bits_differ():
    found = attacked(undo=lambda trace, _names, _rows: trace.model(make_model))
    assert found.findings[0].refutes(CLAIM)
    assert found.details["auc"] > 0.75
    assert found.details["bits"]["differ"] > 0.5
    assert found.findings[0].null_epsilon < 0.5


def test_a_rewind_that_forgets_all_but_one_row_has_other_bits():
    from expunge.trace import rewind

    found = attacked(
        undo=lambda trace, names, data: rewind(trace, names[1:], data, make_model=make_model, loss=loss).model
    )
    assert found.details["bits"]["differ"] > 0.5


def test_seeds_repeat():
    first, again = attacked(epochs=2), attacked(epochs=2)
    assert first.findings == again.findings
    assert first.details == again.details


@pytest.mark.parametrize(("fields", "name"), [({"epochs": 0}, "epochs"), ({"shards": 0}, "shards")])
def test_bad_input_is_refused_by_name(fields, name):
    with pytest.raises(ValueError, match=name):
        attacked(**fields)


def test_weights_and_buffers_are_compared():
    model = with_batchnorm()
    held = [*model.parameters(), *model.buffers()]
    assert len(_flat(model)) == sum(t.numel() for t in held)
