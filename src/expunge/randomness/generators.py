"""Generators of torch with a state that cannot be searched, for coins that no release shows."""

import struct

import torch
from torch import Tensor

from expunge.errors import RunError
from expunge.randomness.secret import entropy

__all__ = ["secret_generator"]


def secret_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of torch seeded from the operating system's entropy: for dropout, orders of batches, initialisation.

    Not for noise: the CPU's Mersenne twister is linear, so whoever sees some of its output computes the rest. On the CPU
    its whole state is drawn, as `manual_seed` keeps only the lower 32 bits of its argument there, which can be tried one
    after another. Elsewhere Philox takes a 64-bit seed.

    Raises:
        RunError: this version of torch lays out the state otherwise.
    """
    generator = torch.Generator(device)
    marker = int.from_bytes(entropy(8), "big") >> 1
    if generator.device.type == "cpu":
        marker &= 2**31 - 1
    generator.manual_seed(marker)
    if generator.device.type == "cpu":
        generator.set_state(_with_random_words(generator.get_state(), marker))
    return generator


def _with_random_words(state: Tensor, marker: int) -> Tensor:
    """Replace the twister's 624 words (32 bits each, stored in 64) after an header of 24 bytes."""
    words, start = 624, 24
    raw = bytearray(state.numpy().tobytes())
    if len(raw) < start + 8 * words or struct.unpack_from("<Q", raw, start)[0] != marker:
        raise RunError(f"torch {torch.__version__} stores its CPU generator otherwise; pass a generator of your own")
    drawn = struct.unpack(f"<{words}I", entropy(4 * words))
    struct.pack_into(f"<{words}Q", raw, start, *drawn)
    return torch.frombuffer(raw, dtype=torch.uint8).clone()
