"""Netx files of other tools give the spikes that Lava and the shipped ground truth give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from nctool.errors import RangeError
from nctool.fast.engine import FastEngine
from nctool.ir.network import IntNetwork
from nctool.reference import simulate as reference
from nctool.reference.trace import Trace, join
from nctool_deploy.foreign import ForeignFile, ForeignOptions, is_foreign, read_foreign
from nctool_deploy.lava import engine
from nctool_deploy.lava.compatibility import make_importable
from nctool_deploy.lava.synapses import as_lava_runs, parts_as_lava_runs
from tests.support.foreign import (
    Case,
    Draft,
    conv_layer,
    dense_layer,
    ground_truth,
    input_block,
    neuron,
    random_case,
    shipped,
)
from tests.support.networks import CHOICES, seeds

STREAMED = range(14)
"""Seeds of the random files that Lava runs too: each costs a second."""


def assert_engines_agree(network: IntNetwork, samples: Any) -> Trace:
    expected = reference.simulate(network, samples)
    for choice in CHOICES:
        assert join(FastEngine(network, choice=choice).traces(samples)) == expected, choice
    return expected


def from_lava_axes(values: np.ndarray, n_spatial: int = 3) -> np.ndarray:
    """Return (width, height, channel, steps) as (steps, channel, height, width)."""
    return values.transpose(n_spatial, *reversed(range(n_spatial)))


def opened(case: Case) -> tuple[ForeignFile, np.ndarray]:
    content = read_foreign(case.path, ForeignOptions(case.n_steps, case.reset_interval))
    samples = content.samples(case.samples)
    return content.fitted_to(samples), samples


# --- files that the lava-dl wheel ships ----------------------------------


@pytest.mark.lava
def test_pilotnet_gives_the_ground_truth_of_every_layer():
    """The shipped vectors come from a run of 24 steps in which layer k is reset every 17 of its own steps."""
    content = read_foreign(shipped("gts/pilotnet_lif/network.net"), ForeignOptions(reset_interval=17))
    image = ground_truth("pilotnet_lif/image.npy").T[np.newaxis]
    network = IntNetwork(content.network.input, content.network.populations, 24)
    trace = assert_engines_agree(network, content.samples(image))
    truth = {"input0": "input"} | {f"conv{k}": f"conv-{k - 1}" for k in range(1, 6)}
    truth |= {f"dense{k}": f"fc-{k - 7}" for k in (7, 8, 9)}
    for late, (name, vectors) in enumerate(truth.items()):
        expected = ground_truth(f"pilotnet_lif/{vectors}.npy")
        expected = from_lava_axes(expected, expected.ndim - 1)[late:]
        np.testing.assert_array_equal(trace.spikes[name][0, : 24 - late], expected, err_msg=name)
    assert sum(int(spikes.sum()) for spikes in trace.spikes.values()) == 1_103_939


@pytest.mark.lava
def test_pilotnet_gives_the_voltages_of_the_ground_truth():
    content = read_foreign(shipped("gts/pilotnet_lif/network.net"), ForeignOptions(num_layers=2, reset_interval=17))
    image = ground_truth("pilotnet_lif/image.npy").T[np.newaxis]
    trace = reference.simulate(content.network, image, n_steps=16, potentials=True)
    voltages, fired = trace.potentials["conv1"][0], trace.spikes["conv1"][0]
    expected = from_lava_axes(ground_truth("pilotnet_lif/conv-0-v.npy"))[1:17]
    after_a_spike = 128  # what the chip shows there
    np.testing.assert_array_equal(np.where(fired, after_a_spike, voltages), expected)


@pytest.mark.lava
def test_tinynet_gives_the_ground_truth():
    content = read_foreign(shipped("tiny.net"), ForeignOptions(reset_interval=17))
    bias = ground_truth("tinynet/input_bias.npy").astype(np.int64).T[np.newaxis]
    network = IntNetwork(content.network.input, content.network.populations, 15)
    trace = assert_engines_agree(network, bias)
    np.testing.assert_array_equal(
        trace.spikes["conv2"][0], ground_truth("tinynet/output.npy")[0, ..., 1:].transpose(3, 0, 1, 2)
    )


@pytest.mark.lava
def test_ntidigits_with_axonal_delays_gives_the_ground_truth():
    content = read_foreign(shipped("gts/ntidigits/ntidigits.net"), ForeignOptions(num_layers=5))
    spikes = ground_truth("ntidigits/input.npy").T[np.newaxis].astype(np.int64)
    network = IntNetwork(content.network.input, content.network.populations, spikes.shape[1])
    trace = assert_engines_agree(network, spikes)
    expected = ground_truth("ntidigits/output.npy").T
    late = 4  # three layers and the recording
    np.testing.assert_array_equal(trace.spikes["dense4"][0, :-late], expected[late:])
    assert expected.sum() == 22572


@pytest.mark.lava
@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [("tiny.net", {}, 9), ("tiny.net", {"reset_interval": 4}, 9), ("mnist.net", {}, 9)],
)
def test_shipped_files_run_as_in_lava(name, options, steps):
    content = read_foreign(shipped(name), ForeignOptions(**options))
    shape = content.network.input.shape
    samples = np.random.default_rng(0).integers(0, 140, (2, *shape))
    network = IntNetwork(content.network.input, content.network.populations, steps)
    expected = assert_engines_agree(network, samples)
    (found,) = engine.stream(shipped(name), network, samples, foreign_options=content.foreign_options)
    assert_same(expected, found)


def assert_same(expected: Trace, found: Trace) -> None:
    for name, spikes in expected.spikes.items():
        np.testing.assert_array_equal(found.spikes[name], spikes, err_msg=name)
    np.testing.assert_array_equal(found.logits, expected.logits)


# --- random files --------------------------------------------------------


@given(seeds)
def test_the_engines_agree_on_random_files(tmp_path_factory, one_thread, seed):
    case = random_case(tmp_path_factory.mktemp("foreign") / "x.net", seed, n_samples=2)
    content, samples = opened(case)
    assert_engines_agree(content.network, samples)


@pytest.mark.lava
def test_random_files_run_as_in_lava(tmp_path, one_thread):
    cases = [random_case(tmp_path / f"{seed}.net", seed) for seed in STREAMED]
    expected, jobs = [], []
    for case in cases:
        content, samples = opened(case)
        expected.append(reference.simulate(content.network, samples))
        signal = content.network.input.signal(samples, content.network.n_steps)
        jobs.append(engine.LavaJob(case.path, signal, content.network.n_steps, content.foreign_options))
    for seed, one, other in zip(STREAMED, expected, engine.run_jobs(jobs), strict=True):
        for name, spikes in one.spikes.items():
            np.testing.assert_array_equal(other.spikes[name], spikes, err_msg=f"seed {seed}, {name}")
        np.testing.assert_array_equal(other.logits, one.logits, err_msg=f"seed {seed}")


NO_MEMORY = {"current_decay": 4096, "voltage_decay": 4096}
AFFINE = 2**18 - 1
"""The threshold that slayer writes for a layer that never fires."""


def bias_and_delay(delay: int) -> list[dict[str, Any]]:
    source = dense_layer([[1]], bias=[100], neuron=neuron(60, **NO_MEMORY))
    return [source, dense_layer([[100]], delay=np.float32(delay), neuron=neuron(60, **NO_MEMORY))]


def pair_of_pixels(threshold: int) -> list[dict[str, Any]]:
    image = {"type": "input", "shape": (1, 1, 2)}
    return [image, conv_layer([[[[250, 250]]]], (1, 1, 2), neuron=neuron(threshold, 2048, 1024))]


def coming_back(weight: int) -> list[dict[str, Any]]:
    """A neuron that fires without input, and what it sends to itself; the second of its kind drives a third."""
    back = {"type": "dense_rec", "weight_rec": np.full((1, 1), np.float32(weight)), "bias": [100]}
    first = dense_layer([[1]], **back, neuron=neuron(60, **NO_MEMORY))
    return [first, dense_layer([[-40]], **back, neuron=neuron(60, 4096, 512)), dense_layer([[3]])]


RISING = np.array([1, 100, 500, 2000, 8000, 16777, 16778, 20000, 32767, -32767, -16778, -16777]).reshape(1, -1, 1)
EDGES: dict[str, tuple[list[dict[str, Any]], np.ndarray]] = {
    **{f"delay {delay} of a window of 2": (bias_and_delay(delay), np.zeros((1, 2, 1), int)) for delay in (1, 2, 3)},
    "a convolution beyond 24 bits fires": (pair_of_pixels(100), np.stack([RISING, RISING], axis=-1)[:, :, None]),
    "a convolution beyond 24 bits answers": (pair_of_pixels(AFFINE), np.stack([RISING, RISING], axis=-1)[:, :, None]),
    **{
        f"recurrence of {weight}, {kind}": (coming_back(weight), np.zeros((1, 7, 1), int))
        for weight in (-90, 90)
        for kind in ("free", "with a reset")
    },
    "a convolution to 24 bits and back": (
        [{"type": "input", "shape": (1, 1, 2)}, conv_layer([[[[512, 1]]]], (1, 1, 2), neuron=neuron(2**17, 4096, 0))],
        np.array([[32767, 515]] * 3).reshape(1, 3, 1, 1, 2),
    ),
    **{
        f"{n_inputs} dense inputs of weight {weight}, {kind}": (
            [dense_layer(np.full((1, n_inputs), weight), neuron=neuron(AFFINE, 3000, 4096), **delay)],
            np.repeat(RISING, n_inputs, axis=2),
        )
        for n_inputs, weight in ((40, 200), (300, 255), (600, -1), (300, -200))
        for kind, delay in (("at once", {}), ("delayed", {"delay": np.arange(n_inputs) % 3}))
    },
    **{
        f"cut at threshold {threshold}": (
            [dense_layer([[1, -1]], bias=[32767], neuron=neuron(threshold, 4096, 0))],
            np.zeros((1, 7, 2), int),
        )
        for threshold in (2**17 - 2, 2**17 - 1, 2**17, AFFINE)
    },
}
"""Files and samples at the edges of registers and windows."""


@pytest.mark.lava
def test_edges_run_as_in_lava(tmp_path, one_thread):
    expected, jobs = [], []
    for number, (name, (layers, samples)) in enumerate(EDGES.items()):
        path, interval = Draft(layers).write(tmp_path / f"{number}.net"), 2 if "reset" in name else None
        content = read_foreign(path, ForeignOptions(reset_interval=interval)).fitted_to(samples)
        expected.append(assert_engines_agree(content.network, samples))
        jobs.append(engine.LavaJob(path, samples, samples.shape[1], content.foreign_options))
    for name, one, other in zip(EDGES, expected, engine.run_jobs(jobs), strict=True):
        for layer, spikes in one.spikes.items():
            np.testing.assert_array_equal(other.spikes[layer], spikes, err_msg=f"{name}, {layer}")
        np.testing.assert_array_equal(other.logits, one.logits, err_msg=name)


@pytest.mark.lava
def test_weights_become_what_lava_makes_of_them(monkeypatch):
    """Lava's own functions, in the order in which netx and the Dense process call them."""
    monkeypatch.setattr("multiprocessing.set_start_method", lambda *_: None)  # Lava sets it, once a process
    make_importable()
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    rng, checked = np.random.default_rng(0), 0
    for low, high in [(-128, 128), (-256, 255), (-256, 256), (0, 256), (-256, 0), (-256, 1), (-9, 9), (0, 3)] * 40:
        weight = rng.integers(low, high, (3, 4)) * 2 ** int(rng.integers(0, 2)) // 2
        if not weight.any():
            continue
        with np.errstate(divide="ignore"):
            scaled, bits, exponent, _ = optimize_weight_bits(weight)
        mode = determine_sign_mode(scaled)
        lava = truncate_weights(clip_weights(scaled, mode, num_bits=8), mode, bits)
        running, shift = as_lava_runs(weight, "layer 0")
        assert np.array_equal(running * 2.0**shift, lava * 2.0**exponent), (weight, lava, exponent)
        checked += 1
    assert checked > 300


