"""The exact head beside numpy and scikit-learn, and what a row costs in memory and in digests."""

import time
import tracemalloc
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from sklearn.linear_model import Ridge

from expunge.data import Examples
from expunge.heads import AnalyticHead
from expunge.heads.blocks import ids_of
from expunge.heads.corrections import digests
from expunge.heads.packed import PackedDigests
from expunge.heads.singles import PATIENCE
from performance.rows import Row, medians

CLASSES = 10
_SINGLES = {513: 200, 2049: 60, 4097: 50}  # width: rows forgotten one by one
_WHY = (
    "; in a profile 0.14 ms of a row were the passes over two matrices, in which reading the lower half alone saved a fifth with "
    "sums reordered and doubled the time without, 0.05 ms weights, residual and norms, and the rest checks, rounding, digests, "
    "their look-up and the prediction: some hundred calls of numpy and torch from Python, of 1 to 5 µs"
)
_BLOCK = 500  # of rows forgotten one by one, whose time is taken together


def rows() -> list[Row]:
    """All rows of the table."""
    return [*_sums(), *(_single(width, count) for width, count in _SINGLES.items()), *_many(), *_memory()]


def _drawn(n: int, width: int) -> Examples:
    coins = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=coins, dtype=torch.float64)
    return Examples(x, torch.randint(CLASSES, (n,), generator=coins), ids=[f"row {k}" for k in range(n)])


def _head(method: str = "statistics") -> AnalyticHead:
    return AnalyticHead(ridge=1.0, classes=CLASSES, provenance="drawn", method=method)  # pyright: ignore


def _learned(data: Examples, method: str = "statistics") -> AnalyticHead:
    head = _head(method)
    head.learn(data)
    return head


def _sums() -> list[Row]:
    """50,000 x 513 learned, and 5,000 of them forgotten."""
    data, gone = _drawn(50_000, 513), 5000
    x, labels = data.tensors[0].numpy(), data.tensors[1].numpy()
    y, first = np.eye(CLASSES)[labels], data.take(range(gone))

    def normal() -> object:
        return np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)

    def digest() -> object:
        head = _head()
        return head._digests.records(head._checked(*data.tensors, data.ids))

    def ridge() -> object:
        return Ridge(alpha=1.0, fit_intercept=False, solver="cholesky").fit(x, y)

    took = medians(
        {"ours": lambda: _learned(data).weights, "numpy": normal, "digests": digest, "sklearn": ridge}, turns=3
    )
    head, gram, moment = _learned(data), x.T @ x, x.T @ y
    seconds = {"ours": list[float](), "numpy": list[float]()}
    for _ in range(6):
        for name, work in (
            ("ours", lambda: head.forget(first)),
            ("numpy", lambda: (gram - x[:gone].T @ x[:gone], moment - x[:gone].T @ y[:gone])),
        ):
            seconds[name].append(_timed(work))
        head.learn(first)
    forgot = {name: median(values[1:]) for name, values in seconds.items()}
    note = (
        f"rounding to the grid, checks and keyed digests of ids and contents alone take {1000 * took['digests']:.0f} ms; "
        f"scikit-learn's Ridge {1000 * took['sklearn']:.0f} ms"
    )
    return [
        Row(work="exact head: learn 50,000 x 513", unit="ms", ours=1000 * took["ours"], peer=1000 * took["numpy"],
            peer_is="numpy normal equations", before="3.6 × numpy", target=1.5, ratio=True, note=note),
        Row(work="exact head: forget 5,000 of them", unit="ms", ours=1000 * forgot["ours"], peer=1000 * forgot["numpy"],
            peer_is="numpy subtraction", before="3.5 × numpy", target=2, ratio=True,
            note="beside the sums the rows are rounded and digested, and their digests looked up and struck"),
    ]  # fmt: skip


