"""Weights on the grid of the chip's integers: what is rounded, to what, and how gradients pass."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nctool.training.weight_grid import WeightGrid

IMAGES = torch.zeros(1, 2, 6, 6)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


def integers(weight, largest):
    """The weights of each row in units of the smallest step that makes all of them integers up to `largest`."""
    rows = weight.detach().double().reshape(len(weight), -1)
    steps = rows.abs().amax(dim=1, keepdim=True) / largest
    return rows / steps


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_hidden_layer_has_a_grid_for_each_channel_and_the_last_layer_one(bits):
    model, largest = network(), 2 ** (bits - 1) - 1
    grid = WeightGrid(model, IMAGES, bits).weights()
    assert sorted(grid) == ["0.weight", "4.weight"]
    hidden = integers(grid["0.weight"], largest)
    torch.testing.assert_close(hidden, hidden.round(), rtol=0, atol=1e-4)
    last = grid["4.weight"].detach().flatten()
    values = torch.unique(last)
    step = torch.diff(values).min()
    torch.testing.assert_close(values / step, (values / step).round(), rtol=0, atol=2e-3)
    assert values.abs().max() <= step * largest * 1.0001


def test_eight_bits_are_closer_than_four_and_half_a_step_is_the_most():
    model = network()
    weight = model[0].weight.detach()
    errors = {bits: (WeightGrid(model, IMAGES, bits).weights()["0.weight"] - weight).abs() for bits in (4, 8)}
    assert errors[8].mean() < errors[4].mean() / 8
    step = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    inside = weight.abs() < 0.9 * weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    assert bool((errors[8] <= 0.501 * step)[inside].all())


def test_at_few_bits_large_weights_are_clipped():
    """Ten weights around 1 and one of 3: at 2 bits, a grid of -1, 0 and 1 must not waste itself on the one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(11, 1), nn.Linear(1, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -1.0] * 5 + [3.0]]))
    rounded = WeightGrid(model, torch.zeros(1, 11), 2).weights()["1.weight"].detach()
    assert rounded.abs().max() < 1.6
    assert bool((rounded[0, :10].abs() > 0.5).all())


def test_gradients_go_straight_through():
    model = network()
    grid = WeightGrid(model, IMAGES, 4)
    weights = torch.randn_like(model[0].weight)
    (grid.weights()["0.weight"] * weights).sum().backward()
    assert torch.equal(model[0].weight.grad, weights)


def test_the_rounded_weights_are_in_the_model_only_inside_the_block():
    model = network()
    before = model[4].weight.detach().clone()
    grid = WeightGrid(model, IMAGES, 3)
    with pytest.raises(ValueError, match="stop"), grid.applied():
        assert torch.equal(model[4].weight, grid.weights()["4.weight"])
        assert not torch.equal(model[4].weight, before)
        raise ValueError("stop")
    assert torch.equal(model[4].weight, before)


@given(scale=st.floats(1e-3, 1e3), bits=st.integers(2, 8))
def test_weights_on_the_grid_stay_and_a_channel_of_zeros_stays_zero(scale, bits):
    largest = 2 ** (bits - 1) - 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * largest + 1, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model[1].weight[0] = torch.arange(-largest, largest + 1) * scale
        model[1].weight[1] = 0.0
    rounded = WeightGrid(model, torch.zeros(1, 2 * largest + 1), bits).weights()["1.weight"]
    torch.testing.assert_close(rounded, model[1].weight, rtol=1e-5, atol=0)
