"""What the numbers of a certificate and an audit say, in sentences for whoever is no engineer."""

from math import exp, floor, inf, isfinite

from scipy.special import ndtr

from expunge.accounting import Bound, EpsilonDeltaClaim, ExactClaim, Kind, Mechanism, delta_at
from expunge.accounting.bounds import mu_of, reading_of
from expunge.audit import Audit
from expunge.certificate import Certificate, counterpart

__all__ = ["attacked", "guessing", "kept", "noise_hides", "right_guesses", "total_variation"]

# Of 100 outcomes that could come out otherwise: below it a noisy run is as good as one that starts from nothing.
_LITTLE = 0.5


def total_variation(mechanism: Mechanism, claim: EpsilonDeltaClaim) -> float:
    """An upper bound on how much the chance of anything at all can differ between the two worlds of a claim, in [0, 1].

    The least of three bounds, each proven for one certifier of the claim: δ at ε = 0, by definition of δ; 2Φ(μ/2) - 1 of
    μ-GDP (Dong, Roth & Su 2019, arXiv 1905.02383); (e^ε - 1 + 2δ)/(e^ε + 1) of the claimed point, where the lines
    p = e^ε q + δ and 1 - q = e^ε (1 - p) + δ meet (Kairouz, Oh & Viswanath 2015, arXiv 1311.0776).
    """
    one, relation = reading_of(mechanism, delta=claim.delta, relation=claim.relation)
    odds = exp(-claim.epsilon)
    lines = (1 - odds + 2 * claim.delta * odds) / (1 + odds)
    mu = mu_of(one, relation)
    gaussian = 1.0 if mu == inf else float(ndtr(mu / 2) - ndtr(-mu / 2)) * (1 + 1e-9)
    return min(delta_at(one, 0.0, relation), gaussian, lines * (1 + 1e-9), 1.0)


def right_guesses(certificate: Certificate) -> float | None:
    """Of 100 guesses which of the two models one is shown, as likely one as the other, how many are right at most.

    (1 + TV)/2 is what the best guess attains, TV the total variation; rounded up to a tenth. 50 of an exact claim, whose two
    worlds are one; None where nothing is claimed.
    """
    claim = certificate.claim
    if not isinstance(claim, EpsilonDeltaClaim):
        return 50.0 if isinstance(claim, ExactClaim) else None
    apart = total_variation(certificate.mechanism, claim)
    return min(floor(500 * (1 + apart)) + 1, 1000) / 10


def guessing(certificate: Certificate) -> str:
    """What can be told from the model, as a share of right guesses."""
    cases = right_guesses(certificate)
    if cases is None:
        return (
            "No limit is proven on what the model tells: someone who guesses from it whether the data were used may be right in "
            "100 of 100 cases."
        )
    shown = f"Someone who is shown either this model or {counterpart(certificate.claim.relation)}, and guesses which,"
    if isinstance(certificate.claim, ExactClaim):
        return f"{shown} is right in 50 of 100 cases: no more than by tossing a coin."
    if cases > 99.9:
        return f"{shown} may be right in 100 of 100 cases: the limit protects little. A coin is right in 50."
    return f"{shown} is right in at most {cases:g} of 100 cases. A coin is right in 50."


def noise_hides(mechanism: Mechanism) -> bool:
    """Whether it is trained weights that the noise is to hide: what survives of them is bounded, by clips or by steps.

    Where neither the start is clipped nor a step taken, the norm that survives is a distance between two minimisers.
    """
    clipped = isfinite(mechanism.start_radius) or mechanism.gradient_steps > 0
    return mechanism.kind is Kind.EPSILON_DELTA and clipped and isfinite(mechanism.surviving_norm)


def kept(certificate: Certificate) -> str:
    """Whether anything of the trained weights can be left in the certified ones; empty where no noise is to hide them."""
    claim = certificate.claim
    if not (isinstance(claim, EpsilonDeltaClaim) and noise_hides(certificate.mechanism)):
        return ""
    apart = total_variation(certificate.mechanism, claim)
    points = f"{100 * apart:.3g} percentage points"
    told = f"The chance of any outcome differs by at most {points} from that of a run that did not start from the trained weights"
    if apart < _LITTLE:
        return f"{told}: next to nothing of the training is left. What the released model can do it learned afterwards."
    return f"{told}: something of the training may be left."


def attacked(certificate: Certificate, audit: Audit, untested: str | None) -> str:
    """What came of the audit, in a sentence."""
    count = len(audit.findings)
    if not isinstance(certificate.claim, Bound):
        return "The model was attacked, but nothing is claimed that an attack could refute."
    if untested is not None:
        return (
            "Attacks on this model were of a kind or size that could not have refuted the claim, so they say nothing."
        )
    if count == 1:
        return "One attack tried to refute the claim and did not. An attack never proves a claim."
    return f"{count} attacks tried to refute the claim, and none did. Attacks never prove a claim."
