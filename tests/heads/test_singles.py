"""Single rows that follow one another: by compiled loops as by numpy, and never at the price of the sums."""

import logging
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.errors import RunError
from expunge.heads import AnalyticHead, singles, solver
from expunge.heads.inverse import Compiled, Inverse
from expunge.heads.packed import DIGEST, PackedDigests
from expunge.heads.singles import agrees, compiled_step

KEY = bytes(range(32))
CLASSES, WIDTH, ROWS = 4, 13, 80

Given = tuple[Tensor, Tensor, list[str]]


def data(kind: str = "labels") -> Given:
    coins = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, WIDTH, generator=coins, dtype=torch.float64)
    labels = torch.randint(CLASSES, (ROWS,), generator=coins)
    return x, labels if kind == "labels" else x[:, :2] - 1.0, [f"row {k}" for k in range(ROWS)]


def make(kind: str = "labels", **options: Any) -> AnalyticHead:
    classes = CLASSES if kind == "labels" else None
    return AnalyticHead(**{"ridge": 0.5, "classes": classes, "method": "woodbury", "key": KEY} | options)


def change(head: AnalyticHead, rows: Given, k: int, sign: int) -> None:
    act = head.learn if sign > 0 else head.forget
    act(rows[0][k : k + 1], rows[1][k : k + 1], ids=rows[2][k : k + 1])


def stream(head: AnalyticHead, rows: Given) -> AnalyticHead:
    """Learn 60 rows, then change single ones, each followed by a prediction; rows 3 to 62 are held in the end."""
    head.learn(*(part[:60] for part in rows[:2]), ids=rows[2][:60])
    for k, sign in ((0, -1), (1, -1), (60, 1), (2, -1), (0, 1), (61, 1), (0, -1), (62, 1)):
        _ = head.scores(rows[0][:1])
        change(head, rows, k, sign)
    return head


