"""Assumptions shared by the noisy mechanisms, worded once.

Certificates carry these sentences and `verify` compares them: a sentence that changes its meaning is a new sentence,
and the old one stays for the certificates that carry it.
"""

__all__ = [
    "ANY_FORGET_SET",
    "CENTER_PUBLIC",
    "CONFIGURATION_PUBLIC",
    "COVERED",
    "NOISE_FRESH",
    "ONE_RELEASE",
    "REAL_ARITHMETIC",
    "RETAIN_ONLY",
]

ANY_FORGET_SET = "every forget set"

RETAIN_ONLY = "The steps and everything after them used the retained data, public data and fresh coins only."
CONFIGURATION_PUBLIC = (
    "Radii, learning rate, decay, steps, noise, batch order and architecture were chosen without the forgotten data; "
    "no radius was measured on the trained model."
)
CENTER_PUBLIC = (
    "The centre of the ball (zero, or the public checkpoint named here) does not depend on the forgotten data."
)
COVERED = "Everything in the released weights that was learned from the data was covered by the clip and the noise."
NOISE_FRESH = (
    "The noise was drawn independently at every step from a generator whose seed stays secret, as were the weights "
    "before and between the steps."
)
REAL_ARITHMETIC = "Floating point is treated as real arithmetic, the generator's output as Gaussian."
ONE_RELEASE = "One request: several releases about the same data compose, and together prove less."
