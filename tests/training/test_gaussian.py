"""Noise of the CPU is Gaussian, follows torch's generator, and costs no accelerator a wait."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nctool.activation.gaussian import gaussian_noise

SIGMA = torch.tensor(0.25)


def drawn(*sizes: int, seed: int = 0, sigma: Tensor = SIGMA, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Fill tensors of these sizes one after the other."""
    torch.manual_seed(seed)
    fill, tensors = gaussian_noise(sigma), [torch.empty(size, dtype=dtype) for size in sizes]
    for tensor in tensors:
        fill(tensor)
    return tensors


def test_the_noise_is_normal_in_every_slice_and_far_into_its_tails():
    noise = drawn(4_000_000)[0].double() / 0.25
    assert abs(float(noise.mean())) < 0.003
    assert float(noise.std()) == pytest.approx(1, abs=0.002)
    assert float((noise**4).mean()) == pytest.approx(3, abs=0.02)
    for bound in (-4.0, -3.0, -1.0, -0.1, 0.0, 0.3, 2.0, 3.5):
        expected = float(torch.special.ndtr(torch.tensor(bound, dtype=torch.float64)))
        error = 5 * (expected * (1 - expected) / len(noise)) ** 0.5
        assert abs(float((noise < bound).double().mean()) - expected) < error
    assert 4.2 < float(noise.abs().max()) < 4.5


def test_neighbours_are_independent():
    noise = drawn(1_000_000)[0] / 0.25
    for distance in range(1, 9):
        assert abs(float((noise[distance:] * noise[:-distance]).mean())) < 0.005


def test_a_seed_determines_the_noise_and_each_tensor_gets_its_own():
    first, second = drawn(1000, 1000)
    again = drawn(1000, 1000)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, drawn(1000, seed=1)[0])


def test_two_functions_in_a_row_draw_different_noise():
    torch.manual_seed(0)
    first, second = torch.empty(1000), torch.empty(1000)
    gaussian_noise(SIGMA)(first)
    gaussian_noise(SIGMA)(second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 4099])
def test_every_element_of_any_number_of_them_is_filled(size):
    tensor = torch.full((size,), np.nan)
    gaussian_noise(SIGMA)(tensor)
    assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_get_the_same_noise(dtype):
    got, expected = drawn(1000, dtype=dtype)[0], drawn(1000)[0]
    assert got.dtype == dtype
    assert torch.equal(got, expected.to(dtype))


def test_sigma_scales_the_noise():
    assert torch.equal(drawn(1000, sigma=torch.tensor(0.5))[0], 2 * drawn(1000)[0])


def test_an_accelerator_is_not_waited_for():
    """Tensors of the device `meta` have no values: reading one would raise."""
    tensor = torch.empty(5, device="meta")
    gaussian_noise(SIGMA.to("meta"))(tensor)
    assert tensor.shape == (5,)
