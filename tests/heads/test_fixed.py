"""What a record says of a head is what it was made with: nothing of it can be set anew."""

import copy
import pickle

import pytest
import torch
from torch import nn

from expunge.features import PublicNetwork, RandomFeatures, TangentFeatures
from expunge.heads import AnalyticHead, ConvexHead


def analytic() -> AnalyticHead:
    return AnalyticHead(ridge=1.0, classes=2, provenance="a public map")


def convex() -> ConvexHead:
    return ConvexHead(loss="logistic", regularization=0.1, classes=2, residual=1e-6, noise_std=1.0, provenance="public")


def random() -> RandomFeatures:
    return RandomFeatures(3, 4, seed=0)


def tangent() -> TangentFeatures:
    torch.manual_seed(0)
    return TangentFeatures(nn.Linear(3, 2), shape=(3,), directions=2, seed=0, provenance="public")


def network() -> PublicNetwork:
    torch.manual_seed(0)
    return PublicNetwork(nn.Linear(3, 2), shape=(3,), provenance="public")


CASES = [
    *((analytic, name) for name in ("ridge", "rounding", "provenance", "classes", "method", "grid", "key", "counts")),
    *((convex, name) for name in ("mechanism", "noise_std", "settings", "solution", "key")),
    *((random, name) for name in ("seed", "d_in", "d_out", "keep_inputs", "provenance")),
    *(
        (tangent, name)
        for name in ("seed", "directions", "patterns", "names", "output", "hidden", "step", "provenance")
    ),
    *((tangent, name) for name in ("shape", "block", "bias", "outputs", "hidden_width", "parameters_covered")),
    *((network, name) for name in ("shape", "step", "block", "output", "provenance")),
]


@pytest.mark.parametrize(("make", "name"), CASES, ids=lambda case: case if isinstance(case, str) else case.__name__)
def test_what_a_head_or_map_was_made_with_cannot_be_set_anew_or_deleted(make, name):
    made = make()
    with pytest.raises(AttributeError, match=rf"\b{name}\b"):
        setattr(made, name, "other")
    with pytest.raises(AttributeError, match=rf"\b{name}\b"):
        delattr(made, name)


@pytest.mark.parametrize("make", [analytic, convex, random, tangent, network])
def test_a_public_attribute_that_holds_a_setting_is_one_of_those(make):
    """Whatever is added to a head or map later: a plain public attribute would let its record lie."""
    own = {name for name in vars(make()) if not name.startswith("_")} - {"training", "network"}
    assert own <= {name for kind, name in CASES if kind is make}


@pytest.mark.parametrize("make", [analytic, random, tangent, network])
def test_copies_hold_the_same_settings_and_are_as_fixed(make):
    made = make()
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other.provenance == made.provenance
        name = next(n for m, n in CASES if m is make)
        with pytest.raises(AttributeError, match=name):
            setattr(other, name, 5)


def test_an_attribute_that_was_never_set_is_missing_by_name():
    with pytest.raises(AttributeError, match="'ridge'"):
        _ = AnalyticHead.__new__(AnalyticHead).ridge
