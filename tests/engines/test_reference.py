"""The reference engine against numbers worked by hand, one rule of docs/SEMANTICS.md at a time, and torch's conv2d."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nctool.errors import RangeError
from nctool.ir.network import ConvGeometry, InputEncoding, IntNetwork, Population
from nctool.reference import synapses
from nctool.reference.signal import input_signal
from nctool.reference.simulate import run_population, simulate, stream
from nctool.reference.synapses import convolve, synaptic_input
from nctool.reference.trace import Summary, Trace, join
from tests.support.networks import (
    as_pixels,
    conv,
    dense,
    fire,
    maximum,
    random_network,
    random_pixels,
    read_out,
    seeds,
    signed_input,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def weigh(synapse, signal) -> list:
    """Return what a synapse makes of one sample at one step."""
    return synaptic_input(synapse, np.asarray(signal)[np.newaxis, np.newaxis], 1)[0, 0].tolist()


def drive(population: Population, values: list[int]) -> tuple[list[int], list[int]]:
    """Return spikes and potentials of a one-neuron population that gets `values`, one a step."""
    signal = np.asarray(values).reshape(1, -1, 1)
    run = run_population(population, {"input": signal}, signal.shape[1])
    return run.spikes.astype(int).reshape(-1).tolist(), run.potentials.reshape(-1).tolist()


def only_readout(weight: list[list[int]], n_steps: int = 1, **options) -> IntNetwork:
    return IntNetwork(signed_input(len(weight[0])), (read_out(dense("input", weight), **options),), n_steps)


# --- input --------------------------------------------------------------


def test_I1_a_pixel_enters_as_the_table_of_its_channel_says_at_every_step():
    table = np.zeros((2, 256), np.int8)
    table[0, 9], table[1, 9], table[1, 200] = -128, 127, 5
    network = IntNetwork(InputEncoding((2,), table), (read_out(dense("input", [[1, 0], [0, 1]])),), 3)
    pixels = np.array([[9, 9], [9, 200]], np.uint8)
    np.testing.assert_array_equal(input_signal(network, pixels, 3), [[[-128, 127]], [[-128, 5]]])
    np.testing.assert_array_equal(
        simulate(network, pixels).logits,
        [[[-128, 127], [-256, 254], [-384, 381]], [[-128, 5], [-256, 10], [-384, 15]]],
    )


# --- synapses -----------------------------------------------------------


def test_W1_dense_is_a_weighted_sum():
    assert weigh(dense("input", [[1, 0, -1], [2, 2, 2]]), [1, 2, 3]) == [-2, 12]


def test_W1_dense_flattens_channel_then_height_then_width():
    weight = [[1, 10, 100, 1000, 10000, 100000, 1000000, 10000000]]
    assert weigh(dense("input", weight), [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]) == [87654321]


def test_W2_convolution_does_not_flip_its_kernel():
    image = [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
    # 1·1 + 2·2 + 3·4 + 4·5 = 37, and so on
    assert weigh(conv("input", [[[[1, 2], [3, 4]]]]), image) == [[[37, 47], [67, 77]]]


def test_W2_stride_padding_and_dilation_act_per_axis():
    synapse = conv("input", [[[[1, 10]]]], stride=(1, 2), padding=(0, 1), dilation=(1, 2))
    # padded: 0 1 2 3 4 5 0; taps at 2o and 2o + 2
    assert weigh(synapse, [[[1, 2, 3, 4, 5]]]) == [[[20, 42, 4]]]


def test_W2_padding_is_zero_on_all_sides():
    synapse = conv("input", np.ones((1, 1, 3, 3)), padding=(1, 1))
    assert weigh(synapse, [[[1, 2], [3, 4]]]) == [[[10, 10], [10, 10]]]
    assert weigh(conv("input", np.ones((1, 1, 1, 1)), padding=(1, 0)), [[[5, 6]]]) == [[[0, 0], [5, 6], [0, 0]]]


def test_W2_stride_beyond_the_kernel_skips_pixels():
    synapse = conv("input", [[[[1]]]], stride=(3, 2))
    assert weigh(synapse, [[[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]]) == [[[1, 3], [10, 12]]]


def test_W2_each_group_of_outputs_sees_its_own_channels():
    weight = [[[[1]], [[10]]], [[[100]], [[1000]]]]  # two outputs, two channels a group
    assert weigh(conv("input", weight, groups=2), [[[1]], [[2]], [[3]], [[4]]]) == [[[21]], [[4300]]]


def test_W2_depthwise_with_two_outputs_a_channel():
    weight = np.array([1, 10, 100, 1000]).reshape(4, 1, 1, 1)
    assert weigh(conv("input", weight, groups=2), [[[3]], [[7]]]) == [[[3]], [[30]], [[700]], [[7000]]]


@given(seeds)
def test_W2_is_conv2d_of_torch(seed):
    rng = np.random.default_rng(seed)
    groups, kernel = int(rng.integers(1, 4)), rng.integers(1, 5, 2)
    stride, padding, dilation = rng.integers(1, 6, 2), rng.integers(0, 4, 2), rng.integers(1, 4, 2)
    size = np.maximum(dilation * (kernel - 1) + 1 - 2 * padding, 1) + rng.integers(0, 7, 2)
    signal = rng.integers(-128, 128, (2, groups * int(rng.integers(1, 3)), *size))
    weight = rng.integers(-128, 128, (groups * int(rng.integers(1, 4)), signal.shape[1] // groups, *kernel))
    geometry = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(signal).double(),
        torch.from_numpy(weight).double(),
        **{key: value if key == "groups" else [int(v) for v in value] for key, value in geometry.items()},
    )
    found = convolve(signal, weight, conv("input", weight, **geometry).conv)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected.numpy().astype(np.int64))


def transposed(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[int, int]]]:
    """Return a signal, weights (in, out, height, width) and a geometry for torch's conv_transpose2d."""
    rng = np.random.default_rng(seed)
    kernel, stride, dilation, size = (rng.integers(*ends, 2) for ends in ((1, 5), (1, 5), (1, 4), (1, 6)))
    reach = dilation * (kernel - 1)
    padding = np.minimum(rng.integers(0, 4, 2), np.minimum(reach, (stride * (size - 1) + reach) // 2))
    signal = rng.integers(-128, 128, (2, int(rng.integers(1, 4)), *size))
    weight = rng.integers(-128, 128, (signal.shape[1], int(rng.integers(1, 4)), *kernel))
    return signal, weight, {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}


@given(seeds)
def test_W2_with_zeros_between_neurons_is_conv_transpose2d_of_torch(seed):
    signal, weight, given = transposed(seed)
    expected = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(signal).double(),
        torch.from_numpy(weight).double(),
        **{key: [int(v) for v in value] for key, value in given.items()},
    )
    turned = weight.swapaxes(0, 1)[:, :, ::-1, ::-1]
    reach = (d * (k - 1) for d, k in zip(given["dilation"], weight.shape[2:], strict=True))
    padding = tuple(int(r - p) for r, p in zip(reach, given["padding"], strict=True))
    synapse = conv("input", turned, padding=padding, dilation=given["dilation"], input_dilation=given["stride"])
    np.testing.assert_array_equal(convolve(signal, turned, synapse.conv), expected.numpy().astype(np.int64))


def test_W2_zeros_lie_between_neurons_and_not_at_the_edge():
    synapse = conv("input", [[[[1, 10]]]], padding=(0, 1), input_dilation=(2, 3))  # 0 5 0 0 6 0 in the upper row
    assert weigh(synapse, [[[5, 6]]]) == [[[50, 5, 0, 60, 6]]]


def peak_bytes(compute: Callable[[], object]) -> int:
    """Return how much memory `compute` takes at most: the least of three, for other threads allocate as well."""
    return min(_peak_bytes(compute) for _ in range(3))


def _peak_bytes(compute: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        compute()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_W2_padding_takes_no_memory():
    """By hand: of nine places, the one in the middle sees the only pixel."""
    synapse = conv("input", [[[[7]]]], stride=(30000, 30000), padding=(30000, 30000))
    found = []
    assert peak_bytes(lambda: found.append(weigh(synapse, [[[3]]]))) < 2**20
    np.testing.assert_array_equal(found[0], [[[0, 0, 0], [0, 21, 0], [0, 0, 0]]])


@given(seeds, st.sampled_from([1, 50, 999]))
def test_W2_piece_by_piece_is_the_whole(seed, patches):
    rng = np.random.default_rng(seed)
    signal = rng.integers(-128, 128, (3, 4, *rng.integers(3, 7, 2)))
    groups, stride, padding = (int(rng.choice(of)) for of in ([1, 2, 4], [1, 2, 3], [0, 1, 4]))
    weight = rng.integers(-128, 128, (4, 4 // groups, 2, 3))
    geometry = ConvGeometry((stride, 1), (padding, padding), groups=groups)
    whole = convolve(signal, weight, geometry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synapses, "PATCHES", patches)
        np.testing.assert_array_equal(convolve(signal, weight, geometry), whole)


@pytest.mark.parametrize("shape", [(64, 8, 16, 16), (1, 8, 128, 128)])
def test_W2_memory_does_not_grow_with_images_and_rows(shape, monkeypatch):
    monkeypatch.setattr(synapses, "PATCHES", 2**12)
    signal, weight = np.ones(shape, np.int64), np.ones((1, 8, 3, 3), np.int64)
    answer = 8 * shape[0] * shape[2] * shape[3]
    assert peak_bytes(lambda: convolve(signal, weight, ConvGeometry(padding=(1, 1)))) < answer + 6 * 8 * 2**12


@pytest.mark.parametrize(("exponent", "expected"), [(0, -3), (1, -6), (3, -24), (16, -196608)])
def test_W3_the_sum_is_multiplied_by_a_power_of_two(exponent, expected):
    assert weigh(dense("input", [[-3]], exponent), [1]) == [expected]


# --- neurons ------------------------------------------------------------


def test_S1_to_S3_by_hand():
    neuron = fire("a", dense("input", [[3]]), threshold=5, initial=2, bias=-1)  # drive 3 - 1 = 2 a step
    assert drive(neuron, [1, 1, 1, 1, 1]) == ([0, 1, 0, 1, 0], [4, 6, 3, 5, 2])


def test_S2_fires_at_the_threshold_and_not_one_below():
    assert drive(fire("a", dense("input", [[1]]), threshold=5), [5]) == ([1], [5])
    assert drive(fire("a", dense("input", [[1]]), threshold=5), [4]) == ([0], [4])


def test_S2_one_spike_a_step_however_large_the_potential():
    assert drive(fire("a", dense("input", [[1]]), threshold=5), [20, 0, 0, 0, 0]) == (
        [1, 1, 1, 1, 0],
        [20, 15, 10, 5, 0],
    )


def test_S3_zero_clears_the_potential():
    neuron = fire("a", dense("input", [[2]]), threshold=5, initial=2, reset="zero")
    assert drive(neuron, [1, 1, 1, 1, 1]) == ([0, 1, 0, 0, 1], [4, 6, 2, 4, 6])


@pytest.mark.parametrize(("reset", "after"), [("subtract", 95), ("zero", 0)])
def test_S3_resets_differ_in_what_stays_above_the_threshold(reset, after):
    neuron = fire("a", dense("input", [[1]]), threshold=5, reset=reset)
    assert drive(neuron, [100, 0])[1] == [100, after]


def test_S3_neurons_reset_at_the_same_step_each_by_its_own_threshold():
    neuron = fire("a", dense("input", [[1], [1], [1]]), threshold=[2, 3, 11])
    run = run_population(neuron, {"input": np.array([[[10], [0]]])}, 2)
    np.testing.assert_array_equal(run.spikes, [[[1, 1, 0], [1, 1, 0]]])
    np.testing.assert_array_equal(run.potentials, [[[10, 10, 10], [8, 7, 10]]])


def test_S1_a_negative_bias_pulls_the_potential_down_without_limit():
    neuron = fire("a", dense("input", [[1]]), threshold=5, bias=-3)
    assert drive(neuron, [0, 0, 14, 0]) == ([0, 0, 1, 0], [-3, -6, 5, -3])


def test_S1_bias_and_threshold_are_spread_over_height_and_width():
    neuron = fire("a", conv("input", [[[[1]]], [[[2]]]]), threshold=[3, 6], bias=[0, 1], shape=(2, 1, 2))
    run = run_population(neuron, {"input": np.array([[[[[2, 3]]]]])}, 1)
    np.testing.assert_array_equal(run.potentials[0, 0], [[[2, 3]], [[5, 7]]])
    np.testing.assert_array_equal(run.spikes[0, 0], [[[0, 1]], [[0, 1]]])


def test_S4_the_readout_starts_at_zero_never_fires_and_integrates_its_bias():
    logits = simulate(only_readout([[2, 0], [-1, 3]], 3, bias=[10, -1]), as_pixels([[4, 5]])).logits
    np.testing.assert_array_equal(logits, [[[18, 10], [36, 20], [54, 30]]])


def test_M1_a_maximum_fires_with_any_of_its_window_and_holds_nothing():
    """Two neurons take turns, and both are silent in the last step."""
    pooled = maximum("m", "a", (1, 1, 2), np.ones((1, 2)))
    found = run_population(pooled, {"a": np.array([[1, 0], [0, 1], [1, 1], [0, 0]]).reshape(1, 4, 1, 1, 2)}, 4)
    assert found.spikes.reshape(-1).astype(int).tolist() == [1, 1, 1, 0]
    assert found.potentials.reshape(-1).tolist() == [1, 1, 2, 0]


def test_T1_every_sample_starts_fresh():
    hidden = fire("a", dense("input", [[1]]), threshold=10, initial=3)
    network = IntNetwork(signed_input(1), (hidden, read_out(dense("a", [[7]]))), 3)
    pixels = as_pixels([[9], [0], [3], [9]])
    together = simulate(network, pixels, potentials=True)
    np.testing.assert_array_equal(together.potentials["a"][..., 0], [[12, 11, 10], [3, 3, 3], [6, 9, 12], [12, 11, 10]])
    assert join(simulate(network, pixels[i : i + 1], potentials=True) for i in range(4)) == together


def test_N2_a_spike_reaches_the_next_population_in_its_own_step():
    first = fire("a", dense("input", [[1]]), threshold=4)
    second = fire("b", dense("a", [[5]]), threshold=5)
    network = IntNetwork(signed_input(1), (first, second, read_out(dense("b", [[1]]))), 4)
    trace = simulate(network, as_pixels([[2]]))
    np.testing.assert_array_equal(trace.spikes["a"].reshape(-1), [0, 1, 0, 1])
    np.testing.assert_array_equal(trace.spikes["b"].reshape(-1), [0, 1, 0, 1])
    np.testing.assert_array_equal(trace.logits.reshape(-1), [0, 1, 1, 2])


def test_S1_several_synapses_add_up():
    """A residual connection: `b` gets 4·a·2 and 3·input, the readout gets a and b."""
    first = fire("a", dense("input", [[1]]), threshold=4)
    second = fire("b", dense("a", [[4]], 1), dense("input", [[3]]), threshold=10, bias=-1)
    network = IntNetwork(signed_input(1), (first, second, read_out(dense("a", [[100]]), dense("b", [[1]]))), 4)
    trace = simulate(network, as_pixels([[2]]), potentials=True)
    np.testing.assert_array_equal(trace.spikes["a"].reshape(-1), [0, 1, 0, 1])
    np.testing.assert_array_equal(trace.potentials["b"].reshape(-1), [5, 18, 13, 16])
    np.testing.assert_array_equal(trace.spikes["b"].reshape(-1), [0, 1, 1, 1])
    np.testing.assert_array_equal(trace.logits.reshape(-1), [0, 101, 102, 203])


# --- overflow -----------------------------------------------------------


@pytest.mark.parametrize(("bias", "count"), [(131071, 0), (131072, 1), (-131071, 0), (-131072, 1)])
def test_O1_leaving_the_accumulator_is_counted_on_both_sides(bias, count):
    trace = simulate(only_readout([[0]], bias=bias), as_pixels([[0]]))
    assert trace.overflows == {"out": count}
    assert trace.logits.item() == bias  # counted, never wrapped


def test_O1_the_initial_potential_is_not_counted():
    hidden = fire("a", dense("input", [[0]]), threshold=2**20, initial=1000, bias=131071)
    network = IntNetwork(signed_input(1), (hidden, read_out(dense("a", [[0]]))), 1)
    assert simulate(network, as_pixels([[0]])).overflows == {"a": 0, "out": 0}


def test_O1_is_counted_before_the_reset():
    hidden = fire("a", dense("input", [[0]]), threshold=131072, bias=131072)
    network = IntNetwork(signed_input(1), (hidden, read_out(dense("a", [[0]]))), 2)
    trace = simulate(network, as_pixels([[0]]), potentials=True)
    np.testing.assert_array_equal(trace.potentials["a"].reshape(-1), [131072, 131072])
    assert trace.overflows["a"] == 2


def test_O1_counts_neurons_steps_and_samples_over_all_batches():
    network = only_readout([[1000], [-1000], [1]], 2)
    pixels = as_pixels([[100]] * 70 + [[1]] * 30)  # 100000 and 200000: outside at the second step only
    assert simulate(network, pixels).overflows == {"out": 2 * 70}


# --- windows and batches ------------------------------------------------


def test_a_window_of_another_length_can_be_asked_for():
    network = only_readout([[1]], 2)
    assert simulate(network, as_pixels([[3]])).logits.reshape(-1).tolist() == [3, 6]
    assert simulate(network, as_pixels([[3]]), n_steps=4).logits.reshape(-1).tolist() == [3, 6, 9, 12]


@given(seeds)
def test_a_longer_window_starts_like_a_shorter_one(seed):
    network = random_network(seed, n_steps=2)
    pixels = random_pixels(network, 2)
    short, long = simulate(network, pixels), simulate(network, pixels, n_steps=5)
    np.testing.assert_array_equal(long.logits[:, :2], short.logits)
    for name, spikes in short.spikes.items():
        np.testing.assert_array_equal(long.spikes[name][:, :2], spikes)


@given(seeds)
def test_batches_join_to_the_whole(seed):
    network = random_network(seed)
    pixels = random_pixels(network, 5)
    whole = simulate(network, pixels, potentials=True)
    assert join(stream(network, pixels, potentials=True, batch=2)) == whole
    assert [part.n_samples for part in stream(network, pixels, batch=2)] == [2, 2, 1]


def test_a_trace_has_the_shapes_that_it_states():
    hidden = fire("a", conv("input", np.ones((3, 2, 2, 2))), shape=(3, 3, 2))
    network = IntNetwork(signed_input(2, 4, 3), (hidden, read_out(dense("a", np.ones((5, 18))))), 4)
    trace = simulate(network, random_pixels(network, 6))
    assert trace.spikes["a"].shape == (6, 4, 3, 3, 2)
    assert trace.spikes["a"].dtype == np.bool_
    assert (trace.logits.shape, trace.logits.dtype) == ((6, 4, 5), np.int64)
    assert list(trace.spikes) == ["a"]
    assert trace.potentials == {}
    assert trace.n_samples == 6


def test_a_summary_counts_the_spikes_of_the_batch():
    spikes = np.zeros((2, 3, 2, 1, 2), np.bool_)
    spikes[0, 0, 0, 0, 0] = spikes[1, 1] = True
    summary = Trace({"a": spikes}, np.ones((2, 3, 1), np.int64), {"a": 7}, {}).summary()
    assert summary == Summary(np.ones((2, 3, 1), np.int64), {"a": 5}, {"a": 7})


@pytest.mark.parametrize(
    ("pixels", "options", "text"),
    [
        (as_pixels([[1]]), {"n_steps": 0}, "simulation: n_steps is 0, allowed >= 1"),
        (as_pixels([[1]])[:0], {}, "simulation: number of samples is 0, allowed >= 1"),
        (
            as_pixels([[1, 1]]),
            {},
            "input: got uint8 (2,) per sample, allowed uint8 (1,)\n"
            "hint: give the data set that the network was trained on, as pixels 0..255",
        ),
    ],
)
def test_what_cannot_be_simulated_is_said(pixels, options, text):
    with pytest.raises(RangeError) as caught:
        simulate(only_readout([[1]]), pixels, **options)
    assert str(caught.value) == text
