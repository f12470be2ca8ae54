"""Assumptions shared by the noisy mechanisms, worded once.

Certificates carry these sentences and `verify` compares them: a sentence that changes its meaning is a new sentence,
and the old one stays for the certificates that carry it.
"""

__all__ = [
    "AFTERWARDS",
    "ANY_FORGET_SET",
    "BEHAVIOUR_ONLY",
    "CENTER_PUBLIC",
    "COINS_HIDDEN",
    "CONFIGURATION_PUBLIC",
    "COVERED",
    "FEATURES_PUBLIC",
    "FEATURES_UNDECLARED",
    "FORGET_SET_FIXED",
    "GRID_PUBLIC",
    "GROUP",
    "INDEPENDENT_RELEASES",
    "INITIALISATION_PUBLIC",
    "KERNELS_REPEAT",
    "KEYED_TRACE",
    "NOISE_FRESH",
    "NOISE_GAUSSIAN",
    "NO_THEOREM",
    "ONE_RELEASE",
    "ONE_TRAINING",
    "PER_EXAMPLE",
    "PIECES_OF_ROWS",
    "POISSON",
    "PSEUDORANDOM",
    "REAL_ARITHMETIC",
    "RESIDUAL_MEASURED",
    "RETAIN_ONLY",
    "SCALE_PUBLIC",
    "SOLUTION_REPEATS",
    "SUMS_CORRECT",
]

ANY_FORGET_SET = "every forget set"
GROUP = "every forget set of size at most {group_size}"

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
    "The noise was drawn at every step anew, from a stream whose key stays secret, as do the weights before and between the "
    "steps."
)
PSEUDORANDOM = (
    "To whoever reads the weights, AES-256 in counter mode under keys made by HMAC-SHA256 cannot be told from independent "
    "fair coins."
)
NOISE_GAUSSIAN = (
    "The noise is treated as Gaussian: it is Box and Muller's transform of the stream's words in float64, which ends near 13 "
    "standard deviations; what is released with it is rounded to multiples of noise.grid."
)
REAL_ARITHMETIC = "Floating point is treated as real arithmetic."
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
    "Noise, batches and all other coins of the training were drawn independently, from a stream and generators whose keys "
    "and seeds stay secret."
)
FORGET_SET_FIXED = "Which examples are forgotten was settled without the released weights."
AFTERWARDS = "Everything after the private training used the retained data, public data and fresh coins only."
ONE_TRAINING = (
    "One release: all requests together name at most group_size examples; several trainings on the same data compose, "
    "and together prove less."
)

# Of heads on a fixed feature map.
FEATURES_PUBLIC = (
    "The feature map (backbone, random layers, scaling, projection) does not depend on the forgotten data, for the reason "
    "given as provenance."
)
FEATURES_UNDECLARED = "Where the feature map comes from was not declared: it may hold the forgotten data."
BEHAVIOUR_ONLY = (
    "Which class wins is what is meant by forgetting: the claim is no indistinguishability, and the network below the patches is the trained "
    "one."
)
PIECES_OF_ROWS = "The patched pieces are those on which the rows to be forgotten lie, and the labels marked are theirs: no weight shows it."
NO_THEOREM = (
    "No theorem speaks of this method: the released weights may hold the forgotten data in full, whatever an audit finds or does not "
    "find."
)
OBJECTIVE_PUBLIC = "Loss, penalties, regularisation and the number of outputs were chosen without the forgotten data."
SUMS_CORRECT = (
    "The sums held exactly the rows that were learned and not forgotten: each forgotten row was subtracted as it had been "
    "added."
)
GRID_PUBLIC = "The steps to which features and targets are rounded were chosen without the forgotten data."
SOLUTION_REPEATS = (
    "The same sums give the same weights, bit for bit, on this machine, these versions and this number of threads."
)
RESIDUAL_MEASURED = (
    "The norm of the gradient over the retained rows was measured in float64, its rounding error bounded and added, and the "
    "total was at most residual."
)

# Of a traced training.
KEYED_TRACE = (
    "A keyed hash of each record's own name decided when it was used, so that no record's use depended on another's; the "
    "key was drawn without the data."
)
KERNELS_REPEAT = "The same steps on the same batches give the same bits on this machine and these versions."
INITIALISATION_PUBLIC = "The initialisation does not depend on the forgotten data."