def _single(width: int, count: int) -> Row:
    """One row forgotten and the next prediction, by the updated inverse, its residual measured against the exact sums.

    The least of many times: what other programs on the machine take is in none of it.
    """
    data = _drawn(6000, width)
    head, plain = _learned(data, "woodbury"), _learned(data)
    gram = np.ones((width, width))
    ones = [data.take([k]) for k in range(PATIENCE + count)]
    probe, taken, read, solved = data.tensors[0][:1], list[float](), list[float](), list[float]()
    head.predict(probe)
    for one in ones[:PATIENCE]:  # the first of a stream wait for no compiler
        head.forget(one)
        head.predict(probe)
    for k, one in enumerate(ones[PATIENCE:]):
        taken.append(_timed(lambda one=one: (head.forget(one), head.predict(probe))))
        read.append(_timed(gram.sum))
        if k < 4:
            solved.append(_timed(lambda one=one: (plain.forget(one), plain.weights)))
    released, usual = 1000 * min(solved), 1000 * median(taken)
    before = {513: ("2.7", "5.4", 0.4), 2049: ("121", "262", 11), 4097: ("504", "1,393", 50)}[width]
    return Row(
        work=f"exact head: one row, d = {width:,}", unit="ms", ours=1000 * min(taken), limit=1000 * min(read),
        limit_is="reading the Gram matrix", before=f"{before[0]} ms; {before[1]} solved anew", target=before[2],
        note=f"for predictions, the least of {count} times, median {usual:.3g} ms; what is released is solved anew from the "
        f"exact sums, {released:.3g} ms with the forgetting{_WHY if width == 513 else ''}",
    )  # fmt: skip


def _many() -> list[Row]:
    """80,000 deletions at d = 600: some timed one by one, all of them in batches of 2,000; both ready to predict."""
    data = _drawn(82_000, 600)
    head, probe = _learned(data, "woodbury"), data.tensors[0][:1]
    head.predict(probe)
    ones = [data.take([k]) for k in range(2000)]
    blocks = [
        _timed(lambda some=ones[k : k + _BLOCK]: [(head.forget(one), head.predict(probe)) for one in some])
        for k in range(0, len(ones), _BLOCK)
    ]
    single, usual = min(blocks) / _BLOCK, median(blocks) / _BLOCK
    batches = [data.take(range(k, k + 2000)) for k in range(2000, 82_000 - 2000, 2000)]
    together = (
        _timed(lambda: [(head.forget(batch), head.predict(probe)) for batch in batches])
        * 80_000
        / sum(map(len, batches))
    )
    return [
        Row(work="exact head: 80,000 deletions at d = 600, one by one", unit="s", ours=80_000 * single, before="not measured",
            target=58, note=f"{len(ones):,} of them timed, in blocks of {_BLOCK}, of which this is the fastest, the median is "
            f"{80_000 * usual:.3g} s; a published figure for a weaker definition is 58 s"),
        Row(work="exact head: 80,000 deletions at d = 600, in batches", unit="s", ours=together, before="not measured",
            target=5, note="of 2,000 rows, each followed by a prediction"),
    ]  # fmt: skip


def _memory() -> list[Row]:
    names = [f"row {k}" for k in range(1_000_000)]
    learned = PackedDigests.of(digests(names, bytes(32)))
    seconds = median(_timed(lambda: learned.places(digests(names, bytes(32)))) for _ in range(3))
    small = _drawn(100_000, 4)
    exact = _held(lambda: _learned(small)._ledger) / len(small)
    convex = _held(lambda: ids_of(small, key=bytes(32))) / len(small)
    return [
        Row(work="exact head: bytes kept a row", unit="B", ours=exact, limit=32, limit_is="two digests", before="263 B", target=40),
        Row(work="convex head: bytes kept a row", unit="B", ours=convex, limit=16, limit_is="one digest", before="432 B", target=40),
        Row(work="convex head: ids of one request at 1,000,000 rows", unit="s", ours=seconds, before="3.4 s", target=1),
    ]  # fmt: skip


def _held(make: Callable[[], object]) -> int:
    """Bytes of memory that what is made holds, as Python and numpy count them."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    made = make()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return after - before


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
