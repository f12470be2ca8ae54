"""Assumptions shared by the noisy mechanisms, worded once.

Certificates carry these sentences and `verify` compares them: a sentence that changes its meaning is a new sentence,
and the old one stays for the certificates that carry it.
"""

__all__ = [
    "AFTERWARDS",
    "ANY_FORGET_SET",
    "CENTER_PUBLIC",
    "COINS_HIDDEN",
    "CONFIGURATION_PUBLIC",
    "COVERED",
    "FORGET_SET_FIXED",
    "GROUP",
    "INDEPENDENT_RELEASES",
    "NOISE_FRESH",
    "ONE_RELEASE",
    "ONE_TRAINING",
    "PER_EXAMPLE",
    "POISSON",
    "REAL_ARITHMETIC",
    "RETAIN_ONLY",
    "SCALE_PUBLIC",
]

ANY_FORGET_SET = "every forget set"
GROUP = "every forget set of at most {group_size} examples"

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
INDEPENDENT_RELEASES = "The noise of each release is independent of that of all others."
ONE_RELEASE = "One request: several releases about the same data compose, and together prove less."

# Of private training, which used the forgotten data too.
POISSON = (
    "Each example joined each batch independently with probability sampling_rate; an empty batch was a step with "
    "noise alone."
)
PER_EXAMPLE = "Each gradient was of one example alone, nothing in model or loss mixed examples, and it was clipped to sample_clip."
SCALE_PUBLIC = (
    "The initialisation, and the number by which noisy sums were divided, depend neither on the forgotten data nor on "
    "how many they are."
)
COINS_HIDDEN = (
    "Noise, batches and all other coins of the training were drawn independently, from generators whose seeds stay "
    "secret."
)
FORGET_SET_FIXED = "Which examples are forgotten was settled without the released weights."
AFTERWARDS = "Everything after the private training used the retained data, public data and fresh coins only."
ONE_TRAINING = (
    "One release: all requests together name at most group_size examples; several trainings on the same data compose, "
    "and together prove less."
)
