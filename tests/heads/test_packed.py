"""Digests of rows in packed arrays: what a set of Python holds, in 33 bytes a row."""

import random
import tracemalloc

import numpy as np
import pytest

from expunge.heads.packed import Bytes, PackedDigests


def records(digests: dict[bytes, bytes]) -> Bytes:
    return np.frombuffer(b"".join(k + v for k, v in digests.items()), dtype=np.uint8).reshape(len(digests), -1)


@pytest.mark.parametrize("alike", [0, 9])
def test_it_holds_what_a_dictionary_holds(alike: int):
    """Whatever is added and removed, also where the first half and more of all digests is the same."""
    coins, held, packed = random.Random(alike), dict[bytes, bytes](), PackedDigests(4)
    for turn in range(200):
        new = {bytes(alike) + coins.randbytes(16 - alike): coins.randbytes(4) for _ in range(coins.randrange(1, 60))}
        packed.add(records(new))
        held |= new
        if turn % 3 == 0:
            gone = {name: held.pop(name) for name in coins.sample(sorted(held), len(held) // 2)}
            packed.remove(records(gone)[:, :16])
            assert not packed.found(records(gone)).any()
        assert len(packed) == len(held)
    assert packed.records().tobytes() == b"".join(k + v for k, v in sorted(held.items()))
    assert packed.values(records(held)[:, :16]).tobytes() == b"".join(held.values())
    places = packed.places(records(held))
    assert len(set(places.tolist())) == len(held)
    assert 0 <= places.min() <= places.max() < packed.room


def test_what_was_removed_can_be_added_again_and_a_copy_is_another_set():
    one = {bytes(16): b"a", b"b" * 16: b"b"}
    packed = PackedDigests.of(records(one), value=1)
    other = packed.copy()
    packed.remove(records(one)[:1, :16])
    assert bytes(16) not in packed
    assert bytes(16) in other
    packed.add(records({bytes(16): b"c"}))
    assert packed.values(records(one)[:, :16]).tobytes() == b"cb"
    assert other.values(records(one)[:, :16]).tobytes() == b"ab"


def test_a_row_takes_no_more_than_forty_bytes():
    given = np.random.default_rng(0).integers(0, 256, (100_000, 32), dtype=np.uint8)
    tracemalloc.start()
    packed = PackedDigests.of(given, value=16)
    packed.remove(given[:1000, :16])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held <= 40 * len(packed)


def test_additions_that_nobody_looked_at_are_held_too_and_a_caller_may_reuse_its_array():
    coins, packed = np.random.default_rng(1), PackedDigests()
    given, one = coins.integers(0, 256, (500, 16), dtype=np.uint8), np.zeros((1, 16), dtype=np.uint8)
    for k in range(500):
        one[:] = given[k]
        packed.add(one)
    other = packed.copy()
    packed.remove(given[:7])
    assert len(packed) == 493
    assert len(other) == 500
    assert other.found(given).all()
    assert packed == PackedDigests.of(given[7:])
