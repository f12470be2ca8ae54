"""The penalty on I(Ŷ; Z): the number itself, that it is silent below its reference, and that only the excess has a gradient."""

from dataclasses import replace
from functools import cache
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import expunge as ex
import sample_tasks
from expunge.errors import NonFinite
from expunge.unlearners import Run
from expunge.unlearners.heuristics import InformationPenalty
from expunge.unlearners.heuristics.information import batch_information

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)


@cache
def task() -> ex.Task:
    """Digits learned by heart, of which three quarters of the nines are to be forgotten."""
    everything = sample_tasks.everything()
    nines = (everything.tensors[1] == 9).nonzero()[:, 0]
    gone = nines[: round(0.75 * len(nines))]
    kept = torch.ones(len(everything), dtype=torch.bool).index_fill(0, gone, False)
    model = sample_tasks.make_model()
    model.load_state_dict(sample_tasks.task().model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        sample_tasks.loss(model, everything.tensors).backward()
        optimizer.step()
    return ex.Task(
        model=model, retain=everything.take(kept), forget=everything.take(gone), loss=sample_tasks.loss,
        make_model=sample_tasks.make_model,
    )  # fmt: skip


def run(way: InformationPenalty, of: ex.Task) -> nn.Module:
    return way.forget(of, BUDGET, ex.Relation.RETRAINED, Run(seed=0)).model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def by_hand(retained: np.ndarray, forgotten: np.ndarray) -> float:
    """Σ p(y, z) log p(y, z)/(p(y) p(z)) of the table in which retained rows stand twice, once for each Z."""
    joint = np.stack([retained.sum(0), retained.sum(0) + forgotten.sum(0)])
    joint /= joint.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / product[some])).sum())


@pytest.mark.parametrize(("b", "c"), [(64, 16), (10, 1), (3, 40)])
def test_information_is_that_of_the_table_of_mean_predictions(b: int, c: int) -> None:
    rng = np.random.default_rng(b)
    kept, lost = rng.dirichlet(np.full(5, 0.3), b), rng.dirichlet([3.0, 0.1, 0.1, 0.1, 0.0 + 1e-3], c)
    found = float(batch_information(torch.tensor(kept), torch.tensor(lost)))
    assert found == pytest.approx(by_hand(kept, lost), rel=1e-12, abs=1e-15)
    assert 0 < found < log(2)


