"""Whether what was given are ids."""

from collections.abc import Iterator, KeysView
from numbers import Integral
from typing import Any, cast

import numpy as np

from expunge.certificate.commitments import texts

__all__ = ["ids_in"]


def ids_in(what: Any) -> list[str] | None:
    """The ids, where `what` is a collection of texts or whole numbers and nothing else; else None.

    Raises:
        TypeError, ValueError: see `texts`.
    """
    if isinstance(what, np.ndarray):
        return texts(cast("Any", what)) if what.dtype.kind in "Uiu" and what.ndim == 1 else None
    if not isinstance(what, (list, tuple, set, frozenset, range, KeysView, Iterator)):
        return None
    held = list(cast("Any", what))
    if held and all(isinstance(name, (str, Integral)) for name in held):
        return texts(held)
    if isinstance(what, Iterator) or not held:
        return texts(held)  # raises: no ids, and read once
    return None
