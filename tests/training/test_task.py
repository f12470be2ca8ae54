"""A task holds all its data, or parts of them; a request parts them, and what it cannot part it refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import expunge as ex
from expunge.data import check_disjoint
from expunge.errors import TaskError
from expunge.training.task import accuracies, accuracy, labelled, load_task

N = 12
X, Y = torch.arange(36.0).reshape(N, 3), torch.arange(N) % 3
IDS, OWNERS = [f"r{i}" for i in range(N)], [f"p{i // 3}" for i in range(N)]
ROWS = ex.Examples(X, Y, ids=IDS, groups=OWNERS)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def task(**changes: Any) -> ex.Task:
    return ex.Task(**({"model": nn.Linear(3, 3), "loss": loss} | changes))


# Data in one form


@pytest.mark.parametrize(
    "given", [(X, Y), (X.numpy(), Y.numpy()), TensorDataset(X, Y), ex.Examples(X, Y), {"x": X, "labels": Y}]
)
def test_tensors_of_any_kind_become_examples_once(given: Any) -> None:
    made = task(retain=given, forget=given, held_out=given)
    for part in (made.retain, made.forget, made.held_out, task(data=given).data):
        assert isinstance(part, ex.Examples)
        assert torch.equal(part.values[-1 if part.fields else 0], X)


def test_a_loader_stays_a_loader_where_no_row_is_named() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    made = task(retain=loader, forget=(X, Y))
    assert made.retain is loader
    assert made.parts() is made
    for ask in (made.everything, lambda: made.parts(ex.Request.rows(["r1"]))):
        with pytest.raises(TaskError, match="a loader of batches has no rows to name"):
            ask()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "task.retain and task.forget must be given: give data="),
        ({"retain": ROWS}, "task.forget must be given"),
        ({"forget": ROWS}, "task.retain must be given"),
        ({"data": ROWS, "retain": ROWS, "forget": ROWS}, "not data and retain and forget"),
        ({"data": ROWS, "forget": ROWS}, "give task.data, or task.retain and task.forget, not data and forget"),
        ({"data": DataLoader(TensorDataset(X, Y))}, "task.data must be Examples, .* not DataLoader"),
        ({"data": (X, Y[1:])}, "task.data: tensors must have the same length"),
        ({"data": ROWS, "held_out": "rows"}, "task.held_out: data must be Examples"),
        ({"retain": iter([X]), "forget": ROWS}, "task.retain: data must be iterated again"),
    ],
)
def test_data_in_both_forms_or_in_none_are_refused_by_name(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError, match=says):
        task(**fields)


# Requests


@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (ex.Request.rows(["r7", "r2"]), ["r2", "r7"]),
        (ex.Request.groups(["p1"]), ["r3", "r4", "r5"]),
        (ex.Request.groups(["p1"]) | ex.Request.rows(["r0", "r4"]), ["r0", "r3", "r4", "r5"]),
    ],
)
def test_a_request_parts_the_data_into_what_stays_and_what_goes(request_: ex.Request, gone: list[str]) -> None:
    whole = task(data=ROWS, provenance="none", features=nn.Identity())
    made = whole.parts(request_)
    assert made.data is None
    assert made.forget.ids == gone
    assert made.retain.ids == [name for name in IDS if name not in gone]
    assert check_disjoint(made.retain, made.forget) == "ids and content"
    assert (made.model, made.loss, made.provenance) == (whole.model, whole.loss, "none")
    assert torch.equal(made.forget.tensors[0], X[[IDS.index(name) for name in gone]])
    assert whole.data is ROWS  # the task is as it was
    assert made.parts() is made


def test_a_request_may_part_anew_what_was_parted() -> None:
    made = task(retain=ROWS.take(range(6)), forget=ROWS.take(range(6, N)))
    assert made.everything().ids == task(data=ROWS).everything().ids == IDS
    assert made.parts(ex.Request.rows(["r1", "r8"])).forget.ids == ["r1", "r8"]


def test_examples_without_ids_are_parted_by_their_owners() -> None:
    unnamed = task(data=ex.Examples(X, Y, groups=OWNERS)).parts(ex.Request.groups(["p0"]))
    assert len(unnamed.forget) == 3
    assert not unnamed.retain.named


def test_named_fields_are_parted_too() -> None:
    made = task(data=ex.Examples(x=X, labels=Y, ids=IDS)).parts(ex.Request.rows(["r1"]))
    assert made.retain.fields == made.forget.fields == ("labels", "x")


@pytest.mark.parametrize(
    ("data", "request_", "says"),
    [
        (ROWS, None, "a request must name what is to be forgotten"),
        (ROWS, ex.Request.rows(["r1", "x"]), "unknown ids, not among the data: 'x'"),
        (ROWS, ex.Request.groups(["x"]), "unknown owners, not among the groups of the data: 'x'"),
        (ROWS, ex.Request.rows(IDS), "the request takes all 12 rows"),
        (ROWS, ex.Request.labels(["r1"], 2), "a request for labels changes rows and deletes none"),
        (ROWS, ex.Request.features([1]) | ex.Request.rows(["r1"]), "a request for features changes rows"),
        (ex.Examples(X, Y), ex.Request.rows(["1"]), r"the data have none: Examples\(..., ids=...\)"),
        (ex.Examples(X, Y, ids=IDS), ex.Request.groups(["p1"]), r"the data have none: Examples\(..., groups=...\)"),
    ],
)
def test_a_request_that_parts_nothing_is_refused(data: ex.Examples, request_: Any, says: str) -> None:
    with pytest.raises(TaskError if request_ is None else ValueError, match=says):
        task(data=data).parts(request_)


def test_sets_that_share_a_row_are_no_one_set() -> None:
    with pytest.raises(TaskError, match="cannot be one set: ids: 'r5' is given twice"):
        task(retain=ROWS.take(range(6)), forget=ROWS.take(range(5, N))).everything()


def test_a_task_in_a_file_is_parted_as_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "import torch, expunge as ex\n"
        "def task():\n"
        "    rows = ex.Examples(torch.arange(6.0)[:, None], ids=['a', 'b', 'c', 'd', 'e', 'f'])\n"
        "    return ex.Task(model=torch.nn.Linear(1, 1), data=rows, loss=lambda model, batch: model(batch[0]).mean())\n"
    )
    where = f"{tmp_path / 'tasks.py'}:task"
    assert load_task(where, ex.Request.rows(["b"])).forget.ids == ["b"]
    with pytest.raises(TaskError, match="a request must name what is to be forgotten"):
        load_task(where)


# Accuracy


def test_without_held_out_data_their_accuracy_is_left_out() -> None:
    made = task(data=ROWS).parts(ex.Request.rows(["r1"]))
    assert list(accuracies(made, made.model)) == ["forget"]
    assert list(accuracies(replace(made, held_out=(X, Y)), made.model)) == ["held_out", "forget"]


class Reader(nn.Module):
    """Says 1 where the first number is above 4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([4 - x[:, 0], x[:, 0] - 4], dim=1)


