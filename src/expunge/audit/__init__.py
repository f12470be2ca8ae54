"""Lower bounds on ε from attacks: what an audit saw, and how much it refutes. Arrays and counts only, no torch.

An audit never proves a guarantee. It refutes one, or it does not.
"""

from expunge._verbs import also_a_verb
from expunge.audit.beside_null_start import null_start
from expunge.audit.evidence import Counts, Evidence, GaussianFit, JointGuesses, Means, OneRun, OneRunViaCertifier
from expunge.audit.finding import Finding
from expunge.audit.information import Tables
from expunge.audit.joint import joint_guesses
from expunge.audit.measurement import Measurement, Shares, predicted_information
from expunge.audit.one_training import one_run
from expunge.audit.report import Audit

__all__ = [
    "Audit",
    "Counts",
    "Evidence",
    "Finding",
    "GaussianFit",
    "JointGuesses",
    "Means",
    "Measurement",
    "OneRun",
    "OneRunViaCertifier",
    "Shares",
    "Tables",
    "joint_guesses",
    "null_start",
    "one_run",
    "predicted_information",
]

also_a_verb(__name__)
