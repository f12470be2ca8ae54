"""The analytic head: learning adds, forgetting subtracts, and what is left is ridge regression on the retained rows."""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import mpmath
import numpy as np
import pytest
import safetensors.torch
import scipy.linalg
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import expunge as ex
from expunge.errors import NonFinite, OutputError, RunError, StateError
from expunge.features import RandomFeatures
from expunge.heads import AnalyticHead
from expunge.heads.inverse import Inverse
from expunge.heads.ledger import Ledger
from expunge.heads.saved import pack, unpack
from expunge.heads.statistics import Sums, add, solve, subtract, sums_of

KEY = bytes(range(32))
DATA = Path(os.environ.get("EXPUNGE_DATA", Path(__file__).parents[3] / "shared" / "data"))
CLASSES, WIDTH = 4, 12

Rows = tuple[Tensor, Tensor, list[str]]


def rows(n: int = 60, seed: int = 0, width: int = WIDTH, prefix: str = "row") -> Rows:
    coins = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=coins, dtype=torch.float64) + 0.3
    y = torch.randint(CLASSES, (n,), generator=coins)
    y[:CLASSES] = torch.arange(CLASSES)
    return x, y, [f"{prefix}-{k}" for k in range(n)]


def part(data: Rows, where: Any) -> Rows:
    index = torch.arange(len(data[0]))[where]
    return data[0][index], data[1][index], [data[2][int(k)] for k in index]


def make(**options: Any) -> AnalyticHead:
    return AnalyticHead(**{"ridge": 1.0, "classes": CLASSES, "provenance": "a public backbone", "key": KEY} | options)


def learned(data: Rows, **options: Any) -> AnalyticHead:
    head = make(**options)
    head.learn(*data[:2], ids=data[2])
    return head


def forget(head: AnalyticHead, data: Rows) -> None:
    head.forget(*data[:2], ids=data[2])


def state(head: AnalyticHead) -> bytes:
    """Everything the head keeps, as bytes."""
    names = ("ridge", "classes", "provenance", "rounding", "method")
    return pack({n: getattr(head, n) for n in names}, head._ledger, head._sums, head._grids, key=head._key)


def sums(head: AnalyticHead) -> Sums:
    assert head._sums is not None
    return head._sums


def gap(first: AnalyticHead, second: AnalyticHead) -> float:
    return float((first.weights - second.weights).abs().max())


def rational_ridge(x: list[list[Fraction]], y: list[list[Fraction]], ridge: Fraction) -> list[list[Fraction]]:
    """Ridge regression by Gauss-Jordan elimination on fractions."""
    d = len(x[0])
    table = [
        [sum((r[i] * r[j] for r in x), Fraction(0)) + (ridge if i == j else 0) for j in range(d)]
        + [sum((r[i] * t[c] for r, t in zip(x, y, strict=True)), Fraction(0)) for c in range(len(y[0]))]
        for i in range(d)
    ]
    for i in range(d):
        table[i] = [v / table[i][i] for v in table[i]]
        for k in range(d):
            if k != i:
                table[k] = [v - table[k][i] * w for v, w in zip(table[k], table[i], strict=True)]
    return [row[d:] for row in table]


def fractions(values: Tensor) -> list[list[Fraction]]:
    return [[Fraction(v) for v in row] for row in values.double().tolist()]


# What the weights are


@pytest.mark.parametrize("grid", [None, 2.0**-12, torch.tensor([0.1, 0.01, 0.001, 2.0**-12, 2.0**-12])])
@pytest.mark.parametrize("forgotten", [0, 5])
@pytest.mark.parametrize("ridge", [1.0, 2.0**-20])
def test_the_weights_are_those_of_rational_arithmetic_within_the_stated_bound(
    forgotten: int, ridge: float, grid: float | Tensor | None
):
    x, y, ids = rows(16, width=5)
    x[:, 4] = x[:, 3] * (1 + 2.0**-10)  # nearly dependent: small ridges matter
    targets = torch.nn.functional.one_hot(y, CLASSES).double() * 0.5 + 0.125
    head = make(ridge=ridge, classes=None, rounding=1e-6, grid=grid, target_grid=None if grid is None else 0.03)
    head.learn(x, targets, ids=ids)
    if forgotten:
        head.forget(x[:forgotten], targets[:forgotten], ids=ids[:forgotten])
    if grid is not None:  # a step in float64 is a rational number like any other
        x, targets = torch.round(x / grid), torch.round(targets / 0.03)
        steps = torch.as_tensor(grid).double().expand(5).tolist()
        exact = rational_ridge(
            [[Fraction(v) * Fraction(s) for v, s in zip(r, steps, strict=True)] for r in x[forgotten:].tolist()],
            [[Fraction(v) * Fraction(0.03) for v in r] for r in targets[forgotten:].tolist()],
            Fraction(ridge),
        )
    else:
        exact = rational_ridge(fractions(x[forgotten:]), fractions(targets[forgotten:]), Fraction(ridge))
    square = sum((Fraction(w) - e) ** 2 for got, want in zip(head.weights.tolist(), exact, strict=True)
                 for w, e in zip(got, want, strict=True))  # fmt: skip
    error = math.sqrt(square)
    assert 0 < error <= head.error_bound
    if grid is None:  # on a grid the two dependent features may be equal
        assert error < 1e-14 / min(ridge, 1e-3)


