"""The noisy quantised activation, by hand-worked numbers and against plain autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.errors import RangeError, UsageError

# θ = 2 and L = 4: the grid is 0, 0.5, 1, 1.5, 2, and a value rounds up from the middle of two grid points.
Z = torch.tensor([-1.0, 0.0, 0.2, 0.25, 0.8, 1.9, 2.0, 5.0])
Q = torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 2.0, 2.0])
# ∂q/∂z is 1 where 0 ≤ z ≤ θ. ∂q/∂θ is (q − z)/θ there, 0 below and 1 above.
Q_BY_Z = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
Q_BY_THRESHOLD = torch.tensor([0.0, 0.0, -0.1, 0.125, 0.1, 0.05, 0.0, 1.0])
# The rounding error is kept to 1/504 of a level, and a level is 1/4 of θ.
KEPT = {"atol": 1 / 504 / 4 + 1e-6, "rtol": 0.0}


def plain(z: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """Compose the definition from differentiable operations of torch, floor passing gradients straight through."""
    position = levels * torch.clamp(z / threshold, 0, 1) + 0.5
    return threshold / levels * (position + (torch.floor(position) - position).detach())


def test_quantised_values():
    assert torch.equal(NoisyQuantReLU(4, 2.0).eval()(Z), Q)


def test_gradient_of_the_input():
    z = Z.clone().requires_grad_()
    NoisyQuantReLU(4, 2.0)(z).sum().backward()
    assert torch.equal(z.grad, Q_BY_Z)


@pytest.mark.parametrize("position", range(len(Z)))
def test_gradient_of_the_threshold(position):
    layer = NoisyQuantReLU(4, 2.0)
    layer(Z[position]).backward()
    torch.testing.assert_close(layer.threshold.grad, Q_BY_THRESHOLD[position], **KEPT)


def test_gradient_of_the_threshold_is_summed_with_the_weights_of_the_outputs():
    layer = NoisyQuantReLU(4, 2.0)
    weights = torch.arange(8.0)
    (layer(Z) * weights).sum().backward()
    torch.testing.assert_close(layer.threshold.grad, (Q_BY_THRESHOLD * weights).sum(), atol=28 * KEPT["atol"], rtol=0.0)


@given(
    z=st.lists(st.floats(-10, 10), min_size=1, max_size=20),
    threshold=st.floats(0.1, 8),
    levels=st.integers(1, 64),
    noisy=st.booleans(),
)
def test_values_and_gradients_are_those_of_plain_autograd(z, threshold, levels, noisy):
    layer = NoisyQuantReLU(levels, threshold).double()
    layer.sigma.fill_(0.5 if noisy else 0.0)
    ours, theirs = (torch.tensor(z, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = torch.linspace(-1, 2, len(z), dtype=torch.float64)
    reference_threshold = layer.threshold.detach().clone().requires_grad_()
    expected = plain(theirs, reference_threshold, levels)
    (expected * weights).sum().backward()
    (layer(ours) * weights).sum().backward()
    torch.testing.assert_close(layer.eval()(ours), expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    kept = float(weights.abs().sum()) / (504 * levels)
    torch.testing.assert_close(layer.threshold.grad, reference_threshold.grad, atol=kept + 1e-9, rtol=0.0)


def test_gradients_of_a_transposed_input_are_those_of_plain_autograd():
    layer = NoisyQuantReLU(4, 2.0)
    z = Z.reshape(2, 4).T.requires_grad_()
    weights = torch.arange(8.0).reshape(4, 2)
    (layer(z) * weights).sum().backward()
    expected = (Q_BY_THRESHOLD.reshape(2, 4).T * weights).sum()
    torch.testing.assert_close(layer.threshold.grad, expected, atol=28 * KEPT["atol"], rtol=0.0)


def test_noise_has_the_standard_deviation_sigma_and_only_while_training():
    torch.manual_seed(0)
    layer = NoisyQuantReLU(4, 2.0)
    layer.sigma.fill_(0.25)
    z = torch.full((100_000,), 0.8)
    noise = layer(z).detach() - 1.0
    assert noise.mean().abs() < 0.005
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert torch.equal(layer.eval()(z), torch.ones(100_000))


def test_a_sigma_of_zero_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(NoisyQuantReLU(4, 2.0)(Z), Q)
    assert torch.equal(torch.get_rng_state(), before)


def test_sigma_is_saved_with_the_model_and_gets_no_gradient():
    layer = NoisyQuantReLU(4, 2.0)
    layer.sigma.fill_(0.5)
    assert {name: float(value) for name, value in layer.state_dict().items()} == {"threshold": 2.0, "sigma": 0.5}
    assert not layer.sigma.requires_grad


# θ = 2, v(0) = 1. An input of 0.8: v = 1.8, 2.6 (spike, 0.6), 1.4, 2.2 (spike). An input of 1: v = 2, which is a
# spike at once. An input of 5: v = 6 (spike, 4), 9, 12, 15: a spike in each step. A negative input never spikes.
@pytest.mark.parametrize(
    ("z", "outputs", "last_potential"),
    [
        (0.8, [0, 2, 0, 2], 0.2),
        (1.0, [2, 0, 2, 0], 1.0),
        (5.0, [2, 2, 2, 2], 13.0),
        (-1.0, [0, 0, 0, 0], -3.0),
    ],
)
def test_spiking_steps(z, outputs, last_potential):
    layer = NoisyQuantReLU(4, 2.0)
    with in_mode(layer, "spiking"):
        got = [float(layer(torch.tensor([z]))) for _ in range(4)]
        torch.testing.assert_close(layer.potential, torch.tensor([[last_potential]]))
    assert got == outputs


@given(z=st.integers(-300, 300), levels=st.sampled_from([1, 2, 4, 8, 16]))
def test_the_rate_of_a_constant_input_over_as_many_steps_as_levels_is_the_quantised_value(z, levels):
    layer = NoisyQuantReLU(levels, 2.0).eval()
    x = torch.tensor([z / 64])  # dyadic numbers: float arithmetic is exact
    quantised = layer(x)
    with in_mode(layer, "spiking"):
        rate = sum(layer(x) for _ in range(levels)) / levels
    assert torch.equal(rate, quantised)


def test_mode_follows_training_and_the_context_and_is_restored():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), NoisyQuantReLU(4, 2.0))
    model[1].eval()
    layer = model[2]
    assert (layer.mode, layer.draws_noise) == ("quantised", True)
    with in_mode(model, "spiking"):
        assert (layer.mode, layer.draws_noise) == ("spiking", False)
        assert not model.training
        assert not model(torch.randn(5, 3)).requires_grad
    assert (layer.mode, layer.draws_noise) == ("quantised", True)
    assert (model.training, model[0].training, model[1].training, layer.training) == (True, True, False, True)
    model.eval()
    assert (layer.mode, layer.draws_noise) == ("quantised", False)


def test_mode_is_restored_after_an_error():
    layer = NoisyQuantReLU(4, 2.0)
    with pytest.raises(ZeroDivisionError), in_mode(layer, "spiking"):
        raise ZeroDivisionError
    assert (layer.mode, layer.training, layer.potential) == ("quantised", True, None)
    assert torch.is_grad_enabled()


def test_each_window_starts_with_fresh_state():
    layer = NoisyQuantReLU(4, 2.0)
    windows = []
    for _ in range(2):
        with in_mode(layer, "spiking"):
            windows.append([float(layer(torch.tensor([0.8]))) for _ in range(2)])
    assert windows == [[0.0, 2.0], [0.0, 2.0]]


def test_activations_are_found_by_name():
    model = nn.Sequential(nn.Flatten(), nn.Sequential(NoisyQuantReLU(4), nn.Linear(2, 2)), NoisyQuantReLU(2))
    assert {name: layer.levels for name, layer in activations(model).items()} == {"1.0": 4, "2": 2}


@pytest.mark.parametrize("levels", [0, 65])
def test_levels_out_of_range_are_refused(levels):
    with pytest.raises(RangeError) as caught:
        NoisyQuantReLU(levels)
    assert str(caught.value) == f"activation `levels` is {levels}, allowed 1..64"


@pytest.mark.parametrize("levels", [1, 64])
def test_levels_at_the_border_are_taken(levels):
    assert NoisyQuantReLU(levels, 1.0).eval()(torch.tensor([1.0])) == 1.0


@pytest.mark.parametrize(
    ("threshold", "shown"), [(0.0, "0"), (-0.5, "-0.5"), (float("nan"), "nan"), (float("inf"), "inf")]
)
def test_a_threshold_that_is_not_positive_is_refused(threshold, shown):
    message = (
        f"activation `threshold` is {shown}, allowed: a positive number\n"
        "hint: train the network with a lower learning rate"
    )
    with pytest.raises(RangeError) as caught:
        NoisyQuantReLU(4, threshold)
    assert str(caught.value) == message
    layer = NoisyQuantReLU(4, 1.0)
    layer.threshold.data.fill_(threshold)
    with pytest.raises(RangeError) as caught:
        layer(Z)
    assert str(caught.value) == message


def test_another_batch_in_the_same_window_is_refused():
    layer = NoisyQuantReLU(4, 2.0)
    with in_mode(layer, "spiking"):
        layer(torch.zeros(3, 2))
        with pytest.raises(UsageError) as caught:
            layer(torch.zeros(1, 2))
    assert str(caught.value) == (
        "spiking state has shape (3, 2), got input (1, 2)\nhint: enter `in_mode(model, 'spiking')` anew for each batch"
    )


# --- the staircase of a neuron that a spike sets to zero ------------------

# θ = 2 over 4 steps: a spike needs ceil(2/z) steps. 0.4 needs 5: none. 0.5 needs 4, 0.7 needs 3: one. 1 needs 2: two.
ZERO_Z = torch.tensor([-1.0, 0.0, 0.4, 0.5, 0.7, 1.0, 1.9, 2.0, 5.0])
ZERO_Q = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0])


def test_the_staircase_by_hand():
    assert torch.equal(NoisyQuantReLU(4, 2.0, "zero").eval()(ZERO_Z), ZERO_Q)


def test_the_gradients_of_the_staircase():
    """∂q/∂z is 1 where 0 ≤ z ≤ θ; ∂q/∂θ is (q − z)/θ there, 0 below and 1 above."""
    layer, z = NoisyQuantReLU(4, 2.0, "zero"), ZERO_Z.clone().requires_grad_()
    layer(z).sum().backward()
    inside = (ZERO_Z >= 0) & (ZERO_Z <= 2)
    assert torch.equal(z.grad, inside.float())
    by_threshold = torch.where(inside, (ZERO_Q - ZERO_Z) / 2, (ZERO_Z > 2).float())
    # The error, at most 1/2 at L = 4, is kept to 1/252 of that, for each of the six values strictly inside.
    torch.testing.assert_close(layer.threshold.grad, by_threshold.sum(), atol=6 / 504, rtol=0.0)


@given(z=st.integers(-40, 300), levels=st.integers(1, 64))
def test_the_staircase_is_the_rate_of_the_neuron_over_as_many_steps_as_levels(z, levels):
    layer = NoisyQuantReLU(levels, 2.0, "zero").eval()
    value = torch.tensor([z / 128])  # binary fractions: the potential adds up without rounding
    with in_mode(layer, "spiking"):
        count = sum(layer(value) for _ in range(levels)) / 2
    assert torch.equal((layer(value) / 2 * levels).round(), count)


def test_noise_on_the_staircase():
    torch.manual_seed(0)
    layer = NoisyQuantReLU(4, 2.0, "zero")
    layer.sigma.fill_(0.5)
    output = layer(torch.full((20000,), 1.2)).detach()
    assert abs(float(output.mean()) - 1.0) < 0.02
    assert abs(float(output.std()) - 0.5) < 0.02


def test_an_unknown_reset_is_refused():
    with pytest.raises(RangeError) as caught:
        NoisyQuantReLU(4, 2.0, "half")
    assert str(caught.value) == "activation `reset` is 'half', allowed subtract, zero"
