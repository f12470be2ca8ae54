"""Who takes part, in packed arrays."""

import numpy as np
import pytest

from expunge.errors import StateError
from expunge.trace.roster import Roster

COINS = np.random.default_rng(0)
N = 300


def tags_of(raw):
    return np.frombuffer(b"".join(raw), dtype="S16")


# Tags that a text would confuse: they end in zeros or blanks, or differ there alone.
AWKWARD = [b"a" + bytes(15), b"a " + bytes(14), b"a\n" + bytes(14), b"a\x00b" + bytes(13), bytes(16), b"\xff" * 16]
TAGS = tags_of([*AWKWARD, *(COINS.bytes(16) for _ in range(N - len(AWKWARD)))])
DIGESTS = tags_of([COINS.bytes(16) for _ in range(N)])
EPOCHS = COINS.integers(0, 70000, N)


@pytest.fixture
def roster():
    return Roster.of(TAGS, DIGESTS, EPOCHS)


def test_every_record_is_found_with_its_digest_and_epoch(roster):
    places = roster.find(TAGS)
    assert (places >= 0).all()
    assert (roster.digests[places] == DIGESTS).all()
    assert (roster.first_epochs[places] == EPOCHS).all()


def test_a_tag_that_is_not_there_is_not_found(roster):
    others = tags_of([b"a\t" + bytes(14), bytes(15) + b"\x01", b"b" * 16])
    assert (roster.find(others) == -1).all()
    assert not roster.knows_as_forgotten(TAGS).any()
    assert (Roster.of(TAGS[:0], DIGESTS[:0], EPOCHS[:0]).find(TAGS) == -1).all()


def test_what_was_forgotten_is_known_by_its_tag_alone(roster):
    after = roster.without(TAGS[:3]).without(TAGS[5:7])
    gone = np.isin(np.arange(N), [0, 1, 2, 5, 6])
    assert (after.knows_as_forgotten(TAGS) == gone).all()
    assert ((after.find(TAGS) < 0) == gone).all()
    assert not any(digest.ljust(16, b"\0") in after.to_bytes() for digest in DIGESTS[gone].tolist())


def test_bytes_do_not_depend_on_the_order_of_records_or_requests(roster):
    order = np.random.default_rng(1).permutation(N)
    assert Roster.of(TAGS[order], DIGESTS[order], EPOCHS[order]) == roster
    assert roster.without(TAGS[:3]).without(TAGS[5:7]) == roster.without(TAGS[[6, 1, 5, 2, 0]])
    assert roster.without(TAGS[:3]) != roster


def test_bytes_are_36_a_record_and_16_a_forgotten_one_and_read_back_the_same(roster):
    after = roster.without(TAGS[:10])
    assert len(after.to_bytes()) == 32 + 36 * (N - 10) + 16 * 10
    assert Roster.from_bytes(after.to_bytes()) == after


def test_two_records_of_one_tag_are_refused():
    with pytest.raises(StateError, match="two records of the trace have one tag"):
        Roster.of(TAGS[[0, 1, 0]], DIGESTS[:3], EPOCHS[:3])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], "fewer or more records"),
        (lambda content: content + bytes(16), "fewer or more records"),
        (lambda content: b"expunge.roster/2" + content[16:], "another format"),
        (lambda content: content[:20], "another format"),
        (lambda content: content[:32] + content[48:64] + content[32:48] + content[64:], "have one tag"),
    ],
)
def test_bytes_that_are_no_roster_are_refused(roster, change, reason):
    with pytest.raises(StateError, match=reason):
        Roster.from_bytes(change(roster.to_bytes()))
