"""Compiled loops: without a folder to keep them in, and without numba."""

import sys

import numpy as np
import pytest

from expunge._compile import compiled
from expunge.randomness import gaussian
from expunge.training import pieces


def twice(x):
    total = 0.0
    for value in x:
        total += 2 * value
    return total


def test_code_is_compiled_where_it_cannot_be_kept(monkeypatch):
    numba = pytest.importorskip("numba")
    real, asked = numba.njit, []

    def njit(*signatures, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*signatures, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled("float64(float64[::1])", twice)(np.arange(4.0)) == 12
    assert asked[:2] == [True, False]  # numba compiles parts of its own by the same door


def test_without_numba_the_same_is_done_by_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "expunge.randomness.compiled", raising=False)
    for room in (gaussian, pieces):
        room._compiled.cache_clear()
        assert room._compiled() is None
        room._compiled.cache_clear()
    with pytest.raises(ImportError):
        compiled("float64(float64[::1])", twice)
