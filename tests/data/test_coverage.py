"""Whether the retained data still hold a forgotten row: looked up by name, else by content."""

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, TensorDataset

import expunge as ex
from expunge.data import check_disjoint
from expunge.data.content import rows_of
from expunge.errors import StillRetained

COINS = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 6, generator=COINS), torch.randint(3, (40,), generator=COINS)
KEPT, GONE = slice(0, 30), slice(30, 40)


def rows(part: slice, prefix: str = "") -> ex.Examples:
    ids = [f"{prefix}{i}" for i in range(40)][part] if prefix else None
    return ex.Examples(X[part], Y[part], ids=ids)


class Batches:
    """A loader without length, opened anew at each pass."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


# By name


def test_rows_with_names_and_content_of_their_own_are_covered_by_both() -> None:
    assert check_disjoint(rows(KEPT, "r"), rows(GONE, "r")) == "ids and content"


def test_a_shared_name_is_refused_and_told() -> None:
    everything = rows(slice(0, 40), "r")
    with pytest.raises(
        StillRetained, match="10 of the 10 rows to forget, by their ids: 'r30', 'r31', 'r32' and 7 more"
    ):
        check_disjoint(everything, rows(GONE, "r"))
    one = ex.Examples(X[:1] + 5, Y[:1], ids=["r3"])  # the name alone, on another row
    with pytest.raises(StillRetained, match=r"1 of the 1 rows to forget, by their ids: 'r3'\. "):
        check_disjoint(everything, one)


def test_ids_alone_are_enough_where_retain_has_names() -> None:
    assert check_disjoint(rows(KEPT, "r"), ["r30", "r31"]) == "ids"
    assert check_disjoint(rows(KEPT, "r"), np.array(["r30"])) == "ids"
    with pytest.raises(StillRetained, match="'r3'"):
        check_disjoint(rows(KEPT, "r"), {"r3", "r31"})
    with pytest.raises(TypeError, match="forget holds ids, and retain has no names"):
        check_disjoint(rows(KEPT), ["3"])


def test_names_tell_equal_rows_apart() -> None:
    """Two people with the same record: one leaves, the other stays, and the certificate says that names decided."""
    twins = ex.Examples(
        torch.cat([X[KEPT], X[30:31]]), torch.cat([Y[KEPT], Y[30:31]]), ids=[f"r{i}" for i in range(31)]
    )
    gone = ex.Examples(X[30:], Y[30:], ids=[f"q{i}" for i in range(10)])
    assert check_disjoint(twins, gone) == "ids"
    ones = torch.ones(30, 6)  # where equal rows are common, every forgotten one has twins that stay
    retain, forget = (
        ex.Examples(ones[:n], ids=[f"{prefix}{i}" for i in range(n)]) for n, prefix in ((20, "r"), (5, "f"))
    )
    assert check_disjoint(retain, forget) == "ids"


def test_two_names_for_the_same_rows_are_no_names() -> None:
    """Most forgotten rows lie in retain under other ids, each once: the ids were made twice."""
    everything, again = rows(slice(0, 40), "r"), rows(GONE, "forget ")
    with pytest.raises(StillRetained, match="two names for the same rows"):
        check_disjoint(everything, again)


# By content


@pytest.mark.parametrize(("kept", "gone"), [("", ""), ("r", ""), ("", "f")])
def test_without_names_on_either_side_content_decides(kept: str, gone: str) -> None:
    assert check_disjoint(rows(KEPT, kept), rows(GONE, gone)) == "content"
    with pytest.raises(StillRetained, match="10 rows with the content of rows to forget"):
        check_disjoint(rows(slice(0, 40), kept), rows(GONE, gone))


def test_positions_are_no_names() -> None:
    """Both sets count from 0: equal positions are refused by nobody, and hide nothing."""
    assert check_disjoint(rows(KEPT), rows(GONE)) == "content"
    everything = ex.Examples(X, Y)
    with pytest.raises(StillRetained, match="row 29"):
        check_disjoint(everything.take(range(30)), everything.take(range(29, 40)))


VARIANTS: dict[str, Any] = {
    "another label": (X, (Y + 1) % 3),
    "float64": (X.double(), Y),
    "labels as float": (X, Y.float()),
    "another shape": (X.reshape(40, 2, 3), Y),
    "labels of two axes": (X, Y[:, None]),
    "numpy": (X.numpy(), Y.numpy()),
    "a third part": (X, Y, torch.arange(40)),
    "its position first": (torch.arange(40), X, Y),
    "inputs alone": (X,),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_forgotten_row_is_known_in_another_form(variant: str) -> None:
    retain = ex.Examples(*VARIANTS[variant])
    assert check_disjoint(retain.take(range(30)), rows(GONE)) == "content"
    with pytest.raises(StillRetained, match="holds 1 rows with the content of rows to forget: row 29"):
        check_disjoint(retain.take(range(30)), rows(slice(29, 40)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([[0.0, 1.0]]), torch.tensor([[-0.0, 1.0]])),
        (torch.tensor([[float("nan"), 1.0]]), torch.tensor([[-float("nan"), 1.0]])),
        (torch.tensor([[3, 255]], dtype=torch.uint8), torch.tensor([[3.0, 255.0]])),
        (torch.tensor([[1, 0]]).bool(), torch.tensor([[1, 0]])),
        (torch.tensor([[2**40, 1]]), torch.tensor([[2**40, 1]])),
        (torch.tensor([[0.5, 1.25]]).bfloat16(), torch.tensor([[0.5, 1.25]])),
        (torch.tensor([[0.1, 0.2]], dtype=torch.float64), torch.tensor([[0.1, 0.2]])),
        (torch.tensor([[1 + 2j]]), torch.tensor([[1 + 2j]], dtype=torch.complex128)),
        (torch.tensor([[0.0, 2.0]]).to_sparse(), torch.tensor([[0.0, 2.0]])),
    ],
)
def test_equal_numbers_are_one_content_whatever_their_type(one: torch.Tensor, other: torch.Tensor) -> None:
    with pytest.raises(StillRetained):
        check_disjoint([(one,)], [(other,)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([[2**40, 1]]), torch.tensor([[2**40 + 1, 1]])),  # one number for float32
        (torch.tensor([[-(2**24) - 1, 1]]), torch.tensor([[-(2**24), 1]])),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])),
        (torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, 0.0]])),
        (torch.tensor([[1.0, float("inf")]]), torch.tensor([[1.0, 3e38]])),
    ],
)
def test_other_numbers_are_other_rows(one: torch.Tensor, other: torch.Tensor) -> None:
    assert check_disjoint([(one,)], [(other,)]) == "content"


def test_rows_of_one_number_are_compared_whole() -> None:
    """One number is an input that many rows share: without its label it would name nobody."""
    x = torch.arange(10.0)
    assert (
        check_disjoint(ex.Examples(x[:, None], torch.zeros(10)), ex.Examples(x[:3, None], torch.ones(3))) == "content"
    )
    with pytest.raises(StillRetained):
        check_disjoint(ex.Examples(x[:, None], torch.zeros(10)), ex.Examples(x[:3, None], torch.zeros(3)))


# Loaders


def dataset(part: slice) -> TensorDataset:
    return TensorDataset(X[part], Y[part])


class Streamed(IterableDataset[Any]):
    def __init__(self, part: slice) -> None:
        self.part = part

    def __iter__(self) -> Any:
        return iter(zip(X[self.part], Y[self.part], strict=True))


Point = namedtuple("Point", "x y")
LOADERS: dict[str, Any] = {
    "batches": lambda part: DataLoader(dataset(part), batch_size=7),
    "shuffled": lambda part: DataLoader(dataset(part), batch_size=7, shuffle=True),
    "a last batch left out": lambda part: DataLoader(dataset(part), batch_size=29, shuffle=True, drop_last=True),
    "drawn again and again": lambda part: DataLoader(
        dataset(part), batch_size=7, sampler=RandomSampler(dataset(part), replacement=True, num_samples=2)
    ),
    "a few drawn": lambda part: DataLoader(
        dataset(part), batch_size=7, sampler=RandomSampler(dataset(part), num_samples=2)
    ),
    "a stream": lambda part: DataLoader(Streamed(part), batch_size=7),
    "a list": lambda part: list(rows(part).chunks(7)),
    "no length": lambda part: Batches(*rows(part).chunks(7)),
    "dictionaries": lambda part: [{"x": x, "y": y} for x, y in rows(part).chunks(7)],
    "dictionaries with labels": lambda part: [{"labels": (y + 1) % 3, "inputs": x} for x, y in rows(part).chunks(7)],
    "inputs in a dictionary": lambda part: [({"inputs": x}, y) for x, y in rows(part).chunks(7)],
    "numpy": lambda part: [(x.numpy(), y.numpy()) for x, y in rows(part).chunks(7)],
    "inputs alone": lambda part: Batches(*(x for x, _ in rows(part).chunks(7))),
    "named tuples": lambda part: [Point(x, y) for x, y in rows(part).chunks(7)],
    "tensors": lambda part: (X[part], Y[part]),
    "a data set": dataset,
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_is_read_from_end_to_end(kind: str) -> None:
    make = LOADERS[kind]
    assert check_disjoint(make(KEPT), make(GONE)) == "content"
    assert check_disjoint(make(KEPT), rows(GONE, "f")) == "content"
    with pytest.raises(StillRetained, match="retain holds 1 rows with the content"):
        check_disjoint(make(KEPT), rows(slice(29, 40)))


def test_a_sampler_that_leaves_the_forgotten_rows_out_is_right() -> None:
    loader = DataLoader(dataset(slice(0, 40)), batch_size=8, sampler=SubsetRandomSampler(range(30)), drop_last=True)
    assert check_disjoint(loader, rows(GONE)) == "content"
    with pytest.raises(StillRetained):
        check_disjoint(loader, rows(slice(29, 40)))


def test_the_check_leaves_the_global_coins_alone() -> None:
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    check_disjoint(DataLoader(dataset(KEPT), shuffle=True, batch_size=4), rows(GONE))
    assert torch.equal(torch.rand(1), first)


def test_padding_that_a_mask_leaves_out_is_no_content() -> None:
    """The same sentence in batches of other lengths, and with another number where it is padded."""
    short = {
        "input_ids": torch.tensor([[5, 6, 7]]),
        "attention_mask": torch.ones(1, 3).long(),
        "labels": torch.tensor([0]),
    }
    long = {
        "input_ids": torch.tensor([[5, 6, 7, 1, 1], [9, 9, 9, 9, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]), "labels": torch.tensor([1, 1]),
    }  # fmt: skip
    with pytest.raises(StillRetained, match="1 rows"):
        check_disjoint([long], [short])
    assert check_disjoint([long], [short | {"input_ids": torch.tensor([[5, 6, 8]])}]) == "content"


def test_texts_are_content() -> None:
    retain, forget = [(["one", "two"], torch.tensor([0, 1]))], [(["two"], torch.tensor([0]))]
    with pytest.raises(StillRetained, match="row 1"):
        check_disjoint(retain, forget)
    assert check_disjoint(retain, [(["on"], torch.tensor([0]))]) == "content"


@pytest.mark.parametrize(
    ("retain", "forget", "error", "reason"),
    [
        (iter([(X, Y)]), (X, Y), TypeError, "read only once"),
        ((X, Y), iter([(X, Y)]), TypeError, "must be texts"),
        ([], (X, Y), ValueError, "retain gave no row"),
        ((X, Y), Batches(), ValueError, "forget gave no row"),
        ((X, Y), [], ValueError, "at least one row"),
        ([object()], (X, Y), TypeError, "rows in a object cannot be told apart"),
        ([(torch.tensor(1.0), 2)], (X, Y), TypeError, "no tensor whose rows"),
        ([(X[:5], Y[:4])], (X, Y), ValueError, r"one length, a row each, not \[4, 5\]"),
        ((X[:30, :5], Y[:30]), (X[30:], Y[30:]), ValueError, "rows to forget have 6 numbers, retained ones 5"),
        ((X, Y), None, TypeError, "data must be"),
    ],
)
def test_what_cannot_be_compared_is_refused(retain: Any, forget: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        check_disjoint(retain, forget)


def test_rows_are_told_by_inputs_and_kept_whole_for_commitments() -> None:
    one, other = (
        next(iter(rows_of((X[:1], y), precision=torch.float32, label="")))
        for y in (torch.tensor([0]), torch.tensor([1]))
    )
    assert one.inputs == other.inputs
    assert one.whole != other.whole


# Siblings: types, lengths, passes


@pytest.mark.parametrize("coarse", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", ["retain", "forget", "loader"])
def test_a_forgotten_row_in_half_precision_is_found(coarse: torch.dtype, side: str) -> None:
    """Either side may be the coarser one: both are rounded alike before they are compared."""
    kept, gone = (X, Y), (X[GONE], Y[GONE])
    if side == "forget":
        gone = (gone[0].to(coarse), gone[1])
    else:
        kept = (kept[0].to(coarse), kept[1])
    retain: Any = DataLoader(TensorDataset(*kept), batch_size=7) if side == "loader" else kept
    with pytest.raises(StillRetained, match="10 rows"):
        check_disjoint(retain, gone)
    assert check_disjoint((X[KEPT].to(coarse), Y[KEPT]), (X[GONE], Y[GONE])) == "content"


def test_rows_that_padding_could_hide_are_not_called_covered() -> None:
    """Without a mask a row of 6 numbers and the same row of 8, two of them padding, would be two rows."""
    longer = torch.nn.functional.pad(X, (0, 2))
    ragged = Batches((X[:20], Y[:20]), (longer[20:], Y[20:]))
    for forget in ((X[GONE], Y[GONE]), (longer[GONE], Y[GONE])):
        with pytest.raises(ValueError, match="padding could hide one"):
            check_disjoint(ragged, forget)


def test_a_stream_of_examples_is_read_to_its_last_row() -> None:
    """drop_last leaves the forgotten rows out of this pass, and not out of the next one."""

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(X, Y, strict=True))

    with pytest.raises(StillRetained, match="10 rows"):
        check_disjoint(DataLoader(Stream(), batch_size=32, drop_last=True), (X[GONE], Y[GONE]))


def test_lists_of_single_examples_are_refused() -> None:
    """As many examples in a batch as numbers in a row would pass for rows of the right length."""
    loader = DataLoader(TensorDataset(X, Y), batch_size=6, collate_fn=lambda batch: batch)
    with pytest.raises(TypeError, match="list of single examples"):
        check_disjoint(loader, (X[GONE], Y[GONE]))