@pytest.mark.lava
def test_weights_of_a_recurrent_layer_become_what_lava_makes_of_them(monkeypatch):
    """netx scales both matrices as one; each Dense process clips and truncates its own by its own signs."""
    monkeypatch.setattr("multiprocessing.set_start_method", lambda *_: None)
    make_importable()
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    ranges = [(-128, 128), (-256, 255), (0, 256), (-256, 0), (-256, 1), (0, 1), (-9, 9), (0, 3)]
    rng = np.random.default_rng(1)
    for one, other in [(one, other) for one in ranges for other in ranges] * 5:
        parts = [rng.integers(*one, (3, 4)), rng.integers(*other, (3, 3))]
        if not np.hstack(parts).any():
            continue
        with np.errstate(divide="ignore"):
            scaled, bits, exponent, _ = optimize_weight_bits(np.hstack(parts))
        for part, (running, shift) in zip(
            np.split(scaled, [4], axis=1), parts_as_lava_runs(parts, "layer 0"), strict=True
        ):
            mode = determine_sign_mode(part)
            lava = truncate_weights(clip_weights(part, mode, num_bits=8), mode, bits)
            assert np.array_equal(running * 2.0**shift, lava * 2.0**exponent), (parts, lava, exponent)


# --- by hand -------------------------------------------------------------


