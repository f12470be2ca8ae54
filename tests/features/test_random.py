"""The random layer: public, fixed, the same alone and in a batch."""

import pytest
import torch
from sklearn.datasets import load_digits

from expunge.features import RandomFeatures
from expunge.heads import AnalyticHead


def digits() -> torch.Tensor:
    return torch.tensor(load_digits().data / 16)


def test_a_seed_decides_the_layer_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = RandomFeatures(64, 100, seed=3), RandomFeatures(64, 100, seed=3), RandomFeatures(64, 100, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.projection, two.projection)
    assert not torch.equal(one.projection, other.projection)
    assert not list(one.parameters())
    assert set(one.state_dict()) == {"projection"}


def test_the_entries_have_the_law_that_is_stated():
    """Mean 0 and variance 1/d_in, within five standard errors of 200,000 draws; multiples of 2^-12."""
    p = RandomFeatures(100, 2000, seed=0).projection
    n = p.numel()
    assert abs(float(p.mean())) < 5 * 0.1 / n**0.5
    assert abs(float(p.square().mean()) * 100 - 1) < 5 * (2 / n) ** 0.5
    assert torch.equal(p * 4096, torch.round(p * 4096))


def test_the_features_are_the_positive_part_of_the_projection():
    layer, x = RandomFeatures(64, 50, seed=1), digits()[:20]
    expected = (x.numpy() @ layer.projection.numpy()).clip(0)
    assert torch.equal(layer(x), torch.tensor(expected))
    assert layer(x.float()).dtype == torch.float64
    assert torch.equal(layer(x.float()), layer(x))


def test_the_inputs_stand_before_the_features_where_they_are_kept():
    plain, kept, x = RandomFeatures(64, 50, seed=1), RandomFeatures(64, 50, seed=1, keep_inputs=True), digits()[:20]
    assert torch.equal(kept(x), torch.cat([x, plain(x)], dim=1))
    assert kept(x.float()).dtype == torch.float64
    assert (plain.width, kept.width) == (plain(x).shape[1], kept(x).shape[1]) == (50, 114)
    assert kept.provenance == f"{plain.provenance}, beside its inputs as they are"
    with pytest.raises(AttributeError, match="keep_inputs"):
        kept.keep_inputs = False


def test_a_row_has_the_same_features_alone_and_in_any_batch():
    layer, x = RandomFeatures(64, 1024, seed=1), digits()
    together = layer(x)
    for k in (0, 17, 1796):
        assert torch.equal(layer(x[k : k + 1])[0], together[k])
    assert torch.equal(layer(x[5:300]), together[5:300])


def test_a_row_is_forgotten_by_features_made_anew():
    layer, x, y = RandomFeatures(64, 256, seed=1), digits(), torch.tensor(load_digits().target)
    head = AnalyticHead(ridge=1.0, classes=10, provenance=layer.provenance)
    head.learn(layer(x), y, ids=[str(k) for k in range(len(x))])
    head.forget(layer(x[7:8]), y[7:8], ids=["7"])
    assert len(head) == len(x) - 1


def test_more_random_features_tell_the_digits_apart_better():
    x, y = digits(), torch.tensor(load_digits().target)
    accuracy: list[float] = []
    for layer in (torch.nn.Identity(), RandomFeatures(64, 1024, seed=1)):
        head = AnalyticHead(ridge=1.0, classes=10)
        head.learn(layer(x[300:]), y[300:], ids=[str(k) for k in range(300, len(x))])
        accuracy.append(float((head.predict(layer(x[:300])) == y[:300]).double().mean()))
    assert accuracy[1] > accuracy[0]
    assert accuracy[1] > 0.93


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 5, 1), ValueError, "d_in"),
        ((5, 0, 1), ValueError, "d_out"),
        ((5, 5.5, 1), TypeError, "d_out"),
        ((5, 5, -1), ValueError, "seed"),
        ((5, 5, 2**32), ValueError, "seed"),
        ((5, 5, None), TypeError, "seed"),
    ],
)
def test_sizes_and_seeds_that_make_no_sense_are_refused(arguments: tuple, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        RandomFeatures(arguments[0], arguments[1], seed=arguments[2])


def test_rows_of_another_width_and_a_cast_layer_are_refused():
    layer = RandomFeatures(64, 10, seed=0)
    for wrong in (torch.zeros(3, 63), torch.zeros(64)):
        with pytest.raises(ValueError, match=r"\(n, 64\)"):
            layer(wrong)
    with pytest.raises(TypeError, match="float64"):
        layer.float()(torch.zeros(3, 64))


def test_the_provenance_names_the_seed():
    assert RandomFeatures(64, 10, seed=9).provenance == "random ReLU layer, 64 to 10, drawn from the public seed 9"
