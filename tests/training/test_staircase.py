"""The arithmetic of the activation: blocks and memory formats change no number, and gradients are as exact as said."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from nctool.activation import staircase
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.activation.staircase import Noise, Rows, activate

RESETS = ["subtract", "zero"]
SIGMA = torch.tensor(0.25)


def inputs(*shape: int, threshold: float = 1.3, seed: int = 0) -> Tensor:
    """Pre-activations on both sides of the range, with many on its borders and on those of levels."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=generator) * threshold
    on_grid = torch.randint(-8, 17, shape, generator=generator) / 8 * threshold
    return torch.where(torch.rand(shape, generator=generator) < 0.2, on_grid, z)


def gradients(z: Tensor, threshold: float, levels: int, reset: str, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return activations, and the gradients for z and θ."""
    z, theta = z.detach().requires_grad_(), torch.tensor(threshold, requires_grad=True)
    output = activate(z, theta, levels, reset, None)
    output.backward(upstream)
    return output.detach(), z.grad, theta.grad


def slope_of_threshold(z: Tensor, q: Tensor, threshold: float) -> Tensor:
    """Write ∂q/∂θ from its definition; which side of a border a value lies on is decided in float32, as z/θ is."""
    ratio = z / torch.tensor(threshold)
    inside = (ratio >= 0) & (ratio <= 1)
    return torch.where(inside, (q.double() - z.double()) / threshold, (ratio > 1).double())


@pytest.mark.parametrize("levels", [1, 3, 4, 7, 64])
@pytest.mark.parametrize("threshold", [0.1, 1.3, 8.0])
def test_values_are_those_of_the_definition_bit_for_bit(levels, threshold):
    z, theta = inputs(5000, threshold=threshold), torch.tensor(threshold)
    q = torch.floor(levels * torch.clamp(z / theta, 0, 1) + 0.5) * (theta / levels)
    assert torch.equal(activate(z, theta, levels, "subtract", None), q)
    steps = torch.ceil(theta / z.clamp(min=torch.finfo(torch.float32).tiny)).clamp(1, levels + 1)
    share = torch.floor(levels / steps) * (1.0 / levels) * theta
    assert torch.equal(activate(z, theta, levels, "zero", None), share)


@pytest.mark.parametrize("reset", RESETS)
def test_neither_blocks_nor_gradients_change_a_value(monkeypatch, reset):
    z, upstream = inputs(10, 3, 7, 5), torch.ones(10, 3, 7, 5)
    whole, by_input, by_threshold = gradients(z, 1.3, 4, reset, upstream)
    monkeypatch.setattr(staircase, "_CPU_BLOCK", 64)
    parts, by_input_of_parts, by_threshold_of_parts = gradients(z, 1.3, 4, reset, upstream)
    assert torch.equal(parts, whole)
    assert torch.equal(by_input_of_parts, by_input)
    torch.testing.assert_close(by_threshold_of_parts, by_threshold)
    with torch.no_grad():
        assert torch.equal(activate(z, torch.tensor(1.3), 4, reset, None), whole)


@pytest.mark.parametrize("reset", RESETS)
def test_channels_last_images_stay_so_and_give_the_same_numbers(reset):
    z, upstream = inputs(6, 3, 4, 5), torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    expected = gradients(z, 1.3, 4, reset, upstream)
    got = gradients(z.contiguous(memory_format=torch.channels_last), 1.3, 4, reset, upstream)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[2], expected[2])


@given(levels=st.integers(1, 64), threshold=st.floats(0.1, 8), seed=st.integers(0, 1000), reset=st.sampled_from(RESETS))
def test_each_gradient_of_the_threshold_is_known_to_a_252nd_of_the_largest_error(levels, threshold, seed, reset):
    """The largest is half a level; with reset zero that of an input just below θ, which spikes at every second step."""
    largest = 0.5 / levels if reset == "subtract" else 1 - levels // 2 / levels
    for z in inputs(12, threshold=threshold, seed=seed):
        q, by_input, by_threshold = gradients(z, threshold, levels, reset, torch.ones(()))
        exact = slope_of_threshold(z, q, threshold)
        assert float(by_input) == float(0 <= z / torch.tensor(threshold) <= 1)
        assert abs(float(by_threshold) - float(exact)) <= largest / 252 + 1e-5


@pytest.mark.parametrize("reset", RESETS)
def test_the_gradient_of_the_threshold_of_a_layer_is_exact_to_a_thousandth(reset):
    """Gradients of one sign, so that terms do not cancel: what is left is the error of what is kept."""
    z = torch.randn(64, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    upstream = torch.rand(z.shape, generator=torch.Generator().manual_seed(1))
    q, _, by_threshold = gradients(z, 1.3, 4, reset, upstream)
    exact = (slope_of_threshold(z, q, 1.3) * upstream).sum()
    assert float(by_threshold) == pytest.approx(float(exact), rel=1e-3)


def test_only_one_byte_an_element_is_kept_for_the_backward_pass():
    kept = []
    z = inputs(1000).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        activate(z, torch.tensor(1.3, requires_grad=True), 4, "subtract", Noise(SIGMA))
    assert [(tensor.dtype, tensor.shape) for tensor in kept] == [(torch.int8, z.shape)]


def test_noise_is_added_to_the_values_and_changes_no_gradient():
    torch.manual_seed(0)
    z, theta = inputs(200_000).requires_grad_(), torch.tensor(1.3, requires_grad=True)
    noisy = activate(z, theta, 4, "subtract", Noise(SIGMA))
    noisy.sum().backward()
    quantised, by_input, by_threshold = gradients(z, 1.3, 4, "subtract", torch.ones(len(z)))
    noise = (noisy.detach() - quantised) / SIGMA
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.std()) == pytest.approx(1.0, rel=0.01)
    assert float((noise**4).mean()) == pytest.approx(3.0, rel=0.03)
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.01
    assert torch.equal(z.grad, by_input)
    assert torch.equal(theta.grad, by_threshold)


def test_a_seed_determines_the_noise():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(activate(torch.zeros(100), torch.tensor(1.0), 4, "subtract", Noise(SIGMA)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("noise", [None, Noise(SIGMA)])
def test_pre_activations_of_half_precision_are_quantised_in_float32_and_rounded_once(noise):
    z = inputs(1000).to(torch.bfloat16)
    theta = torch.tensor(1.3, requires_grad=True)
    torch.manual_seed(0)
    got = activate(z.requires_grad_(), theta, 4, "subtract", noise)
    torch.manual_seed(0)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, activate(z.float(), theta, 4, "subtract", noise).to(torch.bfloat16))
    got.sum().backward()
    assert z.grad.dtype == torch.bfloat16
    assert theta.grad.dtype == torch.float32


@given(
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(RESETS),
    st.integers(1, 64),
    st.floats(0.05, 20),
    st.integers(1, 5000),
    st.booleans(),
    st.one_of(st.none(), st.tuples(st.integers(0, 3000), st.integers(1, 9))),
    st.integers(0, 99),
)
@example(torch.float32, "subtract", 25, 1.46875, 11, False, None, 0)  # a code lies on a border
def test_the_compiled_loops_give_the_bits_of_torch(kind, reset, levels, threshold, size, noisy, rows, seed):
    z = inputs(size, threshold=threshold, seed=seed).to(kind)
    upstream = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(kind)
    noise = None
    if noisy:
        noise = Noise(SIGMA * threshold, None if rows is None else Rows(rows[0], min(size, rows[1]), 4000))
    results = []
    for loops in (True, False):
        theta, x = torch.tensor(threshold, requires_grad=True), z.clone().requires_grad_()
        torch.manual_seed(seed)
        with nullcontext() if loops else without_loops():
            output = activate(x, theta, levels, reset, noise)
            (code,) = output.grad_fn.saved_tensors
            output.backward(upstream)
        results.append((output.detach(), code, x.grad, theta.grad))
    (output, code, by_input, by_theta), expected = results
    assert torch.equal(output, expected[0])
    assert torch.equal(code, expected[1])
    assert torch.equal(by_input, expected[2])
    largest = float(upstream.float().abs().sum())  # torch adds bfloat16 up in itself
    assert float(by_theta) == pytest.approx(float(expected[3]), abs=(1e-5 if kind == torch.float32 else 0.02) * largest)


@pytest.mark.parametrize("loops", [True, False])
def test_one_spike_in_a_window_is_one_whatever_its_length(loops):
    """41, 47, 55 and 61 times their reciprocals are less than 1 in float32."""
    for levels in range(1, 65):
        with nullcontext() if loops else without_loops():
            output = activate(torch.tensor([1.0001 / levels]), torch.tensor(1.0), levels, "zero", None)
        assert float(output) == pytest.approx(1 / levels), levels


@contextmanager
def without_loops():
    """Let torch compute everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staircase, "compiled_loops", lambda tensor: None)
        yield


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loops", [True, False])
def test_what_is_no_number_stays_so(kind, loops):
    """A training that diverges must be seen."""
    z = torch.tensor([float("nan"), 1.0, float("inf"), -float("inf")]).to(kind)
    with nullcontext() if loops else without_loops():
        got = activate(z, torch.tensor(2.0), 4, "subtract", None)
    assert got.isnan().tolist() == [True, False, False, False]
    assert got[1:].tolist() == [1.0, 2.0, 0.0]


