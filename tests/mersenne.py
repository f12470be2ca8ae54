"""The attack on noise from torch's CPU generator: known noise gives linear equations over GF(2) for the rest.

The Mersenne twister MT19937 (Matsumoto & Nishimura 1998) is linear: every bit that it puts out is a sum mod 2 of bits of its
state, 624 words of 32 bits. torch's float64 `normal_` is Box and Muller's transform of its bits, 16 numbers at a time: number j
and number j + 8 are sqrt(-2 log(1 - u)) times cosine and sine of 2π v, u and v being uniform numbers j and j + 8 of 53 bits, each
the low bits of two words. So noise that is known gives the leading bits of u and v, each of them one equation.
"""

import struct

import numpy as np
import torch
from numpy.typing import NDArray

STATE = 624  # words
BITS = 32 * STATE
LANES = 64  # releases attacked at a time: a bit of a word each
_TOP = 32  # leading bits of a uniform number that are used: rounding reaches the last of them once in 2^17

Rows = NDArray[np.uint64]


def untempered(word: int) -> int:
    """The word of the state that was put out as `word`."""
    word ^= word >> 18
    word ^= (word << 15) & 0xEFC60000
    low = word
    for _ in range(4):
        low = word ^ ((low << 7) & 0x9D2C5680)
    high = low
    for _ in range(2):
        high = low ^ (high >> 11)
    return high


def generator_of(words: list[int]) -> torch.Generator:
    """Torch's generator in this state, about to twist it."""
    generator = torch.Generator().manual_seed(1)
    raw = bytearray(generator.get_state().numpy().tobytes())
    struct.pack_into(f"<{STATE}Q", raw, 24, *words)
    generator.set_state(torch.frombuffer(raw, dtype=torch.uint8).clone())
    return generator


def leading_bits(noise: NDArray[np.float64]) -> NDArray[np.uint64]:
    """The leading bits of the uniform numbers behind known numbers, whole blocks of 16; a number each."""
    blocks = noise.reshape(-1, 2, 8)
    cosine, sine = blocks[:, 0], blocks[:, 1]
    u = -np.expm1(-(cosine**2 + sine**2) / 2)
    v = np.arctan2(sine, cosine) / (2 * np.pi) % 1.0
    return np.minimum(np.stack([u, v], axis=1) * 2.0**_TOP, 2.0**_TOP - 1).astype(np.uint64).reshape(-1)


