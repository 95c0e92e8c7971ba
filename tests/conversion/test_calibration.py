"""What calibration keeps of a source: the same spikes, in an eighth of a byte each; and a layer is run once."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nctool.conversion.input_encoding import encode_input, rate_input
from nctool.conversion.quantise.calibration import Calibration, RecordedSpikes, join, pack
from nctool.fast.choice import FLOAT, usable
from nctool.fast.integrate_fire import IntegrateFireLayer
from nctool.ir.network import INPUT_NAME, Bound
from tests.support.networks import dense, fire, random_graph, random_pixels, random_pooled, read_out, seeds

pytestmark = pytest.mark.usefixtures("one_thread")


@given(seeds, st.sampled_from([(7,), (3, 2, 5), (1, 3, 3)]), st.integers(1, 9))
def test_packed_spikes_are_the_spikes(seed, shape, n_steps):
    spikes = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (n_steps, 5, *shape), np.uint8))
    kept = join([pack(spikes[:, :2]), pack(spikes[:, 2:])])
    assert len(kept) == 5
    assert torch.equal(kept.steps(slice(1, 4)), spikes[:, 1:4])
    np.testing.assert_array_equal(kept[1:9], spikes[:, 1:].numpy().mean(axis=0))
    assert kept.bits.nbytes == n_steps * 5 * -(-int(np.prod(shape)) // 8)


def test_the_longest_window_is_counted_to_its_end():
    kept = pack(torch.ones((1032, 1, 3)))
    np.testing.assert_array_equal(kept[:], np.ones((1, 3)))


def test_a_long_window_is_counted_in_little_memory():
    """The mean takes 64 kB, the spikes of all steps together 4 MB."""
    kept = RecordedSpikes(np.full((500, 8, 128), 255, np.uint8), (16, 8, 8))
    tracemalloc.start()
    found = kept[:]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.ones((8, 16, 8, 8)))
    assert peak < 4 * found.nbytes


def test_spikes_of_an_image_come_as_the_fast_engine_lays_them_out():
    """With the channels last, so that no kernel has to copy them."""
    found = pack(torch.ones((2, 3, 4, 5, 6))).steps(slice(0, 3)).flatten(0, 1)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n_steps", [1, 5])
def test_spike_trains_of_the_input_are_kept_as_they_are(n_steps, monkeypatch):
    encoded = rate_input((2, 3, 3), (0.5,) * 2, (0.25,) * 2)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 3), np.uint8)
    monkeypatch.setattr("nctool.conversion.quantise.calibration.CPU_BATCH_BYTES", 1000)
    rates = Calibration(encoded, pixels, n_steps).rates(INPUT_NAME)[:]
    np.testing.assert_array_equal(rates, encoded.encoding.signal(pixels, n_steps).mean(axis=1))


def measured(network, pixels):
    """Return the bytes of what each population reaches and sends."""
    seen = Calibration(replace(encode_input((1,), (0.0,), (1.0,)), encoding=network.input), pixels, network.n_steps)
    found = []
    for population in network.populations:
        reach = seen.range_of(population)
        found += [reach.low.tobytes(), reach.high.tobytes()]
        if population is not network.readout:
            seen.settle(population)
            found.append(seen.rates(population.name)[:].tobytes())
    return found


@given(seeds, st.booleans())
@settings(max_examples=15)
def test_integer_kernels_and_compiled_loops_measure_what_torch_does(seed, pooled):
    network = (random_pooled if pooled else random_graph)(seed)
    pixels = random_pixels(network, 5)
    with_all = measured(network, pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nctool.conversion.quantise.calibration.usable", lambda: FLOAT)
        assert measured(network, pixels) == with_all


@pytest.mark.parametrize("choice", [usable(), FLOAT], ids=["all", "torch"])
def test_several_threads_measure_what_one_does(choice, monkeypatch):
    """Each has a part of the samples."""
    network = random_pooled(3)
    pixels = random_pixels(network, 12)
    monkeypatch.setattr("nctool.conversion.quantise.calibration.usable", lambda: choice)
    monkeypatch.setattr("nctool.conversion.quantise.calibration.CPU_BATCH_BYTES", 1)
    alone = measured(network, pixels)
    torch.set_num_threads(3)
    assert measured(network, pixels) == alone


def test_a_population_that_was_measured_is_not_run_again(monkeypatch):
    runs = []
    run = IntegrateFireLayer.run
    monkeypatch.setattr(IntegrateFireLayer, "run", lambda *args: runs.append(0) or run(*args))
    seen = Calibration(encode_input((3,), (0.0,), (1.0,)), np.full((4, 3), 255, np.uint8), 3)
    first, other = fire("a", dense("input", np.ones((2, 3))), threshold=50), read_out(dense("input", np.ones((2, 3))))
    seen.range_of(fire("a", dense("input", np.ones((2, 3))), threshold=40))
    seen.range_of(first)
    seen.settle(fire("a", *first.synapses, threshold=50, bound=Bound("calibrated", 0, 9)))
    assert len(runs) == 2
    seen.range_of(other)
    seen.settle(fire("b", *first.synapses, threshold=400))
    assert len(runs) == 4
    np.testing.assert_array_equal(seen.rates("a")[:], np.ones((4, 2)))
    np.testing.assert_array_equal(seen.rates("b")[:], np.full((4, 2), 2 / 3))
