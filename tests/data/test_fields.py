"""Examples by name: batches are dicts, and every verb gives the bits that it gives for the same tensors by position."""

import hashlib
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import expunge as ex
from expunge.data import Batches, as_examples, check_disjoint
from expunge.errors import StateError, StillRetained
from expunge.randomness.secret import Secret
from expunge.trace.identity import row_digests
from expunge.trace.schedule import hex_of
from expunge.training.example_gradients import poisson_batches
from expunge.training.interruption import state_file
from expunge.training.mixing import telling_rows

N = 20
X, Y = (torch.arange(60, dtype=torch.float32) / 8).reshape(N, 3), torch.arange(N) % 3
KEY = bytes(range(32))
IDS = [f"r{i}" for i in range(N)]


def by_name(part: slice = slice(None), **more: Any) -> ex.Examples:
    return ex.Examples(x=X[part], labels=Y[part], ids=IDS[part], **more)


def by_place(part: slice = slice(None)) -> ex.Examples:
    return ex.Examples(X[part], Y[part], ids=IDS[part])


# What it was before there were names


def test_commitments_order_and_digests_of_tensors_by_position_are_what_they_were(tmp_path: Path) -> None:
    """Values of the version before fields had names."""
    rows = ex.Examples(X, Y)
    assert ex.commit((X, Y), key=KEY) == ex.commit(rows, key=KEY)
    assert ex.commit(rows, key=KEY) == "hmac-sha256:79fe34ca71937faee956317af460276745a5f3e24284eff0ae330b6979af456e"
    assert [batch[1].tolist() for batch in islice(Batches(rows, batch_size=6, seed=5), 4)] == [
        [1, 0, 1, 1, 2, 0], [1, 2, 2, 2, 0, 1], [1, 2, 0, 0, 2, 1], [1, 0, 0, 0, 2, 1],
    ]  # fmt: skip
    file = state_file(tmp_path / "state", "verb", nn.Linear(3, 3), rows, {}, code={})
    content = [
        [[[20, 3], "torch.float32"], [[20], "torch.int64"]],
        "defe1527d26aa60f23bfd35dcadd4cfc64ead1d70ad9bde3510d7deffd9b60cc",
    ]
    assert file is not None
    assert file._run["data"] == hashlib.sha256(rfc8785.dumps(content)).hexdigest()  # pyright: ignore
    digests = ["e1c648fb4faf2bf3cf8dea9c2a47d162", "63d2c33ea68172b33b39fcce1fb276e9"]
    assert hex_of(row_digests(KEY, rows)[:2]) == digests
    assert telling_rows(rows) == [0, 1, 2, 19, 3, 5, 8, 11, 14, 16]
    drawn = islice(poisson_batches(rows, sampling_rate=0.2, secret=Secret(KEY)), 3)
    assert [batch[0][:, 0].mul(8).int().tolist() for batch in drawn] == [
        [9, 21, 42, 51], [21, 54], [3, 12, 15, 36, 39, 51, 57],
    ]  # fmt: skip


def test_fields_are_committed_to_as_the_batches_of_a_loader_with_the_same_names() -> None:
    rows = ex.Examples(labels=Y, x=X)
    assert ex.commit(rows, key=KEY) == ex.commit([{"x": X, "labels": Y}], key=KEY)
    assert ex.commit(rows, key=KEY) == "hmac-sha256:1a465a638864a0bd17462bfebdd2e42c285aa559a1b2f37061ba9e760454f9d0"
    ex.open_commitment(ex.commit({"x": X, "labels": Y}, key=KEY), ex.Examples(x=X.numpy(), labels=Y.numpy()), key=KEY)


# Examples


def test_batches_of_named_tensors_are_dicts() -> None:
    for rows in (by_name(), by_name().take(range(N)), by_name().to("cpu"), by_name().renamed(IDS)):
        found = list(rows.chunks(15))
        assert [sorted(batch) for batch in found] == [["labels", "x"]] * 2
        assert torch.equal(found[1]["x"], X[15:])
    named, placed = (islice(Batches(rows, batch_size=6, seed=5), 7) for rows in (by_name(), by_place()))
    for batch, (x, y) in zip(named, placed, strict=True):
        assert torch.equal(batch["x"], x)
        assert torch.equal(batch["labels"], y)


