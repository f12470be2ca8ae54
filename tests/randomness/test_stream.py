"""Words of the stream against AES itself, and coins made of them."""

import random
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from expunge.errors import MissingExtra
from expunge.randomness.coins import heads
from expunge.randomness.stream import fill, words

KEY = bytes(range(32))


def test_the_cipher_is_aes_256() -> None:
    """FIPS 197, appendix C.3: key 00..1f, block 00112233445566778899aabbccddeeff."""
    block = int.from_bytes(bytes.fromhex("00112233445566778899aabbccddeeff"), "big")
    first = words(KEY, 2 * block, 2 * block + 2)
    assert first.tobytes().hex() == "8ea2b7ca516745bfeafc49904b496089"


def test_words_are_the_halves_of_encrypted_counters() -> None:
    """Word i is half of AES-256(key, i // 2), little-endian, by another mode of the cipher (ECB on counters)."""
    plain = b"".join(k.to_bytes(16, "big") for k in range(50))
    blocks = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update(plain)
    expected = np.frombuffer(blocks, "<u8")
    assert np.array_equal(words(KEY, 0, 100), expected)
    for start in range(100):
        stop = random.Random(start).randint(start, 100)
        assert np.array_equal(words(KEY, start, stop), expected[start:stop])


def test_a_buffer_is_filled_with_the_same_words() -> None:
    """From any block on."""
    raw = bytearray(16 * 9 + 15)
    fill(KEY, 7, 9, raw, memoryview(bytes(16 * 9)))
    assert bytes(raw[: 16 * 9]) == words(KEY, 14, 32).tobytes()


def test_without_the_cipher_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other source is fallen back on."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'expunge\[torch\]'"):
        words(KEY, 0, 1)


def test_heads_are_the_words_below_the_threshold() -> None:
    """Exactly floor(2^64 p) of 2^64 words land heads: never more than p."""
    found = words(KEY, 0, 10_000)
    for p in (0.1, 1 / 3, 0.999, 2.0**-10):
        expected = [i for i, word in enumerate(found.tolist()) if word < int(p * 2**64)]
        assert heads(KEY, 10_000, p).tolist() == expected
        assert abs(len(expected) - 10_000 * p) < 5 * (10_000 * p * (1 - p)) ** 0.5 + 1


def test_coins_of_probability_one_and_nearly_nought() -> None:
    """All of them, and none: a probability below 2^-64 is rounded to 0, the safe side."""
    assert heads(KEY, 5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert heads(KEY, 5, 2.0**-65).tolist() == []
    assert len(heads(KEY, 100_000, float(np.nextafter(1.0, 0.0)))) == 100_000
