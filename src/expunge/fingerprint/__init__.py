"""Digests of a user's code with all that it holds: what a replay or a resumed run must have in common with the first."""

from expunge.fingerprint.digests import code_digest, model_digest, refuse_iterators, tensors_held

__all__ = ["code_digest", "model_digest", "refuse_iterators", "tensors_held"]