@pytest.mark.parametrize("label", ["labels", "label", "y", "Target"])
def test_right_labels_are_counted_in_one_field_and_a_label(label: str) -> None:
    truth = torch.tensor([0, 0] + [1] * 9 + [0])
    assert accuracy(Reader(), ex.Examples(**{"a": X, label: truth})) == accuracy(Reader(), (X, truth)) == 11 / 12


@pytest.mark.parametrize(
    "fields",
    [{"x": X, "z": Y}, {"x": X, "z": X, "labels": Y}, {"labels": Y, "y": Y}, {"x": X}, {"labels": Y}],
    ids=lambda f: "+".join(f),
)
def test_fields_that_do_not_say_what_is_what_are_refused_with_the_remedy(fields: dict[str, Tensor]) -> None:
    with pytest.raises(TaskError, match=r"not in fields \[.*set task.accuracy"):
        accuracy(Reader(), ex.Examples(**fields))
    right = accuracy(Reader(), ex.Examples(**fields), lambda _, batch: torch.ones(len(next(iter(batch.values())))))
    assert right == 1


def test_a_head_says_that_it_needs_rows_by_position() -> None:
    made = task(data=ex.Examples(x=X, labels=Y, ids=IDS)).parts(ex.Request.rows(["r1"]))
    for part in ("retain", "held_out"):
        with pytest.raises(TaskError, match=rf"needs task.{part} as Examples\(x, y\)"):
            labelled(made, part)