def test_the_order_in_which_fields_are_written_does_not_count() -> None:
    assert ex.Examples(x=X, labels=Y).fields == ex.Examples(labels=Y, x=X).fields == ("labels", "x")
    assert as_examples({"x": X, "labels": Y.numpy()}).fields == ("labels", "x")  # pyright: ignore


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: ex.Examples(X, labels=Y), TypeError, "by position or by name, not both: 1 by position, and labels"),
        (lambda: ex.Examples(X, names=IDS), TypeError, "by position or by name, not both: 1 by position, and names"),
        (lambda: ex.Examples(x=X, labels=Y[:9]), ValueError, "same length, not {'labels': 9, 'x': 20}"),
        (lambda: ex.Examples(x=X, labels=IDS), TypeError, "Examples: labels takes tensors .* not list"),
        (lambda: ex.Examples(x=X, text=np.array(IDS)), TypeError, "Examples: text must hold real numbers"),
        (lambda: as_examples({"x": X, "ids": Y}), TypeError, "a field cannot be called 'ids'"),
        (lambda: as_examples({"x": IDS}), TypeError, "data must be Examples"),
        (lambda: by_name().tensors, TypeError, "by position are needed here, not fields ['labels', 'x']"),
        (lambda: by_name(groups=IDS[1:]), ValueError, "groups must name the owner of every example: 19 for 20"),
        (lambda: by_name(groups=[0.5] * N), TypeError, "groups must be texts .* not 0.5"),
        (lambda: by_name(groups=set(IDS)), TypeError, "groups must be in the order of the rows"),
    ],
)
def test_fields_that_make_no_rows_are_refused_by_name(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as refusal:
        make()
    assert re.search(says.replace("[", r"\[").replace("]", r"\]"), str(refusal.value))


# Joining


def test_joined_sets_hold_the_rows_of_all_under_their_ids() -> None:
    first, second, third = by_name(slice(0, 5)), by_name(slice(5, 6)), by_name(slice(6, N))
    for rows in (ex.Examples.join([first, second, third]), first + second + third):
        assert rows.ids == IDS
        assert torch.equal(rows.values[1], X)
        assert rows.fields == ("labels", "x")
    unnamed = ex.Examples(X[:5]) + ex.Examples(X[5:])
    assert (unnamed.ids, unnamed.named) == ([str(i) for i in range(N)], False)


def test_owners_are_known_where_every_set_names_them() -> None:
    ann, bob = by_name(slice(0, 2), groups=["ann"] * 2), by_name(slice(2, 3), groups=["bob"])
    assert (ann + bob).groups == ["ann", "ann", "bob"]
    assert (ann + by_name(slice(2, 3))).groups is None


@pytest.mark.parametrize(
    ("other", "error", "says"),
    [
        (by_name(slice(4, 6)), ValueError, "ids: 'r4' is given twice"),
        (by_place(slice(5, 6)), ValueError, "fields are alike, not .*labels.* and by position"),
        (ex.Examples(x=X[5:]), ValueError, "fields are alike"),
        (ex.Examples(x=X[5:], labels=Y[5:]), ValueError, "ids are alike, not given and none"),
        (ex.Examples(x=X[5:].double(), labels=Y[5:], ids=IDS[5:]), ValueError, "not x of torch.float32"),
        (ex.Examples(x=X[5:, :2], labels=Y[5:], ids=IDS[5:]), ValueError, r"not x of torch.float32, \(3,\)"),
        ((X, Y), TypeError, "only Examples can be joined, not tuple"),
    ],
)
def test_what_cannot_be_one_set_is_not_joined(other: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ex.Examples.join([by_name(slice(0, 5)), other])
    with pytest.raises(ValueError, match="no examples to join"):
        ex.Examples.join([])


# Data sets


class Items(Dataset[Any]):
    """Counts how often each item is read."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.reads = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.items[index]


def test_a_dataset_is_read_once_into_tensors() -> None:
    items = Items([{"x": X[i].numpy(), "labels": int(Y[i])} for i in range(N)])
    rows = ex.Examples.of(items, ids=IDS, groups=[i // 2 for i in range(N)])
    assert items.reads == N
    assert rows.fields == ("labels", "x")
    assert ex.commit(rows.values, key=KEY) == ex.commit(by_name().values, key=KEY)
    assert rows.values[0].dtype == torch.int64
    assert (rows.ids, rows.groups) == (IDS, [str(i // 2) for i in range(N)])
    placed = ex.Examples.of(TensorDataset(X, Y))
    assert torch.equal(placed.tensors[0], X)
    assert torch.equal(placed.tensors[1], Y)
    assert torch.equal(ex.Examples.of(Items(list(X))).tensors[0], X)
    assert ex.Examples.of(Items([[True, 0.5]])).tensors[0].dtype == torch.bool


@pytest.mark.parametrize(
    ("items", "error", "says"),
    [
        ([], ValueError, "the dataset is empty"),
        (
            [{"x": X[0]}, {"x": X[0, :2]}],
            ValueError,
            r"'x' of item 1 is torch.float32 of shape \(2,\), that of item 0 is torch.float32 of shape \(3,\)",
        ),
        ([(X[0], 1), (X[0], 1.0)], ValueError, "part 1 of item 1 is float, that of item 0 is int"),
        ([(X[0], 1), (X[0],)], ValueError, "item 1 holds part 0, item 0 holds part 0, part 1"),
        ([{"x": X[0]}, {"y": X[0]}], ValueError, "item 1 holds 'y', item 0 holds 'x'"),
        ([{"x": X[0], "text": "dear"}], TypeError, "'text' of item 0 must be a tensor, an array or a number, not str"),
        ([{"x": X[0], "ids": 1}], TypeError, "a field cannot be called 'ids'"),
    ],
)
def test_items_that_make_no_rows_are_refused_by_number(items: list[Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        ex.Examples.of(Items(items))


@pytest.mark.parametrize("dataset", [iter([X]), X, "x", {"x": X}, None])
def test_what_is_no_dataset_is_refused(dataset: Any) -> None:
    with pytest.raises(TypeError, match="dataset must have a length and items"):
        ex.Examples.of(dataset)


# The check that nothing forgotten is retained


def unnamed(part: slice, **fields: Tensor) -> ex.Examples:
    return ex.Examples(**{name: values[part] for name, values in fields.items()})


KEPT, GONE, OVERLAP = slice(0, 15), slice(15, N), slice(14, N)
Z = X.flip(0) + 100


def test_inputs_are_compared_with_the_inputs_of_the_same_names_and_labels_with_none() -> None:
    kept = unnamed(KEPT, x=X, z=Z, labels=Y)
    assert check_disjoint(kept, unnamed(GONE, x=X, z=Z, labels=Y)) == "content"
    for labels in (Y, (Y + 1) % 3):
        with pytest.raises(StillRetained, match="holds 1 rows with the content of rows to forget: row 14"):
            check_disjoint(kept, unnamed(OVERLAP, labels=labels, z=Z, x=X))


@pytest.mark.parametrize(
    "fields", [{"x": X, "y2": Z}, {"x": X}, {"z": Z}, {"a": X, "b": Z}, {"x": X, "z": Z, "attention_mask": X > 0}]
)
def test_other_inputs_cannot_be_compared(fields: dict[str, Tensor]) -> None:
    """The same rows with one field less, or under other names, would be found by nobody."""
    with pytest.raises(ValueError, match="inputs are compared by their names"):
        check_disjoint(unnamed(KEPT, x=X, z=Z, labels=Y), unnamed(OVERLAP, **fields))
    with pytest.raises(ValueError, match="inputs are compared by their names"):
        check_disjoint(unnamed(KEPT, x=X, z=Z, labels=Y), ex.Examples(torch.cat([X, Z], dim=1)[OVERLAP], Y[OVERLAP]))


def test_one_input_needs_no_name_on_one_side() -> None:
    assert check_disjoint(unnamed(KEPT, x=X, labels=Y), ex.Examples(X[GONE], Y[GONE])) == "content"
    with pytest.raises(StillRetained, match="row 14"):
        check_disjoint(unnamed(KEPT, x=X, labels=Y), ex.Examples(X[OVERLAP], Y[OVERLAP]))


def test_columns_of_one_number_are_compared_without_the_label() -> None:
    age, income = torch.arange(20.0), torch.arange(20.0) % 7
    kept = unnamed(KEPT, age=age, income=income, label=Y)
    assert check_disjoint(kept, unnamed(GONE, age=age, income=income, label=Y)) == "content"
    with pytest.raises(StillRetained, match="row 14"):
        check_disjoint(kept, unnamed(OVERLAP, age=age, income=income, label=(Y + 1) % 3))


def test_padding_hides_no_row_that_has_a_mask() -> None:
    short = torch.tensor([[7, 8, 0], [5, 6, 4]])
    long = torch.tensor([[7, 8, 0, 0], [1, 2, 3, 4]])
    retain = ex.Examples(input_ids=short, attention_mask=(short > 0).long(), labels=torch.tensor([0, 1]))
    gone = ex.Examples(input_ids=long, attention_mask=(long > 0).long(), labels=torch.tensor([1, 1]))
    with pytest.raises(StillRetained, match="row 0"):
        check_disjoint(retain, gone)
    assert check_disjoint(retain, gone.take([1])) == "content"


# Every verb


def named_loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])


def placed_loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def coins() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


CLIPPED = ex.GradientClipping(
    init_clip=0.5, grad_clip=1.0, learning_rate=0.05, weight_decay=1.0, steps=6, noise_std=0.01
)
PRIVATE = ex.DPTraining(sample_clip=1.0, noise_multiplier=1.0, sampling_rate=0.3, steps=4, group_size=2)


def unlearned(rows: ex.Examples, loss: Any) -> nn.Module:
    done = ex.unlearn(
        trained(), rows.take(range(15)), CLIPPED, loss=loss, forget=rows.take(range(15, N)), batch_size=4,
        generator=coins(),
    )  # fmt: skip
    assert done.record.coverage == "ids and content"
    return ex.recover(
        done.model, rows.take(range(15)), loss=loss, epochs=2, recipe=ex.Recipe(batch_size=4), generator=coins()
    )


def retrained(rows: ex.Examples, loss: Any) -> nn.Module:
    return ex.retrain(make, rows, loss=loss, epochs=2, forget=["none of them"], generator=coins()).model


def privately_trained(rows: ex.Examples, loss: Any) -> nn.Module:
    return ex.train_private(
        make, rows, PRIVATE, loss=loss, learning_rate=0.1, expected_batch=6.0, at_once=4, generator=coins()
    ).model


VERBS = {"unlearn and recover": unlearned, "retrain": retrained, "train_private": privately_trained}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_gives_the_same_bits_for_fields_as_for_tensors_by_position(verb: str) -> None:
    named, placed = VERBS[verb](by_name(), named_loss), VERBS[verb](by_place(), placed_loss)
    for one, two in zip(named.parameters(), placed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_traced_training_is_rewound_on_fields(tmp_path: Path) -> None:
    def train(rows: ex.Examples, name: str) -> Any:
        return ex.train_traced(
            make, rows, folder=tmp_path / name, loss=named_loss, epochs=2, steps_per_epoch=4, key=KEY, checkpoints=2,
            recipe=ex.Recipe(optimizer="sgd", learning_rate=0.05),
        )  # fmt: skip

    trace = train(by_name(), "all")
    ex.rewind(trace, IDS[3:5], data=by_name(), make_model=make, loss=named_loss)
    again = train(by_name().take([0, 1, 2, *range(5, N)]), "rest")
    for one, two in zip(trace.model(make).parameters(), again.model(make).parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_state_file_knows_the_names_of_fields(tmp_path: Path) -> None:
    square = torch.arange(12.0).reshape(4, 3)
    one = state_file(tmp_path / "s", "verb", make(), ex.Examples(a=square, b=-square), {}, code={}, drawn=True)
    assert one is not None
    one.save({"done": 1})
    for fields in ({"a": -square, "b": square}, {"a": square, "c": -square}):
        other = state_file(tmp_path / "s", "verb", make(), ex.Examples(**fields), {}, code={}, drawn=True)
        assert other is not None
        with pytest.raises(StateError, match="data"):
            other.load()
    assert not set(row_digests(KEY, ex.Examples(a=square, b=-square))) & set(
        row_digests(KEY, ex.Examples(a=square, c=-square))
    )
