"""Products of symmetric matrices, whole and by one triangle."""

import pytest
import torch

from expunge.heads.products import add_product_, serial, times_symmetric

D = 37


def symmetric() -> torch.Tensor:
    made = torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return made + made.T


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 5])
def test_the_upper_triangle_says_all(count: int) -> None:
    """What lies below the diagonal is neither read nor needed."""
    whole, x = symmetric(), rows(count)
    upper = whole.triu() + torch.full((D, D), torch.nan, dtype=torch.float64).tril(-1)
    assert torch.allclose(times_symmetric(upper, x, upper=True), x @ whole, rtol=1e-13, atol=1e-12)
    assert bool(torch.isnan(times_symmetric(upper, x)).any())
    add_product_(upper, x, -0.7, upper=True)
    assert torch.allclose(upper.triu(), (whole - 0.7 * x.T @ x).triu(), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("count", [1, 5])
def test_a_product_is_added_to_the_whole_matrix(count: int) -> None:
    whole, x = symmetric(), rows(count)
    found = whole.clone()
    add_product_(found, x, 2.0)
    assert torch.allclose(found, whole + 2 * x.T @ x, rtol=1e-13, atol=1e-12)
    assert torch.allclose(times_symmetric(found, x), x @ found, rtol=1e-13, atol=1e-12)


def test_threads_are_what_they_were_after_serial_work() -> None:
    before = torch.get_num_threads()
    with serial():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