def test_I3_W1_C1_to_C3_by_hand(tmp_path):
    """Input: v = 50 a step over a threshold of 70, so it fires at steps 2, 4, ...; then 3 · 64 / 2 ... in the layer."""
    layers = [input_block(1, threshold=70, voltage_decay=0), dense_layer([[3]], neuron=neuron(2, 2048, 4096))]
    content = read_foreign(Draft(layers).write(tmp_path / "x.net"), ForeignOptions(reset_interval=8))
    trace = reference.simulate(content.network, np.array([[50]]), n_steps=5, potentials=True)
    assert trace.potentials["input0"][0, :, 0].tolist() == [3200, 6400, 3200, 6400, 3200]
    assert trace.spikes["input0"][0, :, 0].tolist() == [0, 1, 0, 1, 0]
    assert trace.potentials["dense1"][0, :, 0].tolist() == [0, 192, 96, 240, 120]
    assert trace.spikes["dense1"][0, :, 0].tolist() == [0, 1, 0, 1, 0]  # above 128
    assert trace.logits[0, :, 0].tolist() == [0, 1, 1, 2, 2]


def test_C4_a_layer_runs_with_its_bias_before_its_input_arrives(tmp_path):
    layers = [dense_layer([[1]], bias=[1]), dense_layer([[1]], bias=[1], neuron=neuron(131071, 4096, 0))]
    content = read_foreign(Draft(layers).write(tmp_path / "x.net"))
    assert [p.neuron.latency for p in content.network.populations] == [1, 2]
    trace = reference.simulate(content.network, np.zeros((1, 2, 1), int), n_steps=2)
    assert trace.logits[0, :, 0].tolist() == [192, 256]  # two steps before the first