def test_it_is_exactly_zero_where_both_parts_are_predicted_alike_and_known_for_one_class() -> None:
    """One row of class 0 kept, one of class 1 forgotten: H(mixed) - H(both)·2/3, with mixed (2/3, 1/3) and both (1/2, 1/2)."""
    rows = torch.rand(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(batch_information(rows, rows)) == 0.0
    eye = torch.eye(2, dtype=torch.float64)
    expected = -(2 / 3 * log(2 / 3) + 1 / 3 * log(1 / 3)) - 2 / 3 * log(2)
    assert float(batch_information(eye[:1], eye[1:])) == pytest.approx(expected, rel=1e-14)


def test_three_quarters_of_a_class_are_told_from_the_rest_by_their_labels() -> None:
    """Ten even classes, 64 and 16 rows a batch: a model that is right has about 0.05 nats, so that 0 is not the aim."""
    kept = np.full(10, 1.0)
    kept[3] = 0.25
    gone = np.eye(10)[3]
    found = float(batch_information(torch.tensor(kept / kept.sum()).repeat(64, 1), torch.tensor(gone).repeat(16, 1)))
    assert 0.04 < found < 0.055


def plain(way: InformationPenalty) -> Tensor:
    """Fine-tuning with Adam on the batches that a run sees, written out."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        batches.append(batch)
        return sample_tasks.loss(model, batch)

    batches: list[tuple[Tensor, Tensor]] = []
    run(way, replace(task(), loss=loss))
    model = sample_tasks.make_model()
    model.load_state_dict(task().model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=way.learning_rate)
    for batch in batches:
        optimizer.zero_grad()
        sample_tasks.loss(model, batch).backward()
        optimizer.step()
    return flat(model)


def test_below_its_reference_it_is_fine_tuning_bit_for_bit() -> None:
    """I is at most log 2; above a reference of 0 the same settings move the weights elsewhere."""
    silent = InformationPenalty(epochs=3, gamma=50.0, from_labels=False, reference=log(2))
    expected = plain(silent)
    assert torch.equal(flat(run(silent, task())), expected)
    assert torch.equal(flat(run(replace(silent, gamma=0.0, reference=0.0), task())), expected)
    assert not torch.equal(flat(run(replace(silent, reference=0.0), task())), expected)


def test_a_model_sure_of_its_labels_is_not_punished_for_what_they_tell() -> None:
    """One class forgotten: the reference of the labels is I itself, whatever the batch, where 0 would punish."""
    y = torch.arange(200) % 5
    x = 1e3 * torch.eye(5)[y]
    rows = ex.Examples(x, y, ids=[f"r{k}" for k in range(200)])
    model = nn.Linear(5, 5, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(5))
    sure = ex.Task(model=model, retain=rows.take(y != 3), forget=rows.take(y == 3), loss=sample_tasks.loss)
    assert torch.equal(flat(run(InformationPenalty(gamma=10.0, epochs=5), sure)), flat(model))  # its loss is 0 as well
    assert batch_information(torch.eye(5)[y[y != 3]].double(), torch.eye(5)[y[y == 3]].double()) > 0.05


@pytest.mark.parametrize("reference", [0.0, 0.02])
def test_a_step_is_down_the_loss_and_the_excess(reference: float) -> None:
    """One batch of each part, by Adam's first step: the sign of the gradient of L_R + γ (I - I_ref), times the rate."""
    own = replace(task(), retain=task().retain.take(range(64)))
    found, before = (
        run(InformationPenalty(epochs=1, gamma=5.0, forget_size=64, from_labels=False, reference=reference), own),
        own.model,
    )
    kept, lost = (before(rows.tensors[0]).double().softmax(1) for rows in (own.retain, own.forget))
    information = batch_information(kept, lost)
    assert float(information.detach()) > 0.02
    objective = sample_tasks.loss(before, own.retain.tensors) + 5.0 * (information - reference)
    slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(objective, list(before.parameters()))])
    some = slope.abs() > 1e-4
    assert int(some.sum()) > 100
    assert torch.allclose((flat(found) - flat(before))[some], -1e-3 * slope.sign()[some], rtol=1e-2)


def test_the_published_target_lowers_information_by_breaking_the_class_and_the_labels_reference_does_not() -> None:
    told: list[float] = []
    for from_labels in (True, False):
        model = run(InformationPenalty(gamma=3.5, epochs=40, learning_rate=3e-3, from_labels=from_labels), task())
        with torch.no_grad():
            p, q = (model(rows.tensors[0]).double().softmax(1) for rows in (task().retain, task().forget))
        told += [float(batch_information(p, q)), float((q.argmax(1) == 9).double().mean())]
    assert told[2] < told[0] / 2
    assert told[3] < told[1] - 0.3


def test_scores_of_texts_and_a_ruined_model_are_refused() -> None:
    tokens = torch.cartesian_prod(*[torch.arange(4)] * 3)[:40]  # no two rows alike
    rows = ex.Examples(tokens, tokens.flip(1), ids=[f"t{k}" for k in range(40)])
    texts = ex.Task(
        model=nn.Embedding(4, 4), retain=rows.take(range(30)), forget=rows.take(range(30, 40)),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten()),
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"information needs scores of shape \(b, classes\), not \(30, 3, 4\)"):
        run(InformationPenalty(), texts)
    with pytest.raises(NonFinite):
        run(InformationPenalty(learning_rate=1e30, epochs=50), task())
