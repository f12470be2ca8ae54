"""Requests are made of texts and numbers, Python's, numpy's or torch's, and find their rows by name, or refuse."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import expunge as ex
from expunge.data import Request


@pytest.mark.parametrize("new", [1, np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)])
def test_one_label_is_for_all(new: Any) -> None:
    assert Request.labels(["a", "b"], new).relabelled == (("a", 1), ("b", 1))


@pytest.mark.parametrize(
    "new",
    [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), [torch.tensor(1), np.int64(2)], iter([1, 2])],
)
def test_labels_of_any_kind_are_one_for_each_id(new: Any) -> None:
    made = Request.labels(np.array(["a", "b"]), new)
    assert made.relabelled == (("a", 1), ("b", 2))
    assert all(type(name) is str and type(label) is int for name, label in made.relabelled)


@pytest.mark.parametrize(
    "new",
    [
        1.0,
        np.float64(1),
        True,
        np.bool_(True),
        torch.tensor(1.5),
        torch.tensor(True),
        "1",
        None,
        [[1], [2]],
        [1.0, 2.0],
    ],
)
def test_what_is_no_whole_number_is_no_label(new: Any) -> None:
    with pytest.raises(ValueError, match="new must hold whole numbers"):
        Request.labels(["a", "b"], new)


@pytest.mark.parametrize("new", [torch.tensor([1]), np.array([1, 2, 3]), []])
def test_another_number_of_labels_is_refused(new: Any) -> None:
    with pytest.raises(ValueError, match="one label, or one for each id"):
        Request.labels(["a", "b"], new)


@pytest.mark.parametrize("columns", [3, np.int64(3), [3], np.array([3]), torch.tensor([3]), torch.tensor(3), {3}])
def test_columns_are_one_or_several(columns: Any) -> None:
    assert Request.features(columns) == Request.features([3])


@pytest.mark.parametrize("ids", [["3", "7"], [3, 7], np.array([3, 7]), torch.tensor([7, 3]), (str(i) for i in (3, 7))])
def test_ids_are_what_examples_take_as_ids(ids: Any) -> None:
    assert Request.rows(ids).removed == {"3", "7"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Request(), "asks for nothing"),
        (lambda: Request.rows("row 1"), "ids must be a collection of texts, not 'row 1'"),
        (lambda: Request.rows(np.array("a")), "ids must be a collection of texts, not 'a'"),
        (lambda: Request.rows([0.5]), "ids must be texts .* not 0.5"),
        (lambda: Request.rows([True]), "ids must be texts .* not True"),
        (lambda: Request.rows([]), "ids must name at least one row"),
        (lambda: Request.rows(["a", "b", "a"]), "ids: 'a' is given twice"),
        (lambda: Request.rows([1, "1"]), "ids: '1' is given twice"),
        (lambda: Request.groups([]), "owners must name at least one row"),
        (lambda: Request.groups(["ann", "ann"]), "owners: 'ann' is given twice"),
        (lambda: Request.groups("ann"), "owners must be a collection of texts, not 'ann'"),
        (lambda: Request.labels(["a"], [1, 2]), "2 labels for 1 ids"),
        (lambda: Request.labels(["a"], [-1]), "0 or above"),
        (lambda: Request.features([]), "at least one feature"),
        (lambda: Request.features([-1]), "0 or above"),
        (lambda: Request.features(np.array([0.5])), "columns must be whole numbers"),
        (lambda: Request.features([1], ["a", "a"]), "ids: 'a' is given twice"),
        (lambda: Request.labels(["a"], 1) | Request.labels(["a"], 2), "two labels are asked for 'a'"),
        (lambda: Request.labels(["a"], 1) | Request.rows(["a"]), "deletion and a new label are asked for 'a'"),
        (
            lambda: Request(removed=frozenset("a"), relabelled=(("a", 1),)),
            "deletion and a new label are asked for 'a'",
        ),
    ],
)
def test_a_request_that_says_nothing_sensible_is_refused(make: Callable[[], Request], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        make()


OWNED = ex.Examples(
    torch.arange(6.0), ids=["r0", "r1", "r2", "r3", "r4", "r5"], groups=["ann", "bob", "ann", "cat", "bob", "dan"]
)


def test_a_request_finds_its_rows_by_id_and_by_owner() -> None:
    assert Request.rows(["r4", "r1"]).positions(OWNED) == [1, 4]
    assert Request.groups(["ann", "dan"]).positions(OWNED) == [0, 2, 5]
    assert (Request.groups(["ann"]) | Request.rows(["r0", "r3"])).positions(OWNED) == [0, 2, 3]
    assert Request.features([0]).positions(OWNED) == Request.labels(["r1"], 2).positions(OWNED) == []


def test_owners_become_the_ids_of_their_rows() -> None:
    asked = Request.groups(["bob"]) | Request.rows(["r3"]) | Request.labels(["r0"], 1)
    assert asked.resolved(OWNED) == Request.rows(["r1", "r3", "r4"]) | Request.labels(["r0"], 1)
    assert Request.rows(["r3"]).resolved(OWNED) == Request.rows(["r3"])
    assert asked.kinds == {"groups", "rows", "labels"}
    assert asked.ids == {"r0", "r3"}


def test_owners_stay_with_their_rows_whatever_part_of_the_data_is_taken() -> None:
    part = OWNED.take([5, 2, 1]).to("cpu")
    assert part.groups == ["dan", "ann", "bob"]
    assert Request.groups(["ann"]).positions(part) == [1]
    assert Request.groups([7]).positions(ex.Examples(torch.zeros(3), groups=np.array([7, 8, 7]))) == [0, 2]


@pytest.mark.parametrize(
    ("request_", "examples", "says"),
    [
        (Request.rows(["r1", "x", "y"]), OWNED, "unknown ids, not among the data: 'x', 'y'"),
        (Request.labels(["x"], 1), OWNED, "unknown ids, not among the data: 'x'"),
        (Request.features([1], ["x"]), OWNED, "unknown ids, not among the data: 'x'"),
        (Request.groups(["ann", "eve"]), OWNED, "unknown owners, not among the groups of the data: 'eve'"),
        (Request.groups(["ann"]) | Request.labels(["r2"], 1), OWNED, "deletion .* and a new label are asked for 'r2'"),
        (Request.rows(["1"]), ex.Examples(torch.zeros(3)), "the data have none: Examples\\(..., ids=...\\)"),
        (Request.groups(["ann"]), ex.Examples(torch.zeros(3)), "the data have none: Examples\\(..., groups=...\\)"),
    ],
)
def test_rows_and_owners_that_the_data_lack_are_refused_by_name(
    request_: Request, examples: ex.Examples, says: str
) -> None:
    for ask in (request_.positions, request_.resolved):
        with pytest.raises(ValueError, match=says):
            ask(examples)


def test_the_rows_of_owners_have_no_names_where_the_data_have_none() -> None:
    with pytest.raises(ValueError, match="can be named only where the data have ids"):
        Request.groups(["ann"]).resolved(ex.Examples(torch.zeros(2), groups=["ann", "bob"]))


def test_a_request_is_a_value() -> None:
    one, other = Request.rows(["a", "b"]) | Request.groups([1]), Request.groups(["1"]) | Request.rows(["b", "a"])
    assert one == other
    assert len({one, other}) == 1
    with pytest.raises(AttributeError):
        one.removed = frozenset()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_old_name_is_the_same_class() -> None:
    assert ex.Forget is ex.Request is Request