@pytest.mark.parametrize(("delay", "fired"), [(1, [1, 1]), (2, [0, 1]), (3, [0, 0])])
def test_C4_W4_a_spike_from_before_the_first_step_arrives_after_a_delay_of_the_window(tmp_path, delay, fired):
    """The source fires in every step that it runs, the first of them step 0; the window has two steps."""
    source = dense_layer([[1]], bias=[100], neuron=neuron(60, 4096, 4096))
    layers = [source, dense_layer([[100]], delay=np.float32(delay), neuron=neuron(60, 4096, 4096))]
    network = read_foreign(Draft(layers).write(tmp_path / "x.net"), ForeignOptions(steps=2)).network
    trace = assert_engines_agree(network, np.zeros((1, 2, 1), int))
    assert trace.spikes["dense0"][0, :, 0].tolist() == [1, 1]
    assert trace.spikes["dense1"][0, :, 0].tolist() == fired


def test_C4_C5_W6_a_spike_from_before_the_first_step_comes_back_after_a_reset(tmp_path):
    """It fires at step 0 by its bias of 100 > 60; that spike brings -90, so it is silent at step 1, and so on."""
    layer = dense_layer([[1]], type="dense_rec", weight_rec=[[-90]], bias=[100], neuron=neuron(60, **NO_MEMORY))
    content = read_foreign(Draft([layer]).write(tmp_path / "x.net"), ForeignOptions(steps=4, reset_interval=4))
    assert [p.neuron.latency for p in content.network.populations] == [1]
    trace = assert_engines_agree(content.network, np.zeros((1, 4, 1), int))
    assert trace.spikes["dense0"][0, :, 0].tolist() == [0, 1, 0, 1]


def test_C5_a_reset_clears_what_came_before_the_first_step(tmp_path):
    layers = [dense_layer([[1]], bias=[1], neuron=neuron(131071, 4096, 0))]
    content = read_foreign(Draft(layers).write(tmp_path / "x.net"), ForeignOptions(reset_interval=2))
    trace = reference.simulate(content.network, np.zeros((1, 5, 1), int), n_steps=5)
    assert trace.logits[0, :, 0].tolist() == [64, 128, 64, 128, 64]


def test_W4_a_delayed_spike_outlives_a_reset(tmp_path):
    layers = [dense_layer([[5]], delay=np.float32(3), neuron=neuron(131071, 4096, 4096))]
    content = read_foreign(Draft(layers).write(tmp_path / "x.net"), ForeignOptions(reset_interval=2))
    spikes = np.array([1, 1, 0, 0, 0, 0]).reshape(1, 6, 1)
    assert reference.simulate(content.network, spikes, n_steps=6).logits[0, :, 0].tolist() == [0, 0, 0, 320, 320, 0]


