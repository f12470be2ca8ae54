"""Words of 64 bits by AES-256 in counter mode: word i can be had without the words before it."""

from typing import TYPE_CHECKING, Any

from expunge.errors import MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["STREAM", "fill", "words"]

STREAM = "aes-256-ctr/1"  # as records name it
_BLOCK = 16  # bytes of a block of AES: two words


def fill(key: bytes, block: int, pairs: int, raw: bytearray, zeros: memoryview) -> None:
    """Write AES-256(key, block), AES-256(key, block + 1), ... into `raw`: a pair of words each, little-endian.

    Args:
        key: 32 bytes.
        block: number of the first block, below 2^128.
        pairs: how many blocks.
        raw: of at least 16 pairs + 15 bytes, which the cipher asks for.
        zeros: at least 16 pairs bytes, all zero.

    Raises:
        MissingExtra: `cryptography` is not installed.
    """
    cipher = _cipher(key, block)
    size = _BLOCK * pairs
    cipher.update_into(zeros[:size], memoryview(raw)[: size + _BLOCK - 1])


def words(key: bytes, start: int, stop: int) -> "NDArray[np.uint64]":
    """Words start, ..., stop - 1 of the stream under `key`, shape (stop - start,)."""
    import numpy as np  # late: whoever reads a certificate needs the name of the stream, and no words

    first = start // 2
    pairs = -(-stop // 2) - first
    found = np.frombuffer(_cipher(key, first).update(bytes(_BLOCK * pairs)), dtype="<u8")
    return found[start - 2 * first : stop - 2 * first].astype(np.uint64)


def _cipher(key: bytes, block: int) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES256
        from cryptography.hazmat.primitives.ciphers.modes import CTR
    except ModuleNotFoundError as error:
        raise MissingExtra("secret draws need the package cryptography: pip install 'expunge[torch]'") from error
    return Cipher(AES256(key), CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
