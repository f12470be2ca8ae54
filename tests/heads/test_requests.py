"""Requests are made of texts and numbers, Python's, numpy's or torch's."""

from typing import Any

import numpy as np
import pytest
import torch

from expunge.heads import Forget


@pytest.mark.parametrize("new", [1, np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)])
def test_one_label_is_for_all(new: Any) -> None:
    assert Forget.labels(["a", "b"], new).relabelled == (("a", 1), ("b", 1))


@pytest.mark.parametrize(
    "new",
    [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), [torch.tensor(1), np.int64(2)], iter([1, 2])],
)
def test_labels_of_any_kind_are_one_for_each_id(new: Any) -> None:
    made = Forget.labels(np.array(["a", "b"]), new)
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
        Forget.labels(["a", "b"], new)


@pytest.mark.parametrize("new", [torch.tensor([1]), np.array([1, 2, 3]), []])
def test_another_number_of_labels_is_refused(new: Any) -> None:
    with pytest.raises(ValueError, match="one label, or one for each id"):
        Forget.labels(["a", "b"], new)


@pytest.mark.parametrize("columns", [3, np.int64(3), [3], np.array([3]), torch.tensor([3]), torch.tensor(3), {3}])
def test_columns_are_one_or_several(columns: Any) -> None:
    assert Forget.features(columns) == Forget.features([3])