def test_O2_wraps_and_saturations_are_counted(tmp_path):
    layers = [dense_layer([[127]], neuron=neuron(131071, 0, 0))]
    content = read_foreign(Draft(layers).write(tmp_path / "x.net"), ForeignOptions(reset_interval=99))
    network = IntNetwork(content.network.input, content.network.populations, 4)
    trace = assert_engines_agree(network, np.full((1, 4, 1), 1000))
    # 127 · 1000 · 64 = 8,128,000 a step. u: 8128000, 16256000 - 2^24, 7606784, 15734784 - 2^24.
    # v: 8128000, 7606784, 15213568 cut to 2^23 - 1, which fires and leaves 0, -1042432.
    assert trace.logits[0, :, 0].tolist() == [8128000, 7606784, 0, -1042432]
    assert trace.overflows["dense0"] == 3


# --- what a reader says --------------------------------------------------


def test_a_note_says_which_weights_lava_changes(tmp_path):
    path = Draft([dense_layer([[-128, 0], [-3, 0]])]).write(tmp_path / "x.net")
    assert read_foreign(path).notes == (
        "layer 0: Lava runs 1 of 4 weights with another value than the file's, -128 as -127.5",
    )


def test_delays_of_a_convolution_are_noted(tmp_path):
    layers = [{"type": "input", "shape": (1, 3, 3)}, conv_layer(np.ones((2, 1, 2, 2)), (1, 3, 3), delay=[1, 2])]
    assert read_foreign(Draft(layers).write(tmp_path / "x.net")).notes == (
        "layer 1: has delays, which Lava ignores on a convolution",
    )


@pytest.mark.parametrize("first", [dense_layer([[1], [1]]), input_block(2)])
def test_behind_skipped_layers_lava_takes_spikes_only(tmp_path, first):
    """Its Network forgets then that messages have bits."""
    path = Draft([first, dense_layer([[1, 1]])]).write(tmp_path / "x.net")
    content = read_foreign(path, ForeignOptions(skip_layers=1))
    assert content.notes == (
        "behind skipped layers, Lava takes every value but 0 for a spike: give samples of 0 and 1",
    )
    content.fitted_to(np.array([[[0, 1]]]))
    with pytest.raises(RangeError) as raised:
        content.fitted_to(np.array([[[0, 2]]]))
    assert str(raised.value) == "input: values reach from 0 to 2, allowed 0..1"


def test_a_skipped_shape_leaves_the_messages_as_they_are(tmp_path):
    path = Draft([{"type": "input", "shape": (2,)}, dense_layer([[1, 1]])]).write(tmp_path / "x.net")
    content = read_foreign(path, ForeignOptions(skip_layers=1))
    assert (content.notes, content.network.input_range) == ((), (-32767, 32767))


def test_real_samples_become_biases_by_the_transform(tmp_path):
    content = read_foreign(Draft([input_block(2), dense_layer([[1, 1]])]).write(tmp_path / "x.net"))
    np.testing.assert_array_equal(content.samples(np.array([[-1.0, 0.26]])), [[-2, 43]])  # 36 x + 34, towards zero


def test_real_samples_need_an_input_block(tmp_path):
    content = read_foreign(Draft([dense_layer([[1, 1]])]).write(tmp_path / "x.net"))
    np.testing.assert_array_equal(content.samples(np.array([[1.0, 0.0]])), [[1, 0]])
    with pytest.raises(RangeError) as raised:
        content.samples(np.array([[0.5, 0.0]]))
    assert str(raised.value) == (
        "input: got float64 with fractions, allowed whole numbers: spikes or graded spikes\n"
        "hint: only a file with an input block says how real numbers become integers"
    )


def test_an_input_block_takes_no_stream(tmp_path):
    content = read_foreign(Draft([input_block(2), dense_layer([[1, 1]])]).write(tmp_path / "x.net"))
    with pytest.raises(RangeError) as raised:
        reference.simulate(content.network, np.zeros((1, 3, 2), int), n_steps=3)
    assert str(raised.value) == (
        "input: the samples last 3 steps, allowed one value for all steps: it is a bias (rule I3)\n"
        "hint: run from the next layer on with --skip-layers 1 to feed spikes"
    )


def test_own_files_are_not_foreign(digits_model, tmp_path):
    assert not is_foreign(digits_model)
    assert is_foreign(Draft([dense_layer([[1]])]).write(tmp_path / "x.net"))
