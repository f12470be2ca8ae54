"""Attributes that are set once, as an object is made: what a certificate says of it stays true."""

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["fixed"]

_T = TypeVar("_T")


def fixed(*names: str) -> Callable[[type[_T]], type[_T]]:
    """Make attributes of a class ones that are set once; setting or deleting one later raises `AttributeError`, by name."""

    def mark(kind: type[_T]) -> type[_T]:
        for name in names:
            setattr(kind, name, _Once(name))
        return kind

    return mark


class _Once:
    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, holder: Any, kind: type) -> Any:
        if holder is None:
            return self
        try:
            return vars(holder)[self._name]
        except KeyError:
            raise AttributeError(f"{kind.__name__} has no attribute {self._name!r}", name=self._name) from None

    def __set__(self, holder: Any, value: Any) -> None:
        if self._name in vars(holder):
            raise AttributeError(
                f"{self._name} is {vars(holder)[self._name]!r} since this {type(holder).__name__} was made, and cannot become "
                f"{value!r}: records and certificates speak of it; make a new one"
            )
        vars(holder)[self._name] = value

    def __delete__(self, holder: Any) -> None:
        raise AttributeError(f"{self._name} of a {type(holder).__name__} cannot be deleted")
