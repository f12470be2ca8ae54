"""A certificate: the claim, the configuration that proves it, and the digests of the weights it speaks of.

`issue` writes down what a run proves; `verify` proves it again from the fields, trusting only the closed table of
mechanisms, and raises with the reason where it cannot. Neither needs torch or the model.

A certificate says what *was recorded*. That the run took place as recorded rests on the word of its issuer: the content
digest shows damage, not forgery by someone who computes a new digest.
"""

from expunge.certificate.composition import compose, remaining, requests_left
from expunge.certificate.format import SCHEMA, Certificate, digest
from expunge.certificate.issuing import issue
from expunge.certificate.verdicts import Verdict, counterpart, verdict
from expunge.certificate.verification import verify

__all__ = [
    "SCHEMA",
    "Certificate",
    "Verdict",
    "compose",
    "counterpart",
    "digest",
    "issue",
    "remaining",
    "requests_left",
    "verdict",
    "verify",
]

_digest = digest  # its name when this room was one file