def never(head: AnalyticHead, rows: Given) -> AnalyticHead:
    head.learn(*(part[3:63] for part in rows[:2]), ids=rows[2][3:63])
    return head


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The compiled change from the first row on; what it returned."""
    pytest.importorskip("numba")
    compiled_step()  # whose check is not counted
    returned = list[Any]()
    real = Inverse.moved_

    def moved_(self: Inverse, *args: Any, **options: Any) -> Any:
        returned.append(real(self, *args, **options))
        return returned[-1]

    monkeypatch.setattr(solver, "PATIENCE", 1)
    monkeypatch.setattr(Inverse, "moved_", moved_)
    return returned


def test_compiled_loops_agree_with_numpy_here():
    pytest.importorskip("numba")
    assert compiled_step() is not None


@pytest.mark.parametrize("kind", ["labels", "targets"])
@pytest.mark.parametrize("grid", [2.0**-12, torch.linspace(0.01, 0.3, WIDTH).double()], ids=["one step", "steps"])
def test_rows_changed_in_compiled_loops_leave_the_bits_of_never_having_been_there(
    kind: str, grid: Any, at_once: list[Any], tmp_path: Path
):
    rows = data(kind)
    one, other = stream(make(kind, grid=grid), rows), never(make(kind, grid=grid), rows)
    assert len(at_once) == 7  # of eight: the first has no measured defect to go on from
    assert None not in at_once
    for name, head in (("one", one), ("other", other)):
        head.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert torch.equal(one.weights, other.weights)
    assert float((one.scores(rows[0]) - other.scores(rows[0])).abs().max()) < 1e-10


@pytest.mark.parametrize("kind", ["labels", "targets"])
def test_predictions_and_their_residual_are_those_of_numpy_up_to_rounding(
    kind: str, at_once: list[Any], monkeypatch: pytest.MonkeyPatch
):
    rows = data(kind)
    fast = stream(make(kind), rows)
    monkeypatch.setattr(solver, "PATIENCE", 1000)
    slow = stream(make(kind), rows)
    assert len(at_once) == 7
    ours, theirs = (cast("Inverse", head._solver.inverse) for head in (fast, slow))
    assert ours.defect is not None
    assert theirs.defect is not None
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.inverse, theirs.inverse, rtol=1e-12, atol=1e-15)
    assert ours.size == pytest.approx(theirs.size, rel=1e-12, abs=0)
    assert ours.defect.error == pytest.approx(theirs.defect.error, rel=1e-9, abs=0)
    assert ours.defect.target == pytest.approx(theirs.defect.target, rel=1e-12, abs=0)
    assert ours.defect.size == pytest.approx(float(ours.defect.matrix.norm()), rel=1e-12, abs=0)
    assert theirs.defect.size == pytest.approx(float(theirs.defect.matrix.norm()), rel=1e-12, abs=0)


def test_no_compiler_is_loaded_for_few_rows(monkeypatch: pytest.MonkeyPatch):
    asked = list[int]()
    monkeypatch.setattr(solver, "PATIENCE", 4)
    monkeypatch.setattr(solver, "compiled_step", lambda: asked.append(1))
    rows = data()
    head = make()
    head.learn(*rows[:2], ids=rows[2])
    for k in range(5):
        _ = head.scores(rows[0][:1])
        change(head, rows, k, -1)
        assert len(asked) == max(0, k - 3)  # the first has no measured defect


def test_rows_may_lie_anyhow_in_memory(at_once: list[Any]):
    """Every second row and column of a larger array, transposed, in float32 and read-only."""
    x, labels, ids = data()
    wide = np.asfortranarray(np.repeat(np.repeat(x.float().numpy(), 2, axis=0), 2, axis=1))
    wide.flags.writeable = False
    rows = (x.float(), labels, ids)
    head = make()
    head.learn(*rows[:2], ids=ids)
    for k in range(4):
        _ = head.scores(wide[:2, ::2])
        head.forget(wide[2 * k : 2 * k + 1, ::2], labels.repeat_interleave(2)[2 * k : 2 * k + 1], ids=[ids[k]])
    plain = make()
    plain.learn(rows[0][4:], labels[4:], ids=ids[4:])
    assert len(at_once) == 3
    assert None not in at_once
    assert torch.equal(head.weights, plain.weights)


def test_without_compiled_loops_numpy_does_the_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(solver, "PATIENCE", 1)
    monkeypatch.setattr(solver, "compiled_step", lambda: None)
    rows = data()
    assert torch.equal(stream(make(), rows).weights, never(make(), rows).weights)


def test_a_row_that_is_refused_changes_no_sum_in_compiled_loops(at_once: list[Any]):
    """Without the rows along its axes a matrix of equal columns of 2^25 and a ridge of 1e-3 is not positive definite."""
    x = torch.cat([torch.eye(16), torch.ones(1, 16)]).double() * 2.0**25
    labels, ids = torch.arange(17) % CLASSES, [str(k) for k in range(17)]
    head = make(ridge=1e-3, grid=1.0, rounding=1e9)
    head.learn(x, labels, ids=ids)
    _ = head.scores(x[:1])
    head.forget(x[:1], labels[:1], ids=ids[:1])
    _ = head.scores(x[:1])
    held = head._sums
    assert held is not None
    before = [held.gram.clone(), held.moment.clone(), head.counts]
    with pytest.raises(RunError, match="not positive definite"):
        head.forget(x[1:2], labels[1:2], ids=ids[1:2])
    assert at_once[-1] is None
    assert head._sums is held
    assert all(torch.equal(a, b) for a, b in zip((held.gram, held.moment, head.counts), before, strict=True))


def arguments(**changed: Any) -> dict[str, Any]:
    """Of `compiled.step`, for a head of width 5 that holds one row of ones, of which another is to be learned."""
    d, outputs = 5, 2
    given: dict[str, Any] = {
        "gram": np.ones((d, d)), "moment": np.ones((d, outputs), dtype=np.int64), "inverse": np.eye(d),
        "weights": np.zeros((d, outputs)), "defect": np.zeros((d, outputs)), "row": np.ones(d), "y": np.ones(outputs),
        "sign": 1.0, "steps": np.ones(d), "units": np.ones(outputs), "ridge": 1.0, "bound": 1e9,
        "summed": np.zeros((d, outputs), dtype=np.int64), "changed": np.zeros((d, outputs)),
        "followed": np.zeros((d, outputs)), "norms": np.zeros(9),
    }  # fmt: skip
    return given | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"gram": np.full((5, 5), 2.0**53 - 1), "bound": math.inf},
        {"bound": 2.0},
        {"y": np.array([0.0, 2.0**26.5])},
        {"moment": np.full((5, 2), 2**62 - 1)},
        {"sign": -1.0},  # core = 1 - 5
        {"inverse": np.full((5, 5), np.nan)},
        {"weights": np.full((5, 2), 1e200)},
    ],
    ids=["gram", "indefinite", "targets", "moment", "core", "inverse", "weights"],
)
def test_loops_that_cannot_go_on_say_so_and_change_nothing(changed: dict[str, Any]):
    compiled = pytest.importorskip("expunge.heads.compiled")
    assert compiled.step(*arguments().values())  # the control: without the change they can
    given = arguments(**changed)
    kept = {name: given[name].copy() for name in ("gram", "moment", "inverse", "weights", "defect", "row", "y")}
    assert not compiled.step(*given.values())
    for name, before in kept.items():
        assert np.array_equal(given[name], before, equal_nan=True), name


def spoilt(how: str) -> Compiled:
    """The compiled step with one fault."""
    compiled, names = pytest.importorskip("expunge.heads.compiled").step, list(arguments())

    def step(*args: Any) -> bool:
        of = dict(zip(names, args, strict=True))
        did: bool = compiled(*args)
        if how in ("gram", "summed"):
            of[how][-1, -1] += 1  # of whole numbers near 2^52
        elif how in ("inverse", "changed"):
            of[how][-1, -1] *= 1 + 1e-9
        elif how == "followed":
            of[how][0, 0] += 1e-9
        elif how in ("x", "target"):
            of["norms"][{"x": 0, "target": 8}[how]] *= 0.999
        elif how == "more" and of["sign"] > 0:
            of["gram"][0, 0] -= 2 * of["row"][0] ** 2
        return did and how != "refused"

    return step


FAULTS = ["gram", "summed", "inverse", "changed", "followed", "x", "target", "more", "refused"]


@pytest.mark.parametrize("how", FAULTS)
def test_loops_that_find_anything_else_than_numpy_are_not_used(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    compiled = pytest.importorskip("expunge.heads.compiled")
    assert agrees(spoilt("")), "the control"
    monkeypatch.setattr(compiled, "step", spoilt(how))
    with caplog.at_level(logging.WARNING, logger="expunge"):
        assert singles.compiled_step.__wrapped__() is None
    assert "is not used" in caplog.text


def test_single_digests_are_found_and_removed_as_many_at_once_are():
    """Also of two digests that begin alike, of removed ones, and of those that another part holds."""
    coins = np.random.default_rng(0)
    records = coins.integers(0, 256, (3000, 2 * DIGEST), dtype=np.uint8)
    records[1::2, :8] = records[::2, :8]
    one, many = (PackedDigests.of(records[:2900], value=DIGEST) for _ in "12")
    for held in (one, many):
        held.add(records[2900:2950])
    gone = [0, 1, 2, 5, 2899, 2949]
    for k in gone:
        one.remove(records[k : k + 1])
        one.remove(records[k : k + 1])  # a second time it is not there
    many.remove(records[gone])
    assert one == many
    assert len(one) == 2950 - len(gone)
    other = records.copy()
    other[:, -1] ^= 1
    for k in range(3000):
        assert one.holds(records[k]) == (k < 2950 and k not in gone)
        assert not one.holds(other[k])