def equations(known: int) -> Rows:
    """The bits of `leading_bits` of the first `known` numbers as sums of bits of the state: a row each, 312 words wide."""
    state = np.zeros((STATE, 32, BITS // 64), np.uint64)
    every = np.arange(BITS)
    state.reshape(BITS, -1)[every, every // 64] = np.uint64(1) << (every % 64).astype(np.uint64)
    rows = np.empty((known, _TOP, BITS // 64), np.uint64)
    for first in range(0, 2 * known, STATE):
        _twist(state)
        out = _tempered(state)
        for k in range(min(STATE, 2 * known - first)):
            number, second = divmod(first + k, 2)
            if second:  # bits 31..21 of the second word come last
                rows[number, 21:] = out[k, 31:20:-1]
            else:  # bits 20..0 of the first word come first
                rows[number, :21] = out[k, 20::-1]
    return rows.reshape(known * _TOP, -1)


def _twist(state: Rows) -> None:
    constant = [b for b in range(32) if 0x9908B0DF >> b & 1]
    for k in range(STATE):
        after = state[(k + 1) % STATE]
        new = state[(k + 397) % STATE].copy()
        new[:30] ^= after[1:31]
        new[30] ^= state[k, 31]
        new[constant] ^= after[0]
        state[k] = new


def _tempered(state: Rows) -> Rows:
    out = state.copy()
    out[:, :21] ^= state[:, 11:]
    for shift, mask in ((7, 0x9D2C5680), (15, 0xEFC60000)):
        before = out.copy()
        for b in range(shift, 32):
            if mask >> b & 1:
                out[:, b] ^= before[:, b - shift]
    before = out.copy()
    out[:, :14] ^= before[:, 18:]
    return out


def right_hand_sides(lanes: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """The bits of `leading_bits` for up to 64 releases, equation by equation; release k is bit k."""
    sides = np.zeros((len(lanes[0]), _TOP), np.uint64)
    for k, numbers in enumerate(lanes):
        for bit in range(_TOP):
            sides[:, bit] |= (numbers >> np.uint64(_TOP - 1 - bit) & np.uint64(1)) << np.uint64(k)
    return sides.reshape(-1)


def solve(rows: Rows, sides: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], int, int]:
    """Gauss over GF(2), eight columns at a time (the method of four Russians).

    Returns:
        A solution, a word a bit of the state, release k in bit k; which releases have none, as bits; and the rank.
    """
    table = np.concatenate([rows, sides[:, None]], axis=1)
    leads: list[int] = []
    for column in range(0, BITS, 8):
        _eliminate(table, column, leads)
    impossible = int(np.bitwise_or.reduce(table[len(leads) :, -1])) if len(leads) < len(table) else 0
    solution = np.zeros(BITS, np.uint64)
    for row in range(len(leads) - 1, -1, -1):
        bits = np.unpackbits(table[row, :-1].view(np.uint8), bitorder="little").astype(bool)
        bits[leads[row]] = False
        solution[leads[row]] = table[row, -1] ^ np.bitwise_xor.reduce(solution[bits], initial=np.uint64(0))
    return solution, impossible, len(leads)


def _eliminate(table: Rows, column: int, leads: list[int]) -> None:
    """Find the pivots of eight columns and take them out of all rows below."""
    word, rank = column // 64, len(leads)
    eight = ((table[rank:, word] >> np.uint64(column % 64)) & np.uint64(255)).astype(np.uint8)
    found: list[int] = []  # bits that lead, in the order of their rows
    for bit in range(8):
        place = len(found)
        hits = np.flatnonzero(eight[place:] >> bit & 1)
        if not len(hits):
            continue
        other = place + int(hits[0])
        if other != place:
            table[[rank + place, rank + other]] = table[[rank + other, rank + place]]
            eight[[place, other]] = eight[[other, place]]
        pivot = table[rank + place]
        for k, lead in enumerate(found):  # what `eight` has been spared already
            if int(pivot[word]) >> (column % 64 + lead) & 1:
                pivot ^= table[rank + k]
        later = np.flatnonzero(eight[place + 1 :] >> bit & 1) + place + 1
        eight[later] ^= eight[place]
        found.append(bit)
    below = table[rank + len(found) :]
    if not found or not len(below):
        leads.extend(column + bit for bit in found)
        return
    sums = np.zeros((1 << len(found), table.shape[1] - word), np.uint64)
    wanted = np.zeros(1 << len(found), np.uint8)  # the sum's eight columns
    for k in range(len(found)):
        pivot = table[rank + k, word:]
        sums[1 << k : 2 << k] = sums[: 1 << k] ^ pivot
        wanted[1 << k : 2 << k] = wanted[: 1 << k] ^ np.uint8(int(pivot[0]) >> (column % 64) & 255)
    which = np.zeros(256, np.int64)  # by the bits that lead
    mask = sum(1 << bit for bit in found)
    which[wanted & mask] = np.arange(1 << len(found))
    bits = (below[:, word] >> np.uint64(column % 64)).astype(np.uint8) & np.uint8(mask)
    below[:, word:] ^= sums[which[bits]]
    leads.extend(column + bit for bit in found)


def predicted(solution: NDArray[np.uint64], lane: int, size: int) -> NDArray[np.float64]:
    """The noise of a release, from the state that was found."""
    bits = (solution >> np.uint64(lane) & np.uint64(1)).reshape(STATE, 32)
    words = (bits << np.arange(32, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    return torch.empty(size, dtype=torch.float64).normal_(generator=generator_of(words.tolist())).numpy()