def test_torch_compile_sees_operations_of_torch_alone(monkeypatch):
    """What it would see of the loops are pointers of NumPy, in which it fails."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.manual_seed(0)
    got = activate(torch.zeros(100_000), torch.tensor(1.0), 4, "subtract", Noise(SIGMA))
    torch.manual_seed(0)
    assert torch.equal(got, torch.empty(100_000).normal_() * SIGMA)


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(staircase, "_CPU_BLOCK", 5000)
    z, found = inputs(40_001), []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            torch.manual_seed(0)
            x, theta = z.clone().requires_grad_(), torch.tensor(1.3, requires_grad=True)
            output = activate(x, theta, 4, "subtract", Noise(SIGMA))
            (output * output.detach()).sum().backward()
            found.append((output.detach(), x.grad, theta.grad))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)


def test_an_accelerator_is_not_waited_for():
    """Tensors of the device `meta` have no values: reading one would raise."""
    layer = NoisyQuantReLU(4).to("meta")
    layer(torch.zeros(5, 3, device="meta", requires_grad=True)).sum().backward()
    assert layer.threshold.grad.shape == ()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_process_draws_the_rows_of_all_on_an_accelerator_too(layout):
    whole, part = torch.empty(4, 2, 3, 5).to(memory_format=layout), torch.empty(2, 2, 3, 5).to(memory_format=layout)
    torch.manual_seed(3)
    staircase._draw(whole, Noise(SIGMA))
    torch.manual_seed(3)
    staircase._draw(part, Noise(SIGMA, Rows(1, 2, 4)))
    assert torch.equal(part, whole[1:3])


def test_blocks_draw_different_noise_of_the_standard_deviation_asked_for(monkeypatch):
    monkeypatch.setattr(staircase, "_CPU_BLOCK", 1000)
    torch.manual_seed(7)
    z = torch.full((40_000,), -1.0)
    noise = activate(z, torch.tensor(1.0), 4, "subtract", Noise(SIGMA))
    assert len(torch.unique(noise.view(40, 1000), dim=0)) == 40
    assert abs(float(noise.mean())) < 5 * 0.25 / 200
    assert abs(float(noise.std()) / 0.25 - 1) < 0.02
