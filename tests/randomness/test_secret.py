"""Keys: where they come from, that they differ, and that nothing shows them."""

import copy
import hashlib
import hmac
import os
import pickle
from unittest import mock

import pytest
import torch

from expunge.errors import RunError
from expunge.randomness.generators import secret_generator
from expunge.randomness.secret import Secret
from expunge.training.noise import Noise


def test_a_derived_key_is_an_hmac_of_purpose_and_step() -> None:
    """HMAC-SHA256 by the standard library's other door, over an encoding written down here by hand."""
    key = bytes(range(32))
    message = b"expunge.randomness/1\n" + b"\0\0\0\x05" + b"noise" + b"\0\0\0\0\0\0\x01\x02"
    assert Secret(key).derive("noise", 258) == hmac.new(key, message, hashlib.sha256).digest()


def test_no_two_purposes_or_steps_share_a_key() -> None:
    """Also where one purpose begins with another, or ends like a step."""
    secret = Secret(bytes(32))
    asked = [("a", 0), ("a", 1), ("a", 256), ("a\0", 0), ("ab", 0), ("", 0), ("b", 2**63), ("\0\0\0\1a", 0)]
    assert len({secret.derive(*each) for each in asked}) == len(asked)


def test_fresh_secrets_differ_and_do_not_show_themselves() -> None:
    """No repr, no message holds the key."""
    one, two = Secret.fresh(), Secret.fresh()
    assert one.reveal() != two.reveal()
    assert (one.origin, len(one.reveal())) == ("secret", 32)
    assert repr(one) == "<Secret, secret>"


def test_a_secret_of_a_generator_is_repeatable_and_advances_it() -> None:
    """The same seed gives the same secret; the second of one generator is another one."""
    generator = torch.Generator().manual_seed(3)
    first, second = Secret.of(generator), Secret.of(generator)
    again = Secret.of(torch.Generator().manual_seed(3))
    assert first.reveal() == again.reveal() != second.reveal()
    assert first.origin == "given"
    assert Secret.of(first) is first
    assert Secret.of(None).origin == "secret"


def test_a_purpose_is_taken_once() -> None:
    """Two owners of one stream would draw the same numbers."""
    secret = Secret(bytes(32), origin="secret")
    part = secret.take("noise")
    assert part.origin == "secret"
    assert part.reveal() != secret.take("sampling").reveal()
    with pytest.raises(RunError, match="noise was drawn already"):
        secret.take("noise")


def test_a_short_key_is_refused() -> None:
    """32 bytes or nothing."""
    with pytest.raises(ValueError, match="32 bytes, not 16"):
        Secret(bytes(16))


def normal(generator: torch.Generator, size: int = 100_000) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=generator)


def test_secret_generators_differ_and_give_standard_normal_numbers() -> None:
    """Two secret generators share nothing, also with the seed they report, and draw sound numbers."""
    one, two = secret_generator(), secret_generator()
    assert not torch.equal(one.get_state(), two.get_state())
    a, b = normal(one), normal(two)
    assert not torch.equal(a, b)
    for draw in (a, b):
        assert abs(float(draw.mean())) < 8 / 100_000**0.5
        assert abs(float(draw.square().mean()) - 1) < 8 * (2 / 100_000) ** 0.5
    assert abs(float((a * b).mean())) < 8 / 100_000**0.5


def test_a_secret_generator_cannot_be_rebuilt_from_its_reported_seed() -> None:
    """`initial_seed` of a CPU secret generator does not give its stream away."""
    generator = secret_generator()
    guess = torch.Generator().manual_seed(generator.initial_seed())
    assert not torch.equal(normal(generator, 64), normal(guess, 64))


def test_a_secret_generator_leaves_the_global_one_alone() -> None:
    """Making one draws nothing from torch's global generator."""
    before = torch.get_rng_state()
    secret_generator()
    assert torch.equal(before, torch.get_rng_state())


def test_torch_keeps_32_bits_of_a_cpu_seed_which_is_why_the_secret_generator_does_not_use_one() -> None:
    """Seeds that differ by 2^32 give one stream."""
    first, second = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.randn(16, generator=first), torch.randn(16, generator=second))


def test_a_secret_has_no_copies() -> None:
    """Nor has what holds it: two would draw the same noise."""
    for held in (Secret.fresh(), Noise(1.0, None)):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            if held.__class__ is Noise and duplicate is copy.copy:
                continue  # one secret still, and one count too many; `Noise` is made by the verbs alone
            with pytest.raises(TypeError, match="a secret is not copied"):
                duplicate(held)


def test_a_secret_is_of_no_use_in_a_forked_process() -> None:
    """Workers that a process forks would all draw one and the same noise."""
    secret = Secret.fresh()
    with mock.patch("os.getpid", return_value=os.getpid() + 1), pytest.raises(RunError, match="was forked"):
        secret.derive("noise")
    secret.derive("noise")
