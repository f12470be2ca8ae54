"""What every kind of evidence can say, and what confidence and δ it can be asked about."""

from typing import ClassVar, Protocol, cast

from expunge import _validate

__all__ = ["Evidence", "check", "counted", "sure"]

_MOST = 10**7  # of anything that is counted: above it, a file asks for work that no audit has done
_SUREST = 1e-9  # 1 - confidence: below it, limits lose their digits


class Evidence(Protocol):
    """A frozen dataclass of what was seen; its bounds hold with the given confidence under `assumes`."""

    kind: ClassVar[str]
    assumes: ClassVar[str]

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """A lower bound on ε at δ; 0 where nothing is shown."""
        ...

    def mu(self, *, confidence: float) -> float | None:
        """A lower bound on μ; None where this evidence gives none."""
        ...

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """The largest ε that evidence of this size can show; infinite where it extrapolates."""
        ...

    def reach(self, *, delta: float, confidence: float) -> float:
        """The largest ε that could have come of what was tried; at most `ceiling`.

        That is the bound of the clearest outcome: every guess that was made right, or the two worlds wholly apart. What
        was never tried counts for nothing, and neither does an assumption that so few samples could not contradict. A
        claim that lies at or above it was not tested.
        """
        ...

    @property
    def seconds(self) -> float:
        """About how long all its bounds take together, on the slow side; known before any is computed."""
        ...


def check(delta: float, confidence: float) -> None:
    """Raise `ValueError` unless δ lies in [0, 1) and the confidence is one that limits can be computed for."""
    sure(confidence)
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be a number in [0, 1), not {delta!r}")


def sure(confidence: float) -> None:
    """Raise `ValueError` unless the confidence is at least 0.5, and 1e-9 below 1."""
    _validate.open_unit_interval(confidence=confidence)
    if confidence < 0.5:
        raise ValueError(f"confidence must be at least 0.5, not {confidence!r}")
    if 1 - confidence < _SUREST:
        raise ValueError(
            f"confidence must be at most 1 - {_SUREST:g}: limits for more lose their digits, not {confidence!r}"
        )


def counted(least: int = 1, *, most: int = _MOST, **fields: object) -> None:
    """Raise unless every field is a whole number from `least` to `most`."""
    _validate.whole(least, **fields)
    for name, value in fields.items():
        if int(cast("int", value)) > most:
            raise ValueError(f"{name} must be at most {most}: no audit counts more")
