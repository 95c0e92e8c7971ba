"""Folding is exact: batch norm, poolings, spike values and the input step, against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion.float_network import FloatSynapse, map_synapses
from nctool.conversion.folding import absorb_spike_values, fold_batch_norm, fold_pooling
from nctool.conversion.input_encoding import EncodedInput, encode_input
from nctool.conversion.trace.tracing import trace
from nctool.errors import RangeError, UnsupportedError
from nctool.ir.geometry import ConvGeometry
from nctool.ir.network import InputEncoding
from nctool.ir.repeat import Repeat
from tests.support.networks import seeds

pytestmark = pytest.mark.usefixtures("one_thread")


def first_synapse(*modules: nn.Module, shape: tuple[int, ...]) -> FloatSynapse:
    """Trace `modules`, of which one is linear, and an activation."""
    drive = nn.Sequential(*modules)
    features = drive.eval()(torch.zeros(1, *shape, dtype=torch.float64)).numel()
    model = nn.Sequential(drive, NoisyQuantReLU(4), nn.Flatten(), nn.Linear(features, 1))
    return trace(model, shape).populations[0].synapses[0]


def whole_weight(synapse: FloatSynapse) -> np.ndarray:
    return synapse.repeat.spread(synapse.weight, synapse.source_shape)


def pre_activation(synapse: FloatSynapse, x: torch.Tensor) -> torch.Tensor:
    """Evaluate a folded synapse in float64, all its weights."""
    weight, bias = torch.from_numpy(whole_weight(synapse)), torch.from_numpy(synapse.bias)
    if synapse.conv is None:
        return x.flatten(1) @ weight.T + bias
    conv = synapse.repeat.on_neurons(synapse.conv)
    return nn.functional.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def assert_folds_exactly(*modules: nn.Module, shape: tuple[int, ...]) -> FloatSynapse:
    modules = tuple(module.double() for module in modules)
    folded = fold_pooling(fold_batch_norm(first_synapse(*modules, shape=shape)))
    assert (folded.norm, folded.pools) == (None, ())
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = nn.Sequential(*modules).eval()(x).detach()
    found = pre_activation(folded, x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    return folded


def trained(norm: nn.Module, rng: np.random.Generator) -> nn.Module:
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.copy_(torch.from_numpy(rng.normal(size=len(values))))
        norm.running_var.copy_(torch.from_numpy(rng.uniform(0.01, 4, len(norm.running_var))))
    return norm


def random_conv(rng: np.random.Generator, channels: int, padding: bool) -> nn.Conv2d:
    groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
    options = {
        "stride": tuple(rng.integers(1, 4, 2).tolist()),
        "padding": tuple(rng.integers(0, 3, 2).tolist()) if padding else 0,
        "dilation": tuple(rng.integers(1, 3, 2).tolist()),
    }
    return nn.Conv2d(
        channels, groups * int(rng.integers(1, 3)), tuple(rng.integers(1, 4, 2).tolist()), groups=groups, **options
    )


# --- batch norm ---------------------------------------------------------


@given(seeds)
def test_batch_norm_behind_a_convolution_folds_exactly(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    conv = random_conv(rng, int(rng.integers(1, 5)), padding=True)
    size = rng.integers(5, 10, 2).tolist()
    assert_folds_exactly(conv, trained(nn.BatchNorm2d(conv.out_channels), rng), shape=(conv.in_channels, *size))


@given(seeds)
def test_batch_norm_behind_a_linear_layer_folds_exactly(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    features, out = rng.integers(1, 9, 2).tolist()
    linear = nn.Linear(features, out, bias=bool(rng.integers(2)))
    assert_folds_exactly(linear, trained(nn.BatchNorm1d(out), rng), shape=(features,))


def test_batch_norm_by_hand():
    norm = nn.BatchNorm1d(1, eps=0.0)
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -2.0]]))
        linear.bias.fill_(5.0)
        norm.running_mean.fill_(1.0)
        norm.running_var.fill_(4.0)
        norm.weight.fill_(-3.0)
        norm.bias.fill_(7.0)
    folded = fold_batch_norm(trace(nn.Sequential(linear, norm), (2,)).populations[0].synapses[0])
    np.testing.assert_array_equal(folded.weight, [[-1.5, 3.0]])  # gain -3 / sqrt(4)
    np.testing.assert_array_equal(folded.bias, [7 - 1.5 * (5 - 1)])


# --- pooling ------------------------------------------------------------


def random_pool(rng: np.random.Generator) -> nn.AvgPool2d:
    kernel = rng.integers(1, 4, 2)
    return nn.AvgPool2d(
        tuple(kernel.tolist()),
        tuple(rng.integers(1, 4, 2).tolist()),
        padding=tuple((kernel // 2 * rng.integers(0, 2, 2)).tolist()),
        divisor_override=int(rng.integers(1, 9)) if rng.integers(3) == 0 else None,
    )


@given(seeds)
def test_any_pooling_before_an_unpadded_convolution_folds_exactly(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    conv = random_conv(rng, int(rng.integers(1, 5)), padding=False)
    assert_folds_exactly(random_pool(rng), conv, shape=(conv.in_channels, *rng.integers(13, 20, 2).tolist()))


@given(seeds)
def test_pooling_that_tiles_before_a_padded_convolution_folds_exactly(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    conv = random_conv(rng, int(rng.integers(1, 4)), padding=True)
    kernel = rng.integers(1, 4, 2)
    size = (kernel * rng.integers(5, 8, 2)).tolist()
    assert_folds_exactly(nn.AvgPool2d(tuple(kernel.tolist())), conv, shape=(conv.in_channels, *size))


@given(seeds)
def test_pooling_of_pooling_before_a_convolution_folds_exactly(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    conv = random_conv(rng, int(rng.integers(1, 3)), padding=False)
    first, second = random_pool(rng), nn.AvgPool2d(2, stride=1)
    assert_folds_exactly(first, second, conv, shape=(conv.in_channels, *rng.integers(16, 22, 2).tolist()))


@given(seeds)
def test_any_poolings_before_a_dense_layer_fold_exactly(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    pools = [random_pool(rng) for _ in range(int(rng.integers(1, 3)))]
    shape = (int(rng.integers(1, 4)), *rng.integers(9, 13, 2).tolist())
    features = nn.Sequential(*pools)(torch.zeros(1, *shape)).numel()
    assert_folds_exactly(*pools, nn.Flatten(), nn.Linear(features, 3), shape=shape)


def test_global_pooling_before_a_dense_layer_folds_exactly():
    folded = assert_folds_exactly(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2), shape=(3, 4, 5))
    assert (folded.weight.shape, folded.repeat) == ((2, 3), Repeat((4, 5)))


def test_a_window_alone_is_a_block_whatever_its_stride():
    folded = assert_folds_exactly(nn.AvgPool2d(4, 1), nn.Flatten(), nn.Linear(3, 2), shape=(3, 4, 4))
    assert (folded.weight.shape, folded.repeat) == ((2, 3), Repeat((4, 4)))


def test_windows_that_overlap_by_whole_tiles_are_blocks_of_a_tile():
    folded = assert_folds_exactly(nn.AvgPool2d(4, 2), nn.Conv2d(1, 2, 2), shape=(1, 9, 10))
    assert (folded.weight.shape, folded.repeat) == ((2, 1, 3, 3), Repeat((2, 2)))


def test_global_pooling_before_a_convolution_folds_exactly():
    folded = assert_folds_exactly(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1), shape=(3, 4, 5))
    assert (folded.weight.shape, folded.repeat) == ((2, 3, 1, 1), Repeat((4, 5)))


def test_pooling_twice_by_two_before_a_padded_convolution_folds_exactly():
    folded = assert_folds_exactly(nn.AvgPool2d(2), nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, padding=1), shape=(1, 8, 12))
    whole = folded.repeat.on_neurons(folded.conv)
    assert (whole_weight(folded).shape, whole.stride, whole.padding) == ((2, 1, 12, 12), (4, 4), (4, 4))
    assert (folded.weight.shape, folded.conv) == ((2, 1, 3, 3), ConvGeometry(padding=(1, 1)))


def test_a_remainder_that_pooling_drops_folds_exactly_without_padding():
    assert_folds_exactly(nn.AvgPool2d(2), nn.Conv2d(1, 2, 2), shape=(1, 7, 9))


def test_ceil_mode_without_a_remainder_folds_exactly():
    assert_folds_exactly(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(1, 2, 2), shape=(1, 8, 6))


def test_pooling_by_hand():
    pool, conv = nn.AvgPool2d(2), nn.Conv2d(1, 1, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[4.0, 8.0], [12.0, 16.0]]]]))
    folded = fold_pooling(first_synapse(pool, conv.double(), shape=(1, 4, 4)))
    np.testing.assert_array_equal(whole_weight(folded)[0, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (nn.AvgPool2d(2), (5, 4)),  # drops a row that the padding would meet
        (nn.AvgPool2d(2), (4, 5)),
        (nn.AvgPool2d(3, 2), (7, 7)),  # overlaps
        (nn.AvgPool2d((1, 3), (1, 1)), (4, 5)),
    ],
)
def test_padding_that_would_meet_pixels_is_refused(pool, size):
    model = nn.Sequential(pool, nn.Conv2d(2, 3, 3, padding=1), NoisyQuantReLU(4))
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)])
    kernel, stride = ((v, v) if isinstance(v, int) else v for v in (pool.kernel_size, pool.stride))
    with pytest.raises(UnsupportedError) as caught:
        map_synapses(trace(model, (2, *size)), fold_pooling)
    assert str(caught.value) == (
        f"module `0`: pooling {kernel} stride {stride} of {size} has no exact form before the padded convolution `1`\n"
        "hint: let the pooling windows tile the image without remainder or overlap, or use padding=0 behind it"
    )


def test_what_is_refused_has_indeed_another_value():
    """The refusal is no caution: folded all the same, an overlapping pooling differs at the border."""
    pool, conv = nn.AvgPool2d(3, 1), nn.Conv2d(1, 1, 3, padding=1).double()
    synapse = first_synapse(pool, conv, shape=(1, 6, 6))
    with pytest.raises(UnsupportedError):
        fold_pooling(synapse)
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spread = nn.functional.conv2d(conv.weight, torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64), padding=2)
    folded = nn.functional.conv2d(x, spread, conv.bias, padding=1)
    expected = conv(pool(x)).detach()
    torch.testing.assert_close(folded[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])
    assert not torch.allclose(folded[..., 0, :], expected[..., 0, :])


# --- the input ----------------------------------------------------------


def test_encode_input_by_hand():
    graded = encode_input((2, 3, 3), (0.0, 0.5), (1.0, 0.25))
    assert graded.name == "input"
    assert graded.encoding.shape == (2, 3, 3)
    np.testing.assert_allclose(graded.step, [1 / 127, 2 / 127], rtol=1e-15)
    np.testing.assert_array_equal(graded.encoding.table[:, [0, 51, 255]], [[0, 25, 127], [-127, -76, 127]])


def test_encode_input_spreads_one_mean_over_flat_features():
    graded = encode_input((3,), (0.5,), (0.5,))
    assert graded.encoding.table.shape == (3, 256)
    assert (graded.encoding.table == graded.encoding.table[0]).all()


@given(seeds)
def test_the_encoded_input_is_within_half_a_step(seed):
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 5))
    mean, std = rng.uniform(-1, 2, channels), rng.uniform(0.01, 3, channels)
    graded = encode_input((channels,), tuple(mean), tuple(std))
    table = graded.encoding.table.astype(int)
    assert np.abs(table).max(axis=1).tolist() == [127] * channels
    real = (np.arange(256) / 255 - mean[:, None]) / std[:, None]
    assert (np.abs(table * graded.step[:, None] - real) <= graded.step[:, None] * 0.5000001).all()


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0, 0.0), (1.0, 1.0)), ((0.0,), (1.0, 1.0)), ((), ()), ((0.0,), (0.0,)), ((0.0,), (-1.0,))]
)
def test_a_normalisation_that_does_not_fit_is_refused(mean, std):
    with pytest.raises(RangeError) as caught:
        encode_input((3, 2, 2), mean, std)
    assert str(caught.value) == (
        f"input: mean {mean} and deviation {std}, allowed one or 3 of each, deviations above 0"
    )


# --- spike values -------------------------------------------------------


def test_a_spike_is_worth_its_threshold_and_a_pixel_its_step():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1, groups=2), NoisyQuantReLU(4, 8.0), nn.Flatten(), nn.Linear(16, 2), NoisyQuantReLU(4, 0.5)
    ).append(nn.Linear(2, 1))
    network = trace(model, (2, 2, 2))
    graded = EncodedInput(
        InputEncoding((2, 2, 2), np.zeros((2, 256), np.int8)), np.array([3.0, 5.0]), np.zeros((2, 256))
    )
    absorbed = absorb_spike_values(network, graded)
    worth = [np.array([3.0, 3.0, 5.0, 5.0]).reshape(4, 1, 1, 1), 8.0, 0.5]
    for populations, value in zip(zip(network.populations, absorbed.populations, strict=True), worth, strict=True):
        before, after = (population.synapses[0] for population in populations)
        np.testing.assert_array_equal(after.weight, before.weight * value)
        np.testing.assert_array_equal(after.bias, before.bias)


def test_the_steps_of_channels_reach_the_columns_of_a_dense_layer():
    network = trace(nn.Sequential(nn.Flatten(), nn.Linear(8, 1)), (2, 2, 2))
    graded = EncodedInput(
        InputEncoding((2, 2, 2), np.zeros((2, 256), np.int8)), np.array([3.0, 5.0]), np.zeros((2, 256))
    )
    absorbed = absorb_spike_values(network, graded)
    before, after = (each.populations[0].synapses[0] for each in (network, absorbed))
    np.testing.assert_array_equal(after.weight, before.weight * ([3.0] * 4 + [5.0] * 4))
