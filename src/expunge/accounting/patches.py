"""Prove the patches of a network from its weights: each names a linear piece, and a class that wins on all of it."""

from collections.abc import Mapping
from math import inf, isnan, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.accounting.polytopes import REALS, Box, Piece, names_of, pieces

if TYPE_CHECKING:
    from expunge.accounting.mechanisms.prune import Prune

__all__ = ["NETWORK", "lead", "prove"]

NETWORK = "network."
_OWN = ("signs", "slacks", "shifts", "targets", "labels")


def prove(claimed: "Prune", tensors: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless weights prove what `Prune` claims; see `Prune.check`."""
    needed, allowed = names_of(claimed.layers)
    network = {name.removeprefix(NETWORK): t for name, t in tensors.items() if name.startswith(NETWORK)}
    own = {name: np.asarray(t) for name, t in tensors.items() if not name.startswith(NETWORK)}
    if set(own) != set(_OWN) or not needed <= set(network) <= needed | allowed:
        raise ValueError(
            f"the weights must hold the network of the layers and {', '.join(_OWN)}, and nothing else, not {sorted(tensors)}"
        )
    if any(part.dtype not in REALS for part in own.values()):
        raise ValueError(f"{', '.join(_OWN)} must be of type {', '.join(map(str, REALS))}")
    held = {name: part.astype(np.float64) for name, part in own.items()}
    count = claimed.patches
    if any(held[name].ndim != 1 for name in ("slacks", "shifts", "targets")) or held["labels"].ndim != 2:
        raise ValueError("slacks, shifts and targets must be one number a patch, labels one a class")
    if any(len(part) != count or not np.isfinite(part).all() for part in held.values()):
        raise ValueError(
            f"{count} patches are claimed, and the weights hold other numbers of them, or what is no number"
        )
    signs = held["signs"]
    if signs.ndim != 2 or not (np.abs(signs) == 1).all():
        raise ValueError("signs must be +1 or -1, one a hidden unit and patch")
    if len(np.unique(signs, axis=0)) != count:
        raise ValueError("two patches name the same piece")
    if not (held["slacks"] > 0).all():
        raise ValueError("a slack is not above 0")
    box = Box(claimed.lowest, claimed.highest, prod(claimed.input_shape))
    told = pieces(claimed.layers, claimed.input_shape, network, signs, held["slacks"].tolist(), box)
    for k, piece in enumerate(told):
        _prove_one(k, piece, held, claimed.margin)


def lead(piece: Piece, target: int) -> float:
    """A lower bound on how far a class is ahead of every other one on a piece; negative where it is behind."""
    others = [c for c in range(len(piece.scores.rows)) if c != target]
    wanted = piece.scores.of_units([target])
    bounds = [piece.least(wanted.less(piece.scores.of_units([other]))) for other in others]
    return -inf if any(map(isnan, bounds)) else min(bounds)


def _prove_one(k: int, piece: Piece, held: Mapping[str, Any], margin: float) -> None:
    classes = len(piece.scores.rows)
    labels, target, shift = held["labels"][k], held["targets"][k], float(held["shifts"][k])
    if classes < 2 or labels.shape != (classes,) or not np.isin(labels, (0.0, 1.0)).all() or not labels.any():
        raise ValueError(f"patch {k}: labels must mark at least one of {classes} classes")
    if target not in range(classes) or labels[int(target)]:
        raise ValueError(f"patch {k}: its class {target:g} is none, or a label that the rows had")
    centre = piece.innermost()
    if centre is None or not piece.inside(centre):
        raise ValueError(f"patch {k}: no input was found on its piece, so that nothing would be claimed")
    proven = lead(piece, int(target)) + shift
    if not proven >= margin + 2.0**-50 * abs(shift):
        raise ValueError(f"patch {k}: its class is proven ahead by {proven:.6g} only, {margin:g} is claimed")