def test_a_second_implementation_gives_the_same_weights():
    x, y, ids = rows(300)
    x = torch.round(x * 2**12) / 2**12
    head = learned((x, y, ids), ridge=0.7)
    stacked = np.vstack(
        [x.numpy(), math.sqrt(0.7) * np.eye(WIDTH)]
    )  # least squares with rows of their own for the ridge
    targets = np.vstack([np.eye(CLASSES)[y.numpy()], np.zeros((WIDTH, CLASSES))])
    expected = scipy.linalg.lstsq(stacked, targets)[0]
    assert np.abs(head.weights.numpy() - expected).max() < 1e-13
    assert head.weights.shape == (WIDTH, CLASSES)
    assert head.weights.dtype == torch.float64


@pytest.mark.parametrize("forgotten", [0, 400])
def test_rounding_of_the_sums_stays_below_its_bound(forgotten: int):
    x, _, ids = rows(2300, width=4)
    x = x.float().double()  # products of such numbers are exact, and fsum rounds their sum once
    y = x[:, :2] * 3
    y = y.float().double()
    head = make(classes=None, grid=None)
    for k in range(0, 2300, 575):
        head.learn(x[k : k + 575], y[k : k + 575], ids=ids[k : k + 575])
    for k in range(0, forgotten, 50):
        head.forget(x[k : k + 50], y[k : k + 50], ids=ids[k : k + 50])
    kept_x, kept_y = x[forgotten:].numpy(), y[forgotten:].numpy()

    def error(found: Tensor, right: np.ndarray) -> float:
        exact = [[math.fsum(kept_x[:, i] * right[:, j]) for j in range(right.shape[1])] for i in range(4)]
        return float(torch.linalg.vector_norm(found - torch.tensor(exact, dtype=torch.float64)))

    held = sums(head)
    assert 0 < error(held.gram, kept_x) <= held.gram_error < 1e-8
    assert 0 < error(held.moment, kept_y) <= held.moment_error < 1e-8
    assert held.gram_error > 2.0**-53 * float(held.gram.norm())  # a bound below one rounding would be a mistake


def test_the_residual_is_an_upper_bound_in_high_precision():
    data = rows(40, width=6)
    head = learned(data, ridge=1e-3, grid=None)
    with mpmath.workdps(60):
        x = mpmath.matrix(data[0].tolist())
        y = mpmath.matrix(torch.nn.functional.one_hot(data[1], CLASSES).tolist())
        a, b = x.T * x + mpmath.mpf(1e-3) * mpmath.eye(6), x.T * y
        relative = mpmath.mnorm(a * mpmath.matrix(head.weights.tolist()) - b, "f") / mpmath.mnorm(b, "f")
    assert 0 < relative <= head.residual < 1e-11


# Forgetting