# Heads


def analytic() -> ex.AnalyticHead:
    return ex.AnalyticHead(ridge=1.0, classes=3, provenance="public", key=bytes(32))


@pytest.mark.parametrize(
    "learn",
    [
        lambda head, rows: head.learn(rows),
        lambda head, rows: head.learn(X, Y, ids=IDS),
        lambda head, rows: head.learn(X.numpy(), Y.numpy(), ids=np.array(IDS)),
        lambda head, rows: head.learn(X, Y.numpy(), ids=IDS),
    ],
)
def test_an_exact_head_takes_examples_tensors_and_arrays(learn: Callable[[Any, Any], None]) -> None:
    head, other = analytic(), analytic()
    learn(head, ROWS)
    head.forget(ROWS.take([1, 5]))
    rest = ROWS.take([i for i in range(N) if i not in (1, 5)])
    other.learn(*rest.tensors, ids=rest.ids)
    assert torch.equal(head.weights, other.weights)


@pytest.mark.parametrize(
    ("learn", "says"),
    [
        (lambda h: h.learn(X, Y), r"give X, Y and ids=, or Examples"),
        (lambda h: h.learn(X, ids=IDS), r"give X, Y and ids=, or Examples"),
        (lambda h: h.learn(ROWS, Y), "hold labels and ids already"),
        (lambda h: h.learn(ROWS, ids=IDS), "hold labels and ids already"),
        (lambda h: h.learn(ex.Examples(X, Y)), "not 2 tensors without ids"),
        (lambda h: h.forget(ex.Examples(X, ids=IDS)), "not 1 tensors with ids"),
        (lambda h: h.learn(ex.Examples(x=X, labels=Y, ids=IDS)), "not fields"),
    ],
)
def test_an_exact_head_refuses_rows_without_labels_or_ids(learn: Callable[[Any], None], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        learn(analytic())


def test_a_convex_head_takes_examples_arrays_and_chunks() -> None:
    def fitted(rows: Any) -> Tensor:
        head = ex.ConvexHead(
            loss="logistic", regularization=0.1, classes=3, residual=1e-8, noise_std=0.1, key=bytes(32),
            provenance="public",
        )  # fmt: skip
        return head.fit(rows, generator=torch.Generator().manual_seed(1)).model.weight

    arrays = (X.numpy() / 36, Y.numpy(), np.array(IDS))
    expected = fitted(ex.Examples(X / 36, Y, ids=IDS))
    for rows in (arrays, (X / 36, Y, IDS), [arrays], lambda: [arrays]):
        assert torch.equal(fitted(rows), expected)
    with pytest.raises(TypeError, match="a chunk of rows must be"):
        fitted(arrays[:2])


# Where features come from


def test_a_map_says_for_itself_where_it_comes_from_unless_the_task_does() -> None:
    layer, plain = ex.RandomFeatures(3, 5, seed=0), nn.Identity()
    for features, provenance, declared in (
        (layer, None, layer.provenance),
        (layer, f"columns; {layer.provenance}", f"columns; {layer.provenance}"),
        (layer, "", ""),  # said not to be known
        (plain, None, ""),
        (plain, "columns as they are", "columns as they are"),
        (None, None, ""),
    ):
        assert task(data=ROWS, features=features, provenance=provenance).declared == declared


def test_another_map_in_a_task_takes_nothing_of_the_last_ones_provenance() -> None:
    first = task(data=ROWS, features=ex.RandomFeatures(3, 5, seed=0))
    assert replace(first, features=nn.Identity()).declared == ""
    assert replace(first, features=ex.RandomFeatures(3, 5, seed=1)).declared.endswith("seed 1")
    assert first.parts(ex.Request.rows(["r1"])).declared == first.declared


def test_a_provenance_that_is_no_text_is_refused() -> None:
    layer = nn.Identity()
    layer.provenance = 3
    with pytest.raises(TaskError, match="must be a line of text, not 3"):
        _ = task(data=ROWS, features=layer).declared


@pytest.mark.parametrize("epochs", [0, -1, float("nan"), "five"])
def test_a_training_of_no_length_is_refused(epochs: Any) -> None:
    with pytest.raises(TaskError, match=r"task\.training_epochs must be"):
        task(data=ROWS, training_epochs=epochs)
