"""Rows and what is asked of them: examples, requests, batches, commitments, and the check that none of them is in both sets."""

from expunge.data.batches import Batches
from expunge.data.commitments import commit, new_commitment_key, open_commitment
from expunge.data.coverage import check_disjoint
from expunge.data.examples import Examples, as_examples, split
from expunge.data.request import Request

__all__ = [
    "Batches",
    "Examples",
    "Request",
    "as_examples",
    "check_disjoint",
    "commit",
    "new_commitment_key",
    "open_commitment",
    "split",
]
