"""Certificates of runs that never were, and certificates whose fields were changed."""

import copy

from expunge import Certificate, RunRecord, issue
from expunge.certificate import _digest
from expunge.certificate.record import NO_NOISE, NoiseRecord
from expunge.randomness.grid import grid_of

DELTA = 1e-5


def record_of(mechanism):
    last = mechanism.noise_std[-1] if isinstance(mechanism.noise_std, tuple) else mechanism.noise_std
    noise = NoiseRecord(
        count=mechanism.noise_draws, std=mechanism.noise_std, dimension=3, self_test="passed", generator="secret",
        stream="aes-256-ctr/1", grid=grid_of(last),
    )  # fmt: skip
    if not mechanism.noise_draws:
        noise = NO_NOISE
    return RunRecord(
        mechanism=mechanism,
        steps_done=mechanism.gradient_steps,
        noise=noise,
        layers=(("weight", 3),),
        weights_dtype="float32",
        center="zero",
        buffers="none",
        public=(),
        certified="sha256:" + "a" * 64,
        coverage="ids",
    )


def certificate_of(mechanism):
    return issue(record_of(mechanism), released="sha256:" + "a" * 64, delta=DELTA)


def forged(certificate, change):
    """A certificate whose fields `change` alters, with a digest computed anew."""
    content = copy.deepcopy(dict(certificate.content))
    change(content)
    content["digest"] = _digest({key: value for key, value in content.items() if key != "digest"})
    return Certificate(content)
