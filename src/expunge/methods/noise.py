"""Independent Gaussian noise that counts itself and checks what reached the weights."""

import hashlib
import os
import secrets
import struct
from collections.abc import Sequence
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor

from expunge import _validate
from expunge.errors import RunError
from expunge.record import NO_NOISE, NoiseRecord

__all__ = ["Noise", "secret_generator"]

_CHUNK = 1 << 18  # coordinates drawn at a time: a double buffer of 2 MiB, and no second copy of the model
_SAMPLE = 4096  # coordinates watched by the self-test
_ALARM = 8.0  # standard deviations; a sound run fails once in 1e15 tests, so a failure tells nothing of the data


class Noise:
    """`noise.add_(theta)` adds a fresh N(0, σ² I) and counts it.

    Drawn in float64: a float32 Box-Muller ends at 5.8 σ, and over ten million coordinates that missing tail weighs more
    than a delta of 1e-5. The self-test follows, on a sample of coordinates, what the weights really received: its
    scale (lost to rounding, multiplied by something) and its independence of the step before; a digest of every draw
    catches repetition. All of this stays in memory: published, it would let a reader test guesses of the trained
    weights.

    Args:
        std: σ, per coordinate; a sequence gives each draw its own.
        generator: on the device of the weights; its seed must stay secret.
        origin: "secret" or "given", for the record.

    Guarantee: if the generator's output is independent standard normal, the vectors added by successive calls are
    independent N(0, σ² I), up to the rounding of the sum.
    """

    def __init__(self, std: float | Sequence[float], generator: torch.Generator, *, origin: str = "given") -> None:
        if isinstance(std, Sequence):
            _validate.schedules(noise_std=(std, _validate.LEAST, inf))
            std = tuple(std)
        else:
            _validate.positive(noise_std=std)
        self.std = std
        self.generator = generator
        self.origin = origin
        self.count = 0
        self.dimension = 0
        self._digests: set[str] = set()
        self._blocks: set[tuple[int, int]] = set()
        self._previous: Tensor | None = None
        self._squares = 0.0
        self._watched = 0

    def add_(self, theta: Tensor, block: slice | None = None) -> Tensor:
        """Add fresh noise in place; `theta` is float32 or float64, contiguous, of shape (d,) or (runs, d).

        Args:
            theta: the weights.
            block: the coordinates that receive the noise; by default all.

        Raises:
            RunError: the noise repeats, or what reached the weights is not of scale σ.
        """
        std = self._next_std()
        if theta.dtype not in (torch.float32, torch.float64):
            raise RunError(f"noise is added in float32 or float64, not {theta.dtype}: it would be lost to rounding")
        target = theta if block is None else theta[..., block]
        flat = target.contiguous().view(-1)  # a copy where a block of several runs is not contiguous
        watched = _spread(flat.numel()).to(flat.device)
        before = flat[watched].double()
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            draw = self._draw(part.numel(), part.device)
            self._catch_repetition(draw)
            part.add_(draw, alpha=std)
        self._check((flat[watched].double() - before) / std, std)
        if not target.is_contiguous():
            target.copy_(flat.view(target.shape))
        self.count += 1
        self._blocks.add((0, theta.shape[-1]) if block is None else block.indices(theta.shape[-1])[:2])
        self.dimension = sum(stop - start for start, stop in self._blocks)
        return theta

    def _draw(self, size: int, device: torch.device) -> Tensor:
        return torch.empty(size, dtype=torch.float64, device=device).normal_(generator=self.generator)

    def _catch_repetition(self, draw: Tensor) -> None:
        digest = hashlib.sha256(draw[:64].cpu().numpy().tobytes()).hexdigest()
        if digest in self._digests:
            raise RunError("noise self-test: a noise vector was used twice")
        self._digests.add(digest)

    def _next_std(self) -> float:
        if not isinstance(self.std, tuple):
            return self.std
        if self.count >= len(self.std):
            raise RunError(f"the noise schedule has {len(self.std)} draws, and all were used")
        return self.std[self.count]

    def _check(self, received: Tensor, std: float) -> None:
        size = received.numel()
        self._squares += float(received.square().sum())
        self._watched += size
        if not abs(self._squares - self._watched) <= _ALARM * sqrt(2 * self._watched) + _ALARM**2:
            raise RunError(
                f"noise self-test: what reached the weights has {self._squares / self._watched:.3g} times the variance of "
                f"noise_std={std:g}; the weights are too large for this noise, or something scaled it"
            )
        alike = self._previous is not None and self._previous.numel() == size
        if (
            self._previous is not None
            and alike
            and abs(float(received @ self._previous)) > _ALARM * sqrt(size) + _ALARM**2
        ):
            raise RunError("noise self-test: this step's noise is correlated with the step before")
        self._previous = received

    def record(self) -> NoiseRecord:
        """What the run publishes about its noise."""
        if not self.count:
            return NO_NOISE
        return NoiseRecord(
            count=self.count, std=self.std, dimension=self.dimension, self_test="passed", generator=self.origin
        )

    def state(self) -> dict[str, Any]:
        """Everything needed to go on; secret."""
        return {
            "generator": self.generator.get_state(),
            "count": self.count,
            "dimension": self.dimension,
            "blocks": sorted(self._blocks),
            "digests": sorted(self._digests),
            "previous": self._previous,
            "squares": self._squares,
            "watched": self._watched,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.set_state(state["generator"])
        self.count, self.dimension = state["count"], state["dimension"]
        self._blocks = {(start, stop) for start, stop in state["blocks"]}
        self._digests, self._previous = set(state["digests"]), state["previous"]
        self._squares, self._watched = state["squares"], state["watched"]


def secret_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded from the operating system's entropy, for noise.

    On the CPU the whole state of the Mersenne Twister is drawn: `manual_seed` keeps only the lower 32 bits of its
    argument there, and four billion seeds can be tried against a released model. Elsewhere Philox takes a 64-bit seed.

    Raises:
        RunError: this version of torch lays out the state otherwise.
    """
    generator = torch.Generator(device)
    marker = secrets.randbits(31)
    generator.manual_seed(marker if generator.device.type == "cpu" else secrets.randbits(63))
    if generator.device.type == "cpu":
        generator.set_state(_with_random_words(generator.get_state(), marker))
    return generator


def _with_random_words(state: Tensor, marker: int) -> Tensor:
    """Replace the twister's 624 words (32 bits each, stored in 64) after an header of 24 bytes."""
    words, start = 624, 24
    raw = bytearray(state.numpy().tobytes())
    if len(raw) < start + 8 * words or struct.unpack_from("<Q", raw, start)[0] != marker:
        raise RunError(f"torch {torch.__version__} stores its CPU generator otherwise; pass a generator of your own")
    entropy = struct.unpack(f"<{words}I", os.urandom(4 * words))
    struct.pack_into(f"<{words}Q", raw, start, *entropy)
    return torch.frombuffer(raw, dtype=torch.uint8).clone()


def _spread(size: int) -> Tensor:
    """Up to `_SAMPLE` positions spread evenly over 0..size-1."""
    count = min(_SAMPLE, size)
    return torch.arange(count) * (size - 1) // max(count - 1, 1)
