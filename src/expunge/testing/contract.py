"""What a broken contract raises."""

__all__ = ["ContractViolation", "require"]


class ContractViolation(AssertionError):
    """A mechanism or an executor does not keep its contract; the message names it, the fields and the numbers."""


def require(holds: bool, contract: str, found: str, subject: object) -> None:
    """Raise `ContractViolation` unless `holds`; the message begins with the name of the contract."""
    if not holds:
        fields = repr(subject)
        raise ContractViolation(f"{contract}: {found} [{fields if len(fields) < 400 else fields[:400] + '...'}]")
