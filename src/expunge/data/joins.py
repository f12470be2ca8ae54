"""A set of examples with others, or without."""

from expunge.data.examples import Examples

__all__ = ["joined"]


def joined(first: Examples, second: Examples | None) -> Examples:
    """Both, with their ids; see `Examples.join`."""
    return first if second is None else first + second
