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


@pytest.fixture
def afresh():
    """Rooms that ask for compiled code again, before and after."""
    for room in (gaussian, pieces):
        room._compiled.cache_clear()
    yield
    for room in (gaussian, pieces):
        room._compiled.cache_clear()


@pytest.mark.parametrize("wrong", ["a bit", "the step", "few words"])
def test_noise_that_is_compiled_wrongly_is_not_used(wrong, afresh, monkeypatch, caplog):
    """One number off in its last bit, a step left out, or pairs that need more bits not told of: numpy makes the noise."""
    own = pytest.importorskip("expunge.randomness.compiled")
    real = own.transform

    def transform(words, target, scale, keep, shift, pace):
        few = real(words, target, scale, keep, np.empty(0) if wrong == "the step" else shift, pace)
        if wrong == "a bit":
            target[-1] = np.nextafter(target[-1], np.inf)
        return few and wrong != "few words"

    assert gaussian._compiled() is real
    gaussian._compiled.cache_clear()
    monkeypatch.setattr(own, "transform", transform)
    assert gaussian._compiled() is None
    assert "is not used" in caplog.text


def test_norms_that_are_compiled_wrongly_are_not_used(afresh, monkeypatch):
    """One that is too small would let gradients through the clip."""
    pytest.importorskip("numba")
    assert pieces._compiled() is not None
    pieces._compiled.cache_clear()
    monkeypatch.setattr(pieces, "compiled", lambda signatures, loop: lambda x: 0.999 * float(x.astype(float) @ x))
    assert pieces._compiled() is None


def test_without_numba_the_same_is_done_by_numpy(afresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "expunge.randomness.compiled", raising=False)
    for room in (gaussian, pieces):
        assert room._compiled() is None
    with pytest.raises(ImportError):
        compiled("float64(float64[::1])", twice)
