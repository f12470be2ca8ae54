"""Secret keys: made from the operating system's entropy, and derived by purpose and step."""

import hmac
import os
from typing import TYPE_CHECKING, NoReturn

from expunge.errors import RunError

if TYPE_CHECKING:
    import torch

__all__ = ["SIZE", "Secret", "entropy"]

SIZE = 32  # bytes of a key
_DOMAIN = b"expunge.randomness/1\n"


def entropy(size: int) -> bytes:
    """`size` bytes from the operating system's cryptographic source."""
    return os.urandom(size)


class Secret:
    """A key of 32 bytes from which the keys of all secret draws of one run are derived.

    Keys are HMAC-SHA256(key, purpose, step): whoever knows some of them learns nothing of the others. `repr` hides it.

    Args:
        key: 32 bytes.
        origin: "secret" (made for this run) or "given" (derived from what the caller handed in), for the record.

    Raises:
        ValueError: the key has another length.
    """

    __slots__ = ("_key", "_process", "_taken", "origin")

    def __init__(self, key: bytes, *, origin: str = "given") -> None:
        if len(key) != SIZE:
            raise ValueError(f"a secret has {SIZE} bytes, not {len(key)}")
        self._key = bytes(key)
        self._taken: set[str] = set()
        self._process = os.getpid()
        self.origin = origin

    @classmethod
    def fresh(cls) -> "Secret":
        """A new one, from the operating system's entropy."""
        return cls(entropy(SIZE), origin="secret")

    @classmethod
    def of(cls, coins: "Secret | torch.Generator | None") -> "Secret":
        """The secret itself; 32 bytes drawn from a generator of torch; or a fresh one for None.

        A generator is advanced, so that two secrets of it differ. It gives no more than it has: a CPU generator seeded by
        `manual_seed` has 32 bits, which can be tried one after another; the stream made of them is the cryptographic one.
        """
        if coins is None:
            return cls.fresh()
        if isinstance(coins, Secret):
            return coins
        import torch

        drawn = torch.randint(256, (SIZE,), generator=coins, device=coins.device, dtype=torch.uint8)
        return cls(bytes(drawn.tolist()))

    def derive(self, purpose: str, step: int = 0) -> bytes:
        """The key of a purpose and a step, 32 bytes; purpose and step are encoded without ambiguity.

        Raises:
            RunError: in a process that was forked from the one that made this secret: both would draw the same.
        """
        if os.getpid() != self._process:
            raise RunError(
                "this secret was made before the process was forked, and both would draw the same: make another"
            )
        name = purpose.encode()
        message = _DOMAIN + len(name).to_bytes(4, "big") + name + step.to_bytes(8, "big")
        return hmac.digest(self._key, message, "sha256")

    def take(self, purpose: str) -> "Secret":
        """The secret of a purpose, handed out once: two owners would draw the same numbers.

        Raises:
            RunError: it was taken before.
        """
        if purpose in self._taken:
            raise RunError(f"this secret's {purpose} was drawn already, and would repeat: make another Secret")
        self._taken.add(purpose)
        return Secret(self.derive(purpose), origin=self.origin)

    def reveal(self) -> bytes:
        """The key itself, for a state file that is as secret."""
        return self._key

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse copies and pickles: two owners would draw the same numbers."""
        raise TypeError("a secret is not copied: two owners would draw the same numbers")

    def __repr__(self) -> str:
        return f"<Secret, {self.origin}>"