@pytest.mark.parametrize("method", ["statistics", "woodbury"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_any_order_of_learning_and_forgetting_ends_at_retraining(order: int, method: str):
    data, extra = rows(80), rows(30, seed=5, prefix="extra")
    coins = torch.Generator().manual_seed(order)
    head = make(method=method)
    for k in torch.randperm(80, generator=coins).split(9):
        head.learn(data[0][k], data[1][k], ids=[data[2][int(i)] for i in k])
        _ = head.weights
    head.learn(*extra[:2], ids=extra[2])
    for k in torch.randperm(30, generator=coins).split(1 if order == 1 else 7):
        head.forget(extra[0][k], extra[1][k], ids=[extra[2][int(i)] for i in k])
        _ = head.weights
    forget(head, part(data, slice(0, 20)))
    again = learned(part(data, slice(20, None)))
    assert gap(head, again) <= min(1e-13, head.error_bound + again.error_bound)
    assert len(head) == 60
    assert torch.equal(head.counts, again.counts)


@pytest.mark.parametrize("options", [{}, {"grid": 2.0**-8}, {"classes": None}], ids=["sums", "grid", "targets"])
def test_forgetting_everything_leaves_a_fresh_head(options: dict[str, Any]):
    x, y, ids = rows()
    targets = x[:, :2].clone() if "classes" in options else y
    head = make(**options)
    head.learn(x, targets, ids=ids)
    head.forget(x[:50], targets[:50], ids=ids[:50])
    head.forget(x[50:], targets[50:], ids=ids[50:])
    assert state(head) == state(make(**options))
    with pytest.raises(RunError, match="no row is learned"):
        _ = head.weights
    head.learn(x[:, :3], targets, ids=ids)  # a fresh head takes rows of another width
    assert head.weights.shape[0] == 3


def test_a_row_can_be_learned_again_after_it_was_forgotten():
    data = rows()
    head = learned(data)
    forget(head, part(data, slice(0, 3)))
    assert "row-0" not in head
    assert "row-3" in head
    head.learn(*part(data, slice(0, 3))[:2], ids=data[2][:3])
    assert gap(head, learned(data)) < 1e-14


def test_forgetting_matters():
    data = rows()
    head = learned(data)
    before = head.weights
    forget(head, part(data, slice(0, 10)))
    assert float((head.weights - before).abs().max()) > 1e-3


@pytest.mark.parametrize("grid", [2.0**-12, torch.linspace(0.001, 0.01, WIDTH)], ids=["one", "each"])
def test_on_a_grid_the_state_is_bit_for_bit_that_of_never_having_learned(grid: float | Tensor):
    data, extra = rows(200), rows(77, seed=9, prefix="extra")
    head = learned(extra, grid=grid)
    for k in range(0, 200, 13):
        head.learn(*part(data, slice(k, k + 13))[:2], ids=data[2][k : k + 13])
    for k in reversed(range(77)):
        forget(head, part(extra, slice(k, k + 1)))
    never = make(grid=grid)
    for k in reversed(range(200)):
        never.learn(*part(data, slice(k, k + 1))[:2], ids=data[2][k : k + 1])
    assert state(head) == state(never)
    assert torch.equal(head.weights, never.weights)
    assert head.residual == never.residual


def test_without_a_grid_the_bits_of_the_sums_remember():
    """The control of the test above: in plain float64 the same history leaves another state, and no certificate is made."""
    data, extra = rows(200), rows(77, seed=9, prefix="extra")
    head, never = learned(extra, grid=None), learned(data, grid=None)
    head.learn(*data[:2], ids=data[2])
    forget(head, extra)
    assert not torch.equal(sums(head).gram, sums(never).gram)
    assert 0 < gap(head, never) < 1e-13
    for one in (head, never, make(grid=None, provenance="")):
        with pytest.raises(RunError, match="make the head with a grid"):
            one.unlearned()


def test_on_a_grid_the_weights_are_those_of_the_rounded_rows():
    x, y, ids = rows(100)
    head = learned((x, y, ids), grid=0.01)
    rounded = learned((torch.round(x / 0.01) * 0.01, y, ids), grid=None)
    assert gap(head, rounded) < 1e-13
    assert gap(head, learned((x, y, ids), grid=None)) > 1e-6
    assert sums(head).gram.dtype == torch.float64
    assert torch.equal(sums(head).gram, sums(head).gram.round())
    assert torch.equal(sums(head).gram, torch.round(x / 0.01).T @ torch.round(x / 0.01))


def test_large_whole_numbers_are_summed_exactly():
    """Steps near 2^26, where a product of two rows fills float64: the sums equal those of Python's integers."""
    coins = torch.Generator().manual_seed(3)
    k = torch.randint(-(2**26), 2**26, (40, 3), generator=coins)
    y = torch.randint(CLASSES, (40,), generator=coins)
    head = learned((k.double(), y, [str(i) for i in range(40)]), grid=1.0)
    values = k.tolist()
    assert sums(head).gram.tolist() == [[sum(r[i] * r[j] for r in values) for j in range(3)] for i in range(3)]


def test_sums_of_whole_numbers_refuse_to_overflow():
    one = torch.full((1, 1), 2.0**26)
    with pytest.raises(ValueError, match="coarser grid"):
        learned((one * 2, torch.tensor([0]), ["a"]), grid=1.0)
    head = learned((one.expand(700, 1), torch.zeros(700).long(), [f"a{k}" for k in range(700)]), grid=1.0)
    before = state(head)
    with pytest.raises(ValueError, match="2\\^62"):
        head.learn(one.expand(700, 1), torch.zeros(700).long(), ids=[f"b{k}" for k in range(700)])
    assert state(head) == before


def test_the_state_grows_by_digests_alone():
    """No row is kept: a thousand rows more are 32 bytes each."""
    small, large = (learned(rows(n), grid=2.0**-10) for n in (1000, 2000))
    assert len(state(large)) - len(state(small)) in range(32_000 - 16, 32_000 + 17)
    assert sums(large).gram.shape == (WIDTH, WIDTH)


def test_equal_rows_cannot_be_told_from_the_digests():
    x, y, _ = part(rows(), slice(0, 1))
    head = learned((x.expand(3, -1), y.expand(3), ["a", "b", "c"]))
    assert len(set(map(bytes, head._ledger.records()[:, 16:]))) == 3


def test_ids_are_in_the_state_under_the_key_alone():
    data = rows()
    head, other = learned(data), learned(data, key=bytes(32))
    assert all(i.encode() not in state(head) for i in data[2])
    assert not head._ledger.found(other._ledger.records()).any()
    gone = head._digests.name("row-3")
    assert gone in state(head)
    forget(head, part(data, slice(3, 4)))
    assert gone not in state(head)


# Merging


@pytest.mark.parametrize("grid", [None, 2.0**-10])
def test_merged_heads_are_one_head_that_learned_it_all(grid: float | None):
    data = rows(90)
    whole, one, two, empty = learned(data, grid=grid), make(grid=grid), make(grid=grid), make(grid=grid)
    one.learn(*part(data, slice(0, 30))[:2], ids=data[2][:30])
    two.learn(*part(data, slice(30, None))[:2], ids=data[2][30:])
    untouched = state(two)
    one.merge(empty)
    one.merge(two)
    empty.merge(one)
    assert state(two) == untouched
    assert gap(one, whole) < 1e-14
    assert torch.equal(empty.weights, one.weights)
    if grid is not None:
        assert state(one) == state(whole) == state(empty)
    forget(one, part(data, slice(20, 40)))
    assert len(one) == 70
    assert len(empty) == 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 2.0}, "ridge"),
        ({"classes": 5}, "classes"),
        ({"provenance": ""}, "provenance"),
        ({"rounding": 1e-8}, "rounding"),
        ({"grid": 0.05}, "grid"),
        ({"key": bytes(32)}, "key"),
        ({"width": 7}, "7 features"),
        ({"prefix": "row"}, "learned in both"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_heads_that_differ_do_not_merge(options: dict[str, Any], message: str):
    head = learned(rows())
    width, prefix = options.pop("width", WIDTH), options.pop("prefix", "other")
    other = learned(rows(seed=2, width=width, prefix=prefix), **options)
    before = state(head), state(other)
    with pytest.raises(ValueError, match=message):
        head.merge(other)
    with pytest.raises(ValueError, match=r"in both|fit"):
        other.merge(head)
    assert (state(head), state(other)) == before
    with pytest.raises(TypeError, match="AnalyticHead"):
        head.merge(nn.Linear(2, 2))  # type: ignore[arg-type]


# Files


@pytest.mark.parametrize(
    "options",
    [{}, {"grid": 0.25}, {"grid": torch.full((WIDTH,), 0.125)}, {"provenance": ""}, {"method": "woodbury"}],
    ids=["sums", "grid", "grids", "undeclared", "woodbury"],
)
def test_a_saved_state_comes_back_whole(options: dict[str, Any], tmp_path: Path):
    data = rows()
    head, path = learned(data, **options), tmp_path / "head.state"
    head.save(path)
    assert path.stat().st_mode & 0o077 == 0
    assert KEY not in path.read_bytes()
    back = AnalyticHead.load(path, key=KEY)
    assert state(back) == state(head) == path.read_bytes()
    assert torch.equal(back.weights, head.weights)
    for one in (head, back):
        forget(one, part(data, slice(0, 9)))
    assert state(back) == state(head)
    head.save(path)  # over the old file
    assert path.read_bytes() == state(head)


def test_a_fresh_head_and_one_of_real_targets_come_back_too(tmp_path: Path):
    make(grid=0.5).save(tmp_path / "a")
    assert state(AnalyticHead.load(tmp_path / "a", key=KEY)) == state(make(grid=0.5))
    x, _, ids = rows()
    head = make(classes=None)
    head.learn(x, x[:, :2], ids=ids)
    head.save(tmp_path / "b")
    assert torch.equal(AnalyticHead.load(tmp_path / "b", key=KEY).weights, head.weights)
    with pytest.raises(OutputError):
        head.save(tmp_path / "no folder" / "c")


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = tmp_path / "head.state"
    learned(rows()).save(path)
    whole = path.read_bytes()
    for at in [*range(0, 120, 7), *range(120, len(whole), 211), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StateError):
            AnalyticHead.load(path, key=KEY)
        path.write_bytes(whole[:at])
        with pytest.raises(StateError):
            AnalyticHead.load(path, key=KEY)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StateError, match="altered"):
        AnalyticHead.load(path, key=KEY)


