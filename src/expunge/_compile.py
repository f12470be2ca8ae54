"""Compile loops over numbers with numba, where it is installed."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

__all__ = ["LONG", "compiled"]

LONG = 1 << 17  # numbers: from here on it is worth the second that the compiler needs to load


def compiled(signatures: str | Sequence[str], function: Callable[..., Any]) -> Any:
    """The function as machine code, which other threads do not wait for.

    Without fast arithmetic: nothing is reordered or fused, so every operation is rounded as numpy rounds it, and the results
    are the same on any processor.

    Raises:
        ImportError: numba is not installed.
    """
    import numba

    njit: Any = numba.njit  # its annotations take one signature
    compiler = partial(njit, signatures, nogil=True, error_model="numpy", boundscheck=False)
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # there is no folder that the compiled code could be kept in
        return compiler()(function)
