"""A window as one differentiable function: the spikes of the step-wise neuron, and gradients of a written-out graph."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nctool.activation import surrogate
from nctool.activation.noisy_quant import NoisyQuantReLU, in_mode
from nctool.activation.surrogate import integrate_and_fire

RESETS = ("subtract", "zero")


class Spike(torch.autograd.Function):
    """The step function of u/θ − 1, with the slope of a ramp of width 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 0.5)


def written_out(drive: Tensor, threshold: Tensor, n_steps: int, reset: str, start: float) -> Tensor:
    """The docstring's equations, one operation of torch after the other."""
    potential = threshold * start
    outputs = []
    for z in drive.unflatten(0, (n_steps, -1)):
        before = potential + z
        spikes = Spike.apply(before / threshold - 1)
        potential = before - threshold * spikes if reset == "subtract" else before * (1 - spikes)
        outputs.append(threshold * spikes)
    return torch.cat(outputs)


@given(
    drive=st.lists(st.integers(-64, 96), min_size=12, max_size=12),
    threshold=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    n_steps=st.sampled_from([1, 2, 3, 4, 6]),
    reset=st.sampled_from(RESETS),
    start=st.sampled_from([0.0, 0.25, 0.5, 0.875]),
)
def test_values_and_gradients_are_those_of_the_equations_written_out(drive, threshold, n_steps, reset, start):
    """On a grid of 1/16 all sums are exact, so that both sides agree on which side of an edge a potential lies."""
    weights = torch.linspace(-1, 2, len(drive), dtype=torch.float64)
    results = []
    for function in (integrate_and_fire, written_out):
        z = (torch.tensor(drive, dtype=torch.float64) / 16).requires_grad_()
        theta = torch.tensor(threshold, dtype=torch.float64, requires_grad=True)
        output = function(z, theta, n_steps, reset, start)
        (output * weights).sum().backward()
        results.append((output.detach(), z.grad, theta.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-12)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=0, atol=1e-12)


@given(
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(RESETS),
    st.sampled_from([None, 0.0, 0.125, 5 / 6]),
    st.floats(0.05, 20),
    st.integers(1, 5),
    st.integers(1, 2000),
    st.integers(0, 99),
)
def test_the_compiled_loops_give_the_bits_of_torch(kind, reset, start, threshold, n_steps, n_neurons, seed):
    """In bfloat16 they compute in float32, as torch does from the same numbers in that type; then they round."""
    generator = torch.Generator().manual_seed(seed)
    drive = (torch.randn(n_steps * n_neurons, generator=generator) * threshold).to(kind)
    upstream = torch.randn(len(drive), generator=generator).to(kind)
    results = []
    for loops, wide in ((False, True), (True, False), (False, False)):
        z, theta = (drive.float() if wide else drive).clone(), torch.tensor(threshold, requires_grad=True)
        with nullcontext() if loops else without_loops():
            output = integrate_and_fire(z.requires_grad_(), theta, n_steps, reset, start)
            output.backward(upstream.to(z.dtype))
        results.append((output.detach(), z.grad, theta.grad))
    expected, *found = results
    size = float(upstream.float().abs().sum()) * n_steps
    for output, by_drive, by_theta in found:
        assert output.dtype == by_drive.dtype == kind
        assert torch.equal(output, expected[0].to(kind))
        assert torch.equal(by_drive, expected[1].to(kind))
        assert float(by_theta) == pytest.approx(float(expected[2]), abs=1e-5 * size)