def test_the_file_of_another_key_or_version_or_none_is_refused(tmp_path: Path):
    path = tmp_path / "head.state"
    learned(rows()).save(path)
    with pytest.raises(StateError, match="another key"):
        AnalyticHead.load(path, key=bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        AnalyticHead.load(path, key=b"short")
    path.write_bytes(path.read_bytes().replace(b"head/2", b"head/3", 1))
    with pytest.raises(StateError, match="version 1 or 2"):
        AnalyticHead.load(path, key=KEY)
    with pytest.raises(StateError, match="cannot read"):
        AnalyticHead.load(tmp_path / "nothing", key=KEY)


def test_a_state_in_float32_is_refused_though_its_maker_had_the_key(tmp_path: Path):
    head, path = learned(rows()), tmp_path / "head.state"
    held = sums(head)
    low = Sums(held.gram.float(), held.moment.float(), held.counts, held.rows, held.gram_error, held.moment_error)
    few = Sums(held.gram, held.moment[:5], held.counts, held.rows, held.gram_error, held.moment_error)
    settings = {n: getattr(head, n) for n in ("ridge", "classes", "provenance", "rounding", "method")}
    for wrong, ledger, message in (
        (low, head._ledger, "float32"),
        (few, head._ledger, "fit"),
        (held, Ledger(), "no sums"),
    ):
        path.write_bytes(pack(settings, ledger, wrong, head._grids, key=KEY))
        if message == "no sums":
            assert len(AnalyticHead.load(path, key=KEY)) == 0
        else:
            with pytest.raises(StateError, match=message):
                unpack(path, key=KEY, device="cpu")


# Refusals

BAD: dict[str, tuple[type[Exception], str, Callable[[AnalyticHead, Rows], None]]] = {
    "forget unknown": (ValueError, "never learned", lambda h, d: h.forget(d[0][:2], d[1][:2], ids=["row-0", "no"])),
    "forget other x": (ValueError, "another X or Y", lambda h, d: h.forget(d[0][:2] * (1 + 2e-16), d[1][:2], ids=d[2][:2])),
    "forget other y": (ValueError, "another X or Y", lambda h, d: h.forget(d[0][:1], (d[1][:1] + 1) % 4, ids=d[2][:1])),
    "forget under another id": (ValueError, "another X or Y", lambda h, d: h.forget(d[0][:1], d[1][:1], ids=["row-1"])),
    "forget twice at once": (ValueError, "twice", lambda h, d: h.forget(d[0][[0, 0]], d[1][[0, 0]], ids=["row-0"] * 2)),
    "learn again": (ValueError, "already", lambda h, d: h.learn(d[0][:1], d[1][:1], ids=["row-0"])),
    "learn twice at once": (ValueError, "twice", lambda h, d: h.learn(d[0][:2], d[1][:2], ids=["n", "n"])),
    "NaN": (NonFinite, "X", lambda h, d: h.learn(d[0][:1] * math.nan, d[1][:1], ids=["n"])),
    "infinity": (NonFinite, "X", lambda h, d: h.learn(d[0][:1] / 0, d[1][:1], ids=["n"])),
    "overflow": (NonFinite, "overflow", lambda h, d: h.learn(d[0][:1] * 1e200, d[1][:1], ids=["n"])),
    "label too high": (ValueError, "labels from 0 to 3, not 4", lambda h, d: h.learn(d[0][:1], d[1][:1] * 0 + 4, ids=["n"])),
    "label below 0": (ValueError, "not -1", lambda h, d: h.learn(d[0][:1], d[1][:1] * 0 - 1, ids=["n"])),
    "real labels": (TypeError, "float32", lambda h, d: h.learn(d[0][:1], d[1][:1].float(), ids=["n"])),
    "labels in columns": (ValueError, "one entry", lambda h, d: h.learn(d[0][:1], d[1][:1, None], ids=["n"])),
    "another width": (ValueError, "5 features", lambda h, d: h.learn(d[0][:1, :5], d[1][:1], ids=["n"])),
    "no rows": (ValueError, "at least one row", lambda h, d: h.learn(d[0][:0], d[1][:0], ids=[])),
    "fewer labels": (ValueError, "target for each", lambda h, d: h.learn(d[0][:2], d[1][:1], ids=["n", "m"])),
    "fewer ids": (ValueError, "1 ids for 2", lambda h, d: h.learn(d[0][:2], d[1][:2], ids=["n"])),
    "one text for ids": (TypeError, "sequence", lambda h, d: h.learn(d[0][:2], d[1][:2], ids="nm")),
    "numbers for ids": (TypeError, "texts", lambda h, d: h.learn(d[0][:1], d[1][:1], ids=[7])),  # type: ignore[list-item]
    "a list for X": (TypeError, "tensor", lambda h, d: h.learn([[1.0]], d[1][:1], ids=["n"])),  # type: ignore[arg-type]
    "complex X": (TypeError, "complex", lambda h, d: h.learn(d[0][:1] + 0j, d[1][:1], ids=["n"])),
    "a row, not a batch": (ValueError, "2 axes", lambda h, d: h.learn(d[0][0], d[1][:1], ids=["n"])),
    "part of a class": (ValueError, "were given", lambda h, d: h.remove_class(1, d[0][:1], ids=d[2][:1])),
    "rows of another class": (
        ValueError, "another X or Y",
        lambda h, d: h.remove_class(1, d[0][: int(h.counts[1])], ids=d[2][: int(h.counts[1])]),
    ),
    "an unknown class": (ValueError, "below classes=4", lambda h, d: h.remove_class(4, d[0][:1], ids=d[2][:1])),
}  # fmt: skip


@pytest.mark.parametrize("grid", [None, 2.0**-53], ids=["sums", "grid"])
@pytest.mark.parametrize(("error", "message", "act"), BAD.values(), ids=BAD.keys())
def test_a_refusal_leaves_the_state_as_it_was(
    error: type[Exception], message: str, act: Callable[[AnalyticHead, Rows], None], grid: float | None
):
    data = rows()
    if grid is not None:
        data, grid = (torch.round(data[0] * 2**20) / 2**20, *data[1:]), 2.0**-20
        if message == "overflow":
            error, message = ValueError, "coarser grid"
        if "other x" in message or act is BAD["forget other x"][2]:
            act = lambda h, d: h.forget(d[0][:2] + 2.0**-20, d[1][:2], ids=d[2][:2])  # noqa: E731
    head = learned(data, grid=grid)
    before, weights = state(head), head.weights
    with pytest.raises(error, match=message):
        act(head, data)
    assert state(head) == before
    assert torch.equal(head.weights, weights)


def test_a_row_is_forgotten_once():
    data = rows()
    head = learned(data)
    forget(head, part(data, slice(0, 4)))
    before = state(head)
    with pytest.raises(ValueError, match="'row-2' was never learned, or is forgotten already"):
        forget(head, part(data, slice(2, 8)))
    assert state(head) == before


def test_the_type_of_the_numbers_and_the_sign_of_zero_do_not_matter():
    x, y, ids = rows()
    x = x.float()
    x[0, 0] = 0.0
    head = learned((x, y, ids))
    same = x.double()
    same[0, 0] = -0.0
    head.forget(same[:5], y[:5].to(torch.uint8), ids=ids[:5])
    assert gap(head, learned((x[5:], y[5:], ids[5:]))) < 1e-13


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ridge": 0.0}, ValueError, "ridge"),
        ({"ridge": math.nan}, ValueError, "ridge"),
        ({"rounding": -1.0}, ValueError, "rounding"),
        ({"classes": 0}, ValueError, "classes"),
        ({"provenance": " "}, ValueError, "provenance"),
        ({"provenance": None}, TypeError, "provenance"),
        ({"method": "newton"}, ValueError, "method"),
        ({"key": b"short"}, ValueError, "32 bytes"),
        ({"key": "a text that is long enough to be one"}, TypeError, "key"),
        ({"grid": 0.0}, ValueError, "grid"),
        ({"grid": torch.tensor([1.0, math.inf])}, ValueError, "grid"),
        ({"grid": torch.ones(2, 2)}, ValueError, "grid"),
        ({"grid": "fine"}, TypeError, "grid"),
        ({"target_grid": 0.5}, ValueError, "target_grid"),
        ({"target_grid": 0.5, "classes": None, "grid": None}, ValueError, "target_grid"),
        ({"target_grid": -1.0, "classes": None}, ValueError, "target_grid"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make(**options)


def test_a_grid_of_another_width_is_refused():
    with pytest.raises(ValueError, match="grid has 3 steps, X has 12"):
        learned(rows(), grid=torch.ones(3))


def test_rows_that_leave_a_not_positive_definite_are_refused_as_they_come():
    """Two equal columns of 1e9 and a ridge of 1e-3: the ridge drowns in rounding."""
    x = torch.full((3, 2), 1e9)
    head = make(ridge=1e-3, grid=None)
    with pytest.raises(RunError, match="not positive definite"):
        head.learn(x, torch.tensor([0, 1, 2]), ids=["a", "b", "c"])
    assert state(head) == state(make(ridge=1e-3, grid=None))


@pytest.mark.parametrize("grid", [None, 1.0])
def test_forgetting_that_leaves_a_not_positive_definite_is_refused(grid: float | None):
    """Beside 2^53 each added 1 is rounded away, while all of them together are not as they are subtracted.

    A becomes -100 + ridge, which is refused. On a grid the same history is exact.
    """
    x = torch.cat([torch.full((2, 1), 2.0**26), torch.ones(101, 1)]).double()
    y, ids = torch.zeros(103).long(), [str(k) for k in range(103)]
    head = make(ridge=0.5, grid=grid, rounding=1e-6)
    for k in range(103):
        head.learn(x[k : k + 1], y[:1], ids=[ids[k]])
    forget(head, (x[2:102], y[2:102], ids[2:102]))
    before = state(head)
    if grid is None:
        with pytest.raises(RunError, match="not positive definite"):
            forget(head, (x[:2], y[:2], ids[:2]))
        assert state(head) == before
    else:
        forget(head, (x[:2], y[:2], ids[:2]))
        assert float(head.weights[0, 0]) == pytest.approx(1 / 1.5, rel=1e-15)


def test_weights_beyond_the_tolerance_are_refused_and_the_state_stays():
    data = rows()
    head = learned(data, rounding=1e-17)
    before = state(head)
    with pytest.raises(RunError, match="above rounding=1e-17"):
        head.unlearned()
    assert state(head) == before
    forget(head, part(data, slice(0, 5)))
    assert len(head) == 55


# Classes


def test_a_class_without_rows_is_masked():
    x, y, ids = rows()
    head = make()
    for k in reversed(range(60)):  # in another order, so that rounding would leave something of the class behind
        head.learn(x[k : k + 1], y[k : k + 1], ids=ids[k : k + 1])
    gone = y == 2
    head.remove_class(2, x[gone], ids=[i for i, g in zip(ids, gone, strict=True) if g])
    again = learned((x[~gone], y[~gone], [i for i, g in zip(ids, gone, strict=True) if not g]))
    assert gap(head, again) < 1e-13
    assert head.counts[2] == 0
    lowest = -1e6 * x  # among others, rows whose other scores are all below 0
    for scores in (head.scores(lowest), head.module()(lowest)):
        assert bool((scores[:, 2] == -math.inf).all())
        assert bool(torch.isfinite(scores[:, [0, 1, 3]]).all())
    assert bool((head.scores(lowest)[:, [0, 1, 3]].amax(1) < 0).any())
    assert 2 not in head.predict(lowest).tolist()
    assert bool((head.weights[:, 2] == 0).all())
    head.learn(x[gone], y[gone], ids=[i for i, g in zip(ids, gone, strict=True) if g])
    assert 2 in head.predict(x).tolist()
    assert head.module().bias is None


def test_real_targets_have_scores_and_no_classes():
    x, _, ids = rows()
    head = make(classes=None)
    head.learn(x, x[:, :2] * 2, ids=ids)
    assert float((head.scores(x) - x[:, :2] * 2).abs().max()) < 0.5
    for act in (lambda: head.predict(x), lambda: head.counts, lambda: head.remove_class(0, x, ids=ids)):
        with pytest.raises(ValueError, match="classes"):
            act()
    with pytest.raises(ValueError, match="12 features, not 3"):
        head.scores(x[:, :3])
    with pytest.raises(ValueError, match="do not fit"):
        head.learn(x, x[:, :3], ids=[f"new-{i}" for i in ids])


# Woodbury


def test_the_woodbury_update_is_the_inverse_and_the_weights_of_the_changed_sums():
    x, y, _ = rows(100)
    targets = torch.nn.functional.one_hot(y, CLASSES).double()
    whole = sums_of(x, y, classes=CLASSES, exact=False)
    fewer = subtract(whole, sums_of(x[:9], y[:9], classes=CLASSES, exact=False))
    expected = Inverse.of(fewer, ridge=0.5)
    less = Inverse.of(whole, ridge=0.5).updated_(x[:9], targets[:9], -1)
    more = Inverse.of(fewer, ridge=0.5).updated_(x[:9], targets[:9], 1)
    assert less is not None
    assert more is not None
    for found, want in ((less, expected), (more, Inverse.of(whole, ridge=0.5))):
        assert float((found.inverse - want.inverse).abs().max()) < 1e-14
        assert float((found.weights - want.weights).abs().max()) < 1e-14


def test_the_error_of_woodbury_grows_with_the_condition_number():
    """Forgetting the rows that carried a direction leaves the ridge alone there: 1/ridge is lost in the update."""
    errors: list[float] = []
    x, y, _ = rows(200)
    x[:, 0] *= 1e-9
    x[:5, 0] = 1.0
    targets = torch.nn.functional.one_hot(y, CLASSES).double()
    whole, less = sums_of(x, y, classes=CLASSES, exact=False), sums_of(x[:5], y[:5], classes=CLASSES, exact=False)
    for ridge in (1.0, 1e-3, 1e-6):
        updated = Inverse.of(whole, ridge=ridge).updated_(x[:5], targets[:5], -1)
        assert updated is not None
        solved = solve(subtract(whole, less), ridge=ridge, scale=None)
        errors.append(float((updated.weights - solved.weights).norm()))
    assert errors[0] < errors[1] / 30 < errors[2] / 900
    assert errors[2] > 1e-12


def test_woodbury_factorises_anew_where_its_residual_is_too_large(caplog: pytest.LogCaptureFixture):
    data = rows(100)
    head, plain = learned(data, method="woodbury"), learned(data)
    _ = head.predict(data[0])
    for one in (head, plain):
        forget(one, part(data, slice(0, 1)))
    updated = head._solver.inverse
    assert updated is not None
    # As rounding would, after many updates.
    head._solver.inverse = replace(updated, weights=updated.weights * (1 + 1e-7), defect=None)
    with caplog.at_level(logging.WARNING, logger="expunge"):
        said = head.scores(data[0])
    assert "factorised anew" in caplog.text
    assert torch.equal(said, plain.scores(data[0]))
    assert head.residual < 1e-11


def test_woodbury_updates_instead_of_solving(monkeypatch: pytest.MonkeyPatch):
    data = rows(100)
    head, never = learned(data, method="woodbury"), learned(part(data, slice(1, None)))
    _ = head.predict(data[0])
    with monkeypatch.context() as patch:
        patch.setattr(Inverse, "of", None)  # a new factorisation would fail
        patch.setattr("expunge.heads.statistics.cholesky", None)
        forget(head, part(data, slice(0, 1)))
        updated = head.scores(data[0])
    assert 0 < float((updated - never.scores(data[0])).abs().max()) < 1e-12
    assert torch.equal(head.weights, never.weights)  # what is released comes from the sums
    assert torch.equal(
        cast("nn.Linear", head.unlearned().model).weight, cast("nn.Linear", never.unlearned().model).weight
    )


# Release


def test_the_released_layer_computes_the_scores_and_draws_no_coins():
    data = rows()
    head = learned(data)
    before = torch.get_rng_state()
    layer = head.module()
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.bias is None
    assert layer.weight.dtype == torch.float64
    assert float((layer(data[0]) - head.scores(data[0])).detach().abs().max()) < 1e-14
    head.weights.zero_()  # a copy
    assert torch.equal(head.predict(data[0]), layer(data[0]).argmax(1))


def test_the_certificate_is_exact_where_the_features_are_declared():
    data = rows()
    head = learned(data, ridge=2.0, rounding=1e-8)
    forget(head, part(data, slice(0, 5)))
    done = head.unlearned()
    assert done.record.mechanism == ex.GridRidge(
        ridge=2.0, grid=2.0**-12, rounding=1e-8, provenance="a public backbone"
    )
    certificate = ex.issue(done.record, released=done.model, asked=ex.Budget(epsilon=0.01, delta=1e-9))
    ex.verify(certificate, weights=done.model)
    assert certificate.claim.kind is ex.Kind.EXACT
    assert "a public backbone" in certificate.to_json()


def test_the_certificate_proves_nothing_where_they_are_not():
    done = learned(rows(), provenance="").unlearned()
    assert done.record.mechanism == ex.UndeclaredFeatures(head="exact_ridge")
    certificate = ex.issue(done.record, released=done.model, unchecked="a test")
    ex.verify(certificate, weights=done.model)
    assert certificate.claim.kind is ex.Kind.NONE
    with pytest.raises(RunError, match="not declared"):
        ex.issue(done.record, released=done.model, asked=ex.Budget(epsilon=8.0, delta=1e-5), unchecked="a test")


def test_a_fresh_key_is_made_and_told():
    one, two = AnalyticHead(ridge=1.0), AnalyticHead(ridge=1.0)
    assert len(one.key) == 32
    assert one.key != two.key
    assert one.key.hex() not in repr(one)


# Real data


def test_digits_with_random_features_are_forgotten_to_1e_10():
    digits = load_digits()
    x = RandomFeatures(64, 1024, seed=1)(torch.tensor(digits.data / 16))
    data = (x, torch.tensor(digits.target), [f"digit-{k}" for k in range(len(x))])
    head = learned(data, classes=10)
    forget(head, part(data, slice(0, 180)))
    again = learned(part(data, slice(180, None)), classes=10)
    assert gap(head, again) <= 1e-10
    assert float((head.predict(x[:180]) == data[1][:180]).double().mean()) > 0.9


@pytest.mark.skipif(not (DATA / "features").is_dir(), reason="no features under EXPUNGE_DATA or ../shared/data")
def test_cifar_features_are_forgotten_exactly():
    with np.load(DATA / "features" / "cifar10_mobilenetv2_pca512_u8.npz") as file:
        scale = torch.tensor(file["scale"]).double()
        x = (torch.tensor(file["train_x"]).double() - int(file["zero"])) * scale
        y = torch.tensor(file["train_y"]).long()
    ids = [str(k) for k in range(len(x))]
    gone, kept = slice(0, 5000), slice(5000, None)
    head = learned((x, y, ids), classes=10)
    head.forget(x[gone], y[gone], ids=ids[gone])
    again = make(classes=10)
    again.learn(x[kept], y[kept], ids=ids[kept])
    assert gap(head, again) <= 1e-9
    assert head.error_bound < 1e-4


@pytest.mark.skipif(not (DATA / "features").is_dir(), reason="no features under EXPUNGE_DATA or ../shared/data")
def test_cifar_features_on_their_own_grid_are_forgotten_bit_for_bit():
    with np.load(DATA / "features" / "cifar10_mobilenetv2_pca512_u8.npz") as file:
        scale = torch.tensor(file["scale"]).double()
        x = (torch.tensor(file["train_x"][:8000]).double() - int(file["zero"])) * scale
        y = torch.tensor(file["train_y"][:8000]).long()
    data = (x, y, [str(k) for k in range(len(x))])
    head = learned(data, classes=10, grid=scale)
    forget(head, part(data, slice(1000, 3000)))
    never = learned(part(data, torch.cat([torch.arange(1000), torch.arange(3000, 8000)])), classes=10, grid=scale)
    assert state(head) == state(never)
    assert torch.equal(head.weights, never.weights)


def test_sums_add_and_subtract_without_touching_their_arguments():
    x, y, _ = rows(20)
    one, two = (sums_of(x[k : k + 10], y[k : k + 10], classes=CLASSES, exact=False) for k in (0, 10))
    before = [t.clone() for t in (one.gram, one.moment, two.gram, two.moment)]
    subtract(add(one, two), one)
    assert all(torch.equal(a, b) for a, b in zip(before, (one.gram, one.moment, two.gram, two.moment), strict=True))


def test_the_payload_is_plain_safetensors(tmp_path: Path):
    learned(rows()).save(tmp_path / "a")
    payload = (tmp_path / "a").read_bytes().split(b"\n", 1)[1][64:]
    assert set(safetensors.torch.load(payload)) == {"gram", "moment", "counts", "digests", "grid"}
