"""Which step uses which record."""

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from scipy.stats import chi2, chisquare

from expunge.trace import Schedule
from expunge.trace.schedule import keyed, keyed_for

KEY = bytes(range(32))
SIGNIFICANCE = 1e-4  # with fixed keys: a pass or a failure for ever
NAMES = [f"record {i}" for i in range(4000)]


def batches(schedule, epoch, names, first_epochs=None):
    starts = np.asarray([(first_epochs or {}).get(n, 0) for n in names], dtype=np.int64)
    return [[names[row] for row in rows] for rows in schedule.epoch(epoch, names, starts)]


@pytest.fixture(params=["aes-256", "hmac-sha256"])
def law(request):
    """That of new traces, and that of older ones."""
    return request.param


def test_removing_records_moves_no_other_record_to_another_step_or_place(law):
    schedule, coins = Schedule(KEY, (7, 7, 5), law=law), np.random.default_rng(0)
    for epoch in range(3):
        full = batches(schedule, epoch, NAMES[:300])
        for _ in range(10):
            gone = {NAMES[i] for i in coins.choice(300, size=int(coins.integers(1, 200)), replace=False)}
            left = [name for name in NAMES[:300] if name not in gone]
            assert batches(schedule, epoch, left) == [[n for n in batch if n not in gone] for batch in full]


def test_the_order_of_the_rows_changes_nothing(law):
    schedule = Schedule(KEY, (7,), law=law)
    assert batches(schedule, 0, NAMES[:300]) == batches(schedule, 0, NAMES[:300][::-1])


def test_every_record_is_used_once_an_epoch_at_the_step_it_is_said_to_be(law):
    schedule = Schedule(KEY, (7, 3, 5), law=law)
    for epoch, count in enumerate(schedule.steps):
        found = batches(schedule, epoch, NAMES[:300])
        assert len(found) == count
        assert sorted(name for batch in found for name in batch) == sorted(NAMES[:300])
        for step, batch in enumerate(found, start=schedule.starts[epoch]):
            assert all(schedule.step_of(name, epoch) == step for name in batch)


def test_a_record_takes_part_from_its_first_epoch_on_only():
    schedule, late = Schedule(KEY, (4, 4, 4)), {NAMES[0]: 1, NAMES[1]: 2}
    for epoch in range(3):
        used = {name for batch in batches(schedule, epoch, NAMES[:20], late) for name in batch}
        assert used == {name for name in NAMES[:20] if late.get(name, 0) <= epoch}


@pytest.mark.parametrize("steps", [10, 37])
def test_steps_are_equally_likely_and_independent_from_epoch_to_epoch(steps, law):
    schedule = Schedule(KEY, (steps, steps), law=law)
    first, second = ([schedule.step_of(name, epoch) % steps for name in NAMES] for epoch in (0, 1))
    assert chisquare(np.bincount(first, minlength=steps)).pvalue > SIGNIFICANCE
    pairs = np.bincount(np.asarray(first) * steps + second, minlength=steps * steps)
    expected = len(NAMES) / steps**2
    statistic = ((pairs - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, steps**2 - 1) > SIGNIFICANCE


def test_a_schedule_that_favours_a_step_fails_the_same_test():
    schedule = Schedule(KEY, (11,))
    steps = np.asarray([schedule.step_of(name, 0) % 10 for name in NAMES])  # step 0 twice as likely
    assert chisquare(np.bincount(steps, minlength=10)).pvalue < SIGNIFICANCE


def test_two_records_whose_draws_begin_alike_have_one_order_whatever_rows_there_are(monkeypatch):
    """The first halves of all blocks are made equal here; the second halves decide, and all fall on one step."""

    class Blocks:
        def update(self, tags):
            return b"".join(
                b"\x80" + bytes(7) + hashlib.sha256(tags[i : i + 16]).digest()[:8] for i in range(0, len(tags), 16)
            )

    monkeypatch.setattr("expunge.trace.schedule._cipher", lambda key: Blocks())
    schedule = Schedule(KEY, (4,))
    full = batches(schedule, 0, NAMES[:50])
    assert [len(batch) for batch in full] == [0, 0, 50, 0]
    assert batches(schedule, 0, NAMES[:50][::-1]) == full
    assert batches(schedule, 0, NAMES[1:50]) == [[name for name in batch if name != NAMES[0]] for batch in full]


@pytest.mark.parametrize("key", [KEY, bytes(range(100))])
def test_the_digest_of_many_contents_is_hmac(key):
    """Keys that are longer than a block too."""
    for head, content in ((b"", b""), (b"head", b"x" * 1000)):
        expected = hmac.digest(key, b"expunge.trace/1/row\0" + head + content, "sha256")
        assert keyed_for(key, "row", head)(content) == expected == keyed(key, "row", head + content)
        assert keyed_for(key, "row", head)(content[:7], content[7:]) == expected


@pytest.mark.parametrize("steps", [1, 3, 470, 2**31 - 1])
def test_the_step_is_the_first_half_of_the_block_as_a_fraction(steps):
    """In whole numbers of Python, which have no largest."""
    cipher = Cipher(AES256(keyed(KEY, "epoch", bytes(8))), ECB()).encryptor()
    schedule = Schedule(KEY, (steps,))
    for name in NAMES[:200]:
        block = cipher.update(keyed(KEY, "name", name.encode())[:16])
        assert schedule.step_of(name, 0) == int.from_bytes(block[:8], "big") * steps >> 64


def test_within_a_batch_the_order_does_not_follow_names_or_rows():
    (batch,) = batches(Schedule(KEY, (1,)), 0, NAMES[:1000])
    ranks = np.asarray([int(name.split()[1]) for name in batch])
    assert abs(np.corrcoef(ranks, np.arange(1000))[0, 1]) < 4 / np.sqrt(1000)


def test_other_keys_give_other_steps_and_coins():
    one, two = Schedule(KEY, (50,)), Schedule(bytes(32), (50,))
    assert sum(one.step_of(n, 0) == two.step_of(n, 0) for n in NAMES) < 2 * len(NAMES) / 50
    assert one.seed("step", 3) != two.seed("step", 3)


def test_coins_differ_by_purpose_and_step_and_fit_a_torch_seed():
    schedule = Schedule(KEY, (5,))
    seeds = {schedule.seed(p, step) for p in ("step", "augmentation", "initialisation") for step in range(100)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_names_and_epochs_cannot_be_confused():
    """Epoch 1 of one name is not epoch 0 of a longer one."""
    schedule = Schedule(KEY, (1000, 1000))
    assert schedule.step_of("a", 1) - 1000 != schedule.step_of("\x00a", 0)
    assert len({schedule.step_of(name, 0) for name in ("a", "a ", " a", "A")}) > 1


def test_a_law_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="law must be one of aes-256, hmac-sha256, not 'dice'"):
        Schedule(KEY, (3,), law="dice")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("key", "steps", "error", "reason"),
    [
        (b"short", (3,), ValueError, "at least 32 bytes"),
        ("x" * 32, (3,), TypeError, "key must be bytes"),
        (KEY, (), ValueError, "at least one"),
        (KEY, (3, 0), ValueError, "steps must be a whole number"),
    ],
)
def test_a_bad_key_or_number_of_steps_is_refused(key, steps, error, reason):
    with pytest.raises(error, match=reason):
        Schedule(key, steps)