@contextmanager
def without_loops():
    """Let torch compute everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate, "compiled_loops", lambda tensor: None)
        yield


def test_neither_the_order_of_memory_nor_the_parts_change_a_bit(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    drive, upstream = torch.randn(2, 12, 3, 4, 5, generator=generator)
    found = []
    for layout, size in ((torch.contiguous_format, 1 << 18), (torch.channels_last, 1 << 18), (torch.channels_last, 50)):
        monkeypatch.setattr(surrogate, "_PART", size)
        z, theta = drive.clone(memory_format=layout).requires_grad_(), torch.tensor(0.7, requires_grad=True)
        output = integrate_and_fire(z, theta, 2, "subtract")
        assert output.is_contiguous(memory_format=layout)
        output.backward(upstream)
        found.append((output.detach(), z.grad, theta.grad))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        assert torch.equal(other[1], found[0][1])
        torch.testing.assert_close(other[2], found[0][2])


def test_gradients_by_hand():
    """θ = 1, z = 0.25 then 0.5 from v = 0.5: u = 0.75 (no spike), u = 1.25 (spike); both lie on the ramp."""
    z = torch.tensor([0.25, 0.5], requires_grad=True)
    theta = torch.tensor(1.0, requires_grad=True)
    output = integrate_and_fire(z, theta, 2, "subtract")
    assert output.tolist() == [0.0, 1.0]
    (output * torch.tensor([10.0, 100.0])).sum().backward()
    # λ after step 2 is 0; before it 100, which is the gradient of z[2]. Step 1: 100 + (10 − 100) = 10.
    assert z.grad.tolist() == [10.0, 100.0]
    # 100·(1 − 1.25) + (10 − 100)·(0 − 0.75) + 10/2
    assert theta.grad.item() == pytest.approx(-25 + 67.5 + 5)


def test_one_step_has_the_gradients_of_the_quantised_activation_of_one_level():
    z = torch.linspace(-1, 5, 25, dtype=torch.float64)
    layer = NoisyQuantReLU(1, 2.0).double()
    weights = torch.linspace(-1, 2, len(z), dtype=torch.float64)
    results = []
    for mode in ("quantised", "window"):
        layer.threshold.grad, x = None, z.clone().requires_grad_()
        with in_mode(layer, mode):
            output = layer(x)
        (output * weights).sum().backward()
        results.append((output.detach(), x.grad, layer.threshold.grad))
    kept = float(weights.abs().sum()) / 504  # the activation keeps its rounding error to 1/504 of a level
    for ours, theirs, tolerance in zip(*results, (1e-12, 1e-12, kept), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("reset", "replicas"), [("subtract", 1), ("subtract", 3), ("zero", 1), ("zero", 2)])
def test_an_unrolled_network_spikes_as_the_step_wise_one(reset, replicas):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 9), NoisyQuantReLU(4, 0.7, reset), nn.Linear(9, 4), NoisyQuantReLU(4, 0.3, reset)
    )
    steps = torch.randn(5, 3, 6)
    with in_mode(model, "spiking", replicas=replicas):
        expected = torch.stack([model(step) for step in steps])
    with in_mode(model, "window", 5, replicas):
        window = model(steps.flatten(0, 1)).detach()
    assert torch.equal(window.unflatten(0, (5, 3)), expected)
    assert expected.count_nonzero() > 5


def test_the_mode_holds_inside_the_block_only():
    model = nn.Sequential(NoisyQuantReLU(4, 1.0))
    with in_mode(model, "window", 2, 3):
        assert (model[0].mode, model[0].window, model[0].replicas) == ("window", 2, 3)
    assert (model[0].mode, model[0].window, model[0].replicas) == ("quantised", 1, 1)


@pytest.mark.parametrize("levels", [1, 2, 4, 5])
def test_replicas_give_all_levels_in_one_step(levels):
    """Those of the quantised activation with as many levels; one neuron takes as many steps for them."""
    z, layer = torch.linspace(-1.01, 3, 41), NoisyQuantReLU(levels, 2.0).eval()
    with in_mode(layer, "window", 1, levels):
        found = layer(z).detach()
    torch.testing.assert_close(found, layer(z).detach())
    with in_mode(layer, "window", levels):
        torch.testing.assert_close(layer(z.repeat(levels, 1)).detach().mean(0), found)
