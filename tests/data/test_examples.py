"""Examples: rows with names, and their parts by positions or masks."""

import re
from typing import Any

import numpy as np
import pytest
import torch

import expunge as ex
from expunge.data import as_examples

X, Y = torch.arange(20.0).reshape(10, 2), torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 1])


def named() -> ex.Examples:
    return ex.Examples(X, Y, ids=[f"r{i}" for i in range(10)])


MASK = Y != 2


@pytest.mark.parametrize(
    "mask",
    [MASK, MASK.numpy(), MASK.tolist(), list(MASK.numpy()), tuple(MASK.tolist())],
    ids=lambda m: type(m).__name__,
)
def test_a_mask_takes_the_rows_where_it_is_true(mask: Any) -> None:
    kept = named().take(mask)
    assert kept.ids == ["r0", "r1", "r4", "r5", "r6", "r8", "r9"]
    assert torch.equal(kept.tensors[0], X[MASK])
    assert torch.equal(kept.tensors[1], Y[MASK])


@pytest.mark.parametrize(
    "index",
    [[3, 0], (3, 0), torch.tensor([3, 0]), np.array([3, 0]), np.array([3, 0], dtype=np.uint8), range(3, -1, -3)],
)
def test_positions_take_rows_in_their_order(index: Any) -> None:
    assert named().take(index).ids == ["r3", "r0"]


@pytest.mark.parametrize(
    ("index", "error", "reason"),
    [
        (MASK[:9], ValueError, "one bool for each example: 9 for 10"),
        ([True] * 11, ValueError, "one bool for each example: 11 for 10"),
        (torch.zeros(10, dtype=torch.bool), ValueError, "takes no example"),
        (MASK.long(), ValueError, "twice; a mask must hold bools"),
        (MASK.numpy().astype(np.uint8), ValueError, "twice; a mask must hold bools"),
        (MASK.float(), TypeError, "positions or a mask of bools"),
        ([0.0, 1.0], TypeError, "positions or a mask of bools"),
        (MASK[:, None], TypeError, "one axis"),
        (3, TypeError, "one axis"),
        ([-1], ValueError, "positions from 0 to 9, not -1"),
        ([10], ValueError, "positions from 0 to 9, not 10"),
        ([4, 4], ValueError, "takes example 4 twice"),
        ([], ValueError, "names no example"),
        (["r1"], TypeError, "positions or a mask"),
        ([True, 2], TypeError, "both bools and numbers"),
        ((2, np.bool_(True)), TypeError, "both bools and numbers"),
        ([torch.tensor(True), 2], TypeError, "both bools and numbers"),
    ],
)
def test_what_is_neither_is_refused(index: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        named().take(index)


def test_parts_keep_names_and_say_whether_they_are_names() -> None:
    unnamed = ex.Examples(X, Y)
    assert not unnamed.named
    assert not unnamed.take([1]).named
    assert unnamed.take([1]).ids == ["1"]
    assert named().named
    assert named().take([1]).named
    assert all(part.named for part in ex.split(named(), [4], generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "ids", [range(10), np.arange(10), torch.arange(10), [np.int64(i) for i in range(10)], [str(i) for i in range(10)]]
)
def test_whole_numbers_are_names_by_their_digits(ids: Any) -> None:
    rows = ex.Examples(X, Y, ids=ids)
    assert rows.named
    assert rows.ids == [str(i) for i in range(10)]
    assert all(type(name) is str for name in rows.ids)


@pytest.mark.parametrize(
    ("ids", "error", "reason"),
    [
        ([0.5] * 10, TypeError, r"ids must be texts \(or whole numbers\), not 0.5"),
        ([b"a"] * 10, TypeError, "not b'a'"),
        ([None] * 10, TypeError, "not None"),
        ([True] * 10, TypeError, "not True"),
        ("abcdefghij", TypeError, "not 'abcdefghij'"),
        (7, TypeError, "not 7"),
        (torch.tensor(7), TypeError, "must be a collection"),
        (set("abcdefghij"), TypeError, "in the order of the rows, and a set has none"),
        (frozenset("abcdefghij"), TypeError, "in the order of the rows, and a set has none"),
        (["a"] * 10, ValueError, "'a' is given twice"),
        ([1, "1", *range(2, 10)], ValueError, "'1' is given twice"),
        (["a"], ValueError, "1 ids for 10 examples"),
        (["", *map(str, range(9))], ValueError, "the empty text names no row"),
    ],
)
def test_ids_that_name_nothing_are_refused_as_the_rows_are_made(ids: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        ex.Examples(X, Y, ids=ids)


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "x", [X.numpy(), X.numpy()[::-1], read_only(X.numpy().copy()), X.numpy().astype(">f4"), X.numpy() > 3]
)
def test_numpy_arrays_are_taken_as_they_are(x: np.ndarray) -> None:
    rows = ex.Examples(x, Y.numpy())
    assert np.array_equal(rows.tensors[0].numpy(), x)
    assert rows.tensors[1].dtype == torch.int64
    both = as_examples((x, Y.numpy()))
    assert both is not None
    assert len(both) == 10


@pytest.mark.parametrize("x", [np.array(["a"] * 10), np.array([object()] * 10), 7, None, torch.tensor(1.0)])
def test_what_holds_no_rows_of_numbers_is_refused(x: Any) -> None:
    with pytest.raises(TypeError, match="Examples"):
        ex.Examples(x)


def test_data_that_can_be_read_only_once_are_refused() -> None:
    for once in (iter([(X, Y)]), ((X, Y) for _ in range(3)), zip(X, Y, strict=True)):
        with pytest.raises(TypeError, match=re.escape(f"a {type(once).__name__} can be read only once")):
            as_examples(once)
    assert as_examples([(X, Y)]) is None


@pytest.mark.parametrize("parts", [[X, X], [X[:, 0], X[:, 0]], [X.numpy(), Y.numpy()], [X]])
def test_a_list_of_arrays_is_refused_since_it_may_be_rows_batches_or_columns(parts: Any) -> None:
    for use in (
        as_examples,
        lambda given: ex.commit(given, key=bytes(32)),
        lambda given: ex.check_disjoint(given, (X, Y)),
    ):
        with pytest.raises(TypeError, match=r"rows, as batches or as columns: give Examples\(torch.stack\(rows\)\)"):
            use(parts)
    assert as_examples(tuple(parts)) is not None
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    by_rows, by_columns = (
        ex.commit(ex.Examples(torch.stack(rows)), key=bytes(32)),
        ex.commit(tuple(rows), key=bytes(32)),
    )
    assert by_rows != by_columns


def test_sparse_tensors_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"dense tensors, not torch\.sparse_coo"):
        ex.Examples(torch.eye(3).to_sparse())
