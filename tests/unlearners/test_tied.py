"""The exact law of a noisy mechanism on tied weights: one parameter under two names is one Gaussian vector."""

from math import sqrt
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chi2, norm
from torch import Tensor, nn

import expunge as ex
from expunge.accounting import GradientClipping
from expunge.certificate.digests import weights_digest, weights_tensors
from expunge.errors import RunError, WeightsMismatch
from expunge.training.weights import save_weights

SIZE, SIGNIFICANCE = 3000, 1e-6
MECHANISM = GradientClipping(
    init_clip=0.5, grad_clip=1.0, learning_rate=0.1, weight_decay=2.0, steps=5, noise_std=0.002
)


class Tied(nn.Module):
    """Embedding and head with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(SIZE, 1), nn.Linear(1, SIZE)
        self.head.weight = self.embedding.weight


def direction(seed: int) -> Tensor:
    return torch.randn(SIZE, 1, generator=torch.Generator().manual_seed(seed))


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Linear, so that the law is known: the two names have gradients of their own, which add up."""
    by_one, by_other = (model.embedding.weight * direction(1)).sum(), (model.head.weight * direction(2)).sum()
    return by_one + by_other + 0 * model.head.bias.sum() + 0 * batch[0].sum()


@pytest.fixture(scope="module")
def done():
    torch.manual_seed(0)
    coins = torch.Generator().manual_seed(4)
    return ex.unlearn(
        Tied(), ex.Examples(torch.zeros(40, 1), ids=range(40)), MECHANISM, loss=loss, forget=ex.Examples(torch.ones(2, 1), ids=[50, 51]),
        generator=coins,
    )  # fmt: skip


def deviations(done, gradient: Tensor) -> Tensor:
    """The released weight less its mean, over the scale of the noise."""
    torch.manual_seed(0)
    start = Tied()
    flat = torch.cat([start.embedding.weight.reshape(-1), start.head.bias]).double().detach()
    keep = 1 - MECHANISM.learning_rate * MECHANISM.weight_decay
    pushed = MECHANISM.learning_rate * sum(keep**j for j in range(MECHANISM.steps))
    begun = flat[:SIZE] * min(1.0, MECHANISM.init_clip / float(flat.norm()))
    mean = keep**MECHANISM.steps * begun - pushed * gradient.reshape(-1).double() / float(gradient.double().norm())
    scale = MECHANISM.noise_std * sqrt(sum(keep ** (2 * j) for j in range(MECHANISM.steps)))
    return (done.model.embedding.weight.reshape(-1).detach().double() - mean) / scale


def fits(deviation: Tensor) -> bool:
    """Whether it is one draw of standard noise: its length and its sum."""
    length = chi2.cdf(float(deviation.square().sum()), SIZE)
    total = norm.cdf(float(deviation.sum()) / sqrt(SIZE))
    return min(length, 1 - length, total, 1 - total) > SIGNIFICANCE


def test_the_law_on_tied_weights_is_that_of_one_vector(done):
    assert done.model.head.weight is done.model.embedding.weight
    assert done.record.noise.dimension == 2 * SIZE
    assert [name for name, _ in done.record.layers] == ["embedding.weight", "head.bias"]
    assert fits(deviations(done, direction(1) + direction(2)))
    assert not fits(deviations(done, direction(1)))  # the gradient by one name alone
    assert not fits(1.1 * deviations(done, direction(1) + direction(2)))


def test_the_file_of_tied_weights_verifies_and_another_weight_under_the_second_name_does_not(done, tmp_path: Path):
    save_weights(done.model, tmp_path / "both.safetensors")
    certificate = ex.issue(done.record, released=tmp_path / "both.safetensors")
    ex.verify(certificate, weights=tmp_path / "both.safetensors")
    ex.verify(certificate, weights=done.model)
    tensors = load_file(tmp_path / "both.safetensors")
    assert set(tensors) == {"embedding.weight", "head.bias", "head.weight"}
    del tensors["head.weight"]  # as `save_pretrained` writes it
    save_file(tensors, tmp_path / "once.safetensors", metadata={"format": "pt"})
    once = ex.issue(done.record, released=tmp_path / "once.safetensors")
    ex.verify(once, weights=tmp_path / "once.safetensors")
    save_file(tensors | {"head.weight": tensors["embedding.weight"] + 1}, tmp_path / "other.safetensors")
    with pytest.raises(RunError, match=r"'head.weight' is neither covered"):
        ex.issue(done.record, released=tmp_path / "other.safetensors")


def test_folders_of_save_pretrained_are_read_whole_and_what_lies_beside_the_weights_is_refused(tmp_path: Path):
    one, two = {"a.weight": torch.ones(2)}, {"b.weight": torch.zeros(3)}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    save_file(one | two, whole / "model.safetensors", metadata={"format": "pt"})
    save_file(one, parts / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file(two, parts / "model-00002-of-00002.safetensors")
    (parts / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}}'
    )
    found = weights_digest(whole)
    assert found == weights_digest(parts) == weights_digest(whole / "model.safetensors")
    (parts / "pytorch_model.bin").write_bytes(b"other weights")
    with pytest.raises(WeightsMismatch, match="lies beside the weights"):
        weights_tensors(parts)
    (parts / "pytorch_model.bin").unlink()
    (parts / "more").symlink_to(whole)
    with pytest.raises(WeightsMismatch, match="is a link to a folder"):
        weights_tensors(parts)
    (parts / "more").unlink()
    save_file(one | two, parts / "model-00002-of-00002.safetensors")
    with pytest.raises(WeightsMismatch, match=r"holds 'a\.weight' in two files"):
        weights_tensors(parts)
    save_file(two, parts / "model-00002-of-00002.safetensors")
    (parts / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsMismatch, match=r"names .model-00002-of-00002\.safetensors."):
        weights_tensors(parts)
    with pytest.raises(WeightsMismatch, match=r"holds no model\.safetensors"):
        weights_tensors(tmp_path)
