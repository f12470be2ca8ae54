"""Certificates of runs that never were, and certificates whose fields were changed."""

import copy

from expunge import Certificate, RunRecord, issue
from expunge.certificate import _digest
from expunge.record import NoiseRecord

DELTA = 1e-5


def record_of(mechanism):
    noise = NoiseRecord(
        count=mechanism.noise_draws, std=mechanism.noise_std, dimension=3, self_test="passed", generator="secret"
    )
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
