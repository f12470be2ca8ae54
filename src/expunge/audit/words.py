"""What each attack does and what each measurement is, in a sentence, for readers of a report."""

from collections.abc import Mapping

__all__ = ["ATTACKS", "MEASUREMENTS", "explained", "told"]

ATTACKS: Mapping[str, str] = {
    "two worlds": "The same unlearning is run many times from two starts that differ as much as the rules allow, on data "
    "made to keep them apart. From the released weights the attack guesses the start.",
    "null start": "The same unlearning is run from the trained model and from one that never saw any data. If the first ends "
    "up better by more than the claim allows, something of the training was left.",
    "membership: loss threshold": "A row on which the released model makes small errors is taken for one that it had learned.",
    "membership: LiRA": "Models trained with and without a row (shadow models) show what the row does to a model's confidence. "
    "The attack asks which of the two the released model is more like.",
    "membership: U-LiRA": "As LiRA, with shadow models that have forgotten rows too, so that traces which unlearning itself "
    "leaves are found.",
    "membership: RMIA": "A row is taken for one that was learned if it gains more from the released model, beside models of "
    "comparison, than rows of the population do.",
    "canaries": "Rows of the request and held-out rows are each put in or left out by a coin, and those that are in are "
    "learned and forgotten. From the released model the attack guesses the coins.",
}
"""By the beginning of a finding's `attack`; the longest that fits is meant."""

MEASUREMENTS: Mapping[str, str] = {
    "accuracy on rows": "How often the released model gives the right label to rows that were learned and forgotten again; the "
    "null is how often it does so on rows that were left out.",
    "answers about": "How often the released model answers questions about a concept, without context or with examples or "
    "definitions before each. The null is a model that never saw the concept: only what goes beyond it was left by the "
    "unlearner, all else is what models of this kind make of such a prompt, and neither breaks a certificate.",
    "nearest class means": "How often a few labelled rows of each class suffice to classify others by the released model's "
    "features. The null is a model that never saw the concept: only what goes beyond it was left by the unlearner, all else "
    "is what features of this kind give to anybody who has such rows, and neither breaks a certificate.",
    "information of predicted labels": "How much the released model's labels for a row tell whether the row was forgotten; the "
    "null is how much those of a reference tell that never saw the forgotten rows, or the true labels.",
}
"""By the beginning of a measurement's `name`."""


def explained(attack: str) -> tuple[str, str] | None:
    """The attack's name in this table and what it does; None for one that the table does not know."""
    fitting = [name for name in ATTACKS if attack == name or attack.startswith((f"{name}:", f"{name},"))]
    return (name := max(fitting, key=len), ATTACKS[name]) if fitting else None


def told(measurement: str) -> str:
    """What a measurement of this name is; "" for one that the table does not know."""
    return next((text for name, text in MEASUREMENTS.items() if measurement.startswith(name)), "")
