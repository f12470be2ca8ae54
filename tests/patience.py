"""A limit that only work of a wrong order of growth reaches; speed itself is measured by benchmarks, beside a peer."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import process_time

_SLACK = 10  # a loaded machine, a collection of the heap of a thousand tests: neither comes near


@contextmanager
def patience(usual: float) -> Iterator[None]:
    """Fail where the work within takes more than ten times what is usual.

    Args:
        usual: seconds of processor time on a quiet machine.
    """
    begun = process_time()
    yield
    taken = process_time() - begun
    assert taken < _SLACK * usual, f"{taken:.3g} s of processor time, where {usual:g} s are usual"
