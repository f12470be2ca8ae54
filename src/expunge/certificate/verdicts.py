"""What a certificate means, in plain words: for whoever has to decide, not to check a proof."""

from dataclasses import dataclass
from math import ceil, exp, floor, log, log10

from expunge.accounting import WITHDRAWN, BehaviouralClaim, EpsilonDeltaClaim, ExactClaim, Relation
from expunge.certificate.format import Certificate, version_of
from expunge.certificate.record import ANY_GROUP, UNCHECKED, RunRecord

__all__ = ["Verdict", "counterpart", "verdict"]

# Above this chance for someone who gave even odds before, little is protected: ε = log 99, about 4.6.
_WEAK = 0.99

_COVERAGE = {
    "ids": "That the retained data hold none of the forgotten examples was checked by their ids.",
    "content": "That the retained data hold none of the forgotten examples was checked by their content.",
    "ids and content": "That the retained data hold none of the forgotten examples was checked by their ids and their content.",
    "ledger": "The forgotten examples were taken out of a state that knows, by keyed digests, what it holds.",
    ANY_GROUP: "No retained data are involved: the training protected every group of that size from the start.",
}
_STREAM = {
    "aes-256-ctr/1": "The noise came from AES-256 in counter mode, a cryptographic stream.",
    "torch-mersenne": "The noise came from torch's Mersenne twister, which is not cryptographic: whoever knows some of the "
    "weights before the noise may be able to compute the rest of it.",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict, what it means, and what was seen to: sentences; `warnings` are those that a reader must not miss."""

    headline: str
    meaning: str
    checks: tuple[str, ...]
    warnings: tuple[str, ...]


def verdict(certificate: Certificate) -> Verdict:
    """The verdict on a certificate that `verify` has accepted.

    ε in plain words: the odds of any conclusion differ by a factor of at most e^ε between the two worlds, so that whoever
    gives even odds before seeing the model gives at most e^ε to 1 after it, a chance of e^ε/(1 + e^ε).
    """
    claim, record = certificate.claim, certificate.record
    checks, warnings = _seen_to(certificate, record)
    if isinstance(claim, EpsilonDeltaClaim):
        headline, meaning = _limited(claim, record)
    elif isinstance(claim, ExactClaim):
        headline = "The data are forgotten exactly."
        meaning = (
            "Under the assumptions that the certificate lists, the model is one that could have come from the same procedure had it never seen the "
            "forgotten data: no one can learn from it that they were there, however much they know or compute."
        )
    elif isinstance(claim, BehaviouralClaim):
        headline = "The model answers otherwise on stated inputs; that the data are forgotten is not proven."
        meaning = (
            "On these inputs it gives other classes than the forgotten data had. It may hold these data all the same, and tell of them in "
            "other ways: whoever looks for abnormally high losses finds which rows were patched."
        )
    else:
        headline = "Nothing is proven about this model."
        why: str = getattr(record.mechanism, "why", "Nothing is known of how it was made")
        meaning = f"{why}, so the model may hold the forgotten data in full."
    return Verdict(headline, meaning, checks, warnings)


def counterpart(relation: Relation) -> str:
    """The model that the released one is compared with, in words."""
    if relation is Relation.RETRAINED:
        return "a model that never saw the forgotten data"
    return "a model made without them, from noise around a public point"


def _limited(claim: EpsilonDeltaClaim, record: RunRecord) -> tuple[str, str]:
    chance = 1 / (1 + exp(-claim.epsilon))
    other = counterpart(claim.relation)
    size = getattr(record.mechanism, "group_size", None)
    group = (
        ""
        if size is None
        else f" This holds as long as no more than {size} {'example is' if size == 1 else 'examples are'} forgotten."
    )
    headline = "The data are forgotten within a stated limit."
    if chance > _WEAK:
        headline = "The data are forgotten in a weak sense only: the limit is so wide that it protects little."
    meaning = (
        f"Whatever anyone concludes from this model, they would conclude from {other} with odds that differ by a factor of at "
        f"most {_factor(claim.epsilon)}, but for a probability of at most {_one_in(claim.delta)}. So whoever thought it as likely as not "
        f"that the data had been learned can be {_percent(chance)} sure of it at most after seeing the model.{group}"
    )
    return headline, meaning


def _seen_to(certificate: Certificate, record: RunRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
    checks: list[str] = []
    warnings: list[str] = []
    if version_of(certificate.content) == 1:
        warnings.append(
            "This certificate is of schema 1: it does not say whether the retained data hold forgotten examples."
        )
    elif record.coverage == UNCHECKED:
        warnings.append(
            "Nobody checked that the retained data hold none of the forgotten examples. The issuer says why: "
            f"“{certificate.content['unchecked']}”"
        )
    else:
        checks.append(_COVERAGE[record.coverage])
    if record.noise.count:
        (warnings if record.noise.stream == "torch-mersenne" else checks).append(_STREAM[record.noise.stream])
        if record.noise.generator == "given":
            warnings.append(
                "The noise came from a secret that the issuer had before: whoever knows it can take the noise off again."
            )
    if record.mechanism.name in WITHDRAWN:
        warnings.append(
            f"The mechanism was withdrawn after this certificate was issued: {WITHDRAWN[record.mechanism.name]}."
        )
    return tuple(checks), tuple(warnings)


def _factor(epsilon: float) -> str:
    if epsilon < 13:
        return f"e^{epsilon:.4g} = {_up(exp(epsilon)):.4g}"
    return f"e^{epsilon:.4g}, a number of {floor(epsilon / log(10)) + 1} digits"


def _one_in(delta: float) -> str:
    if delta >= 0.01:
        return f"{100 * _up(delta):.4g} %"
    return f"{_up(delta):.4g}" + (f" (one in {1 / delta:,.0f})" if delta >= 1e-9 else "")


def _up(x: float) -> float:
    """To four digits, upwards where the last one is rounded: a bound stays one."""
    unit = 10.0 ** (floor(log10(x)) - 3)
    return x if f"{x:.4g}" == f"{x:.9g}" else ceil(x / unit) * unit


def _percent(chance: float) -> str:
    return f"{ceil(1000 * chance) / 10:.1f} %" if chance < 0.999 else "all but entirely"
