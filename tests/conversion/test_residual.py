"""Residual networks: the integer network integrates every branch of a sum like the float spiking network does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import Conversion
from nctool.conversion.float_network import FloatPopulation, map_synapses
from nctool.conversion.folding import absorb_spike_values, fold_batch_norm, fold_pooling
from nctool.conversion.input_encoding import encode_input
from nctool.conversion.trace.tracing import trace
from nctool.errors import UnsupportedError
from nctool.ir.bounds import prove
from nctool.ir.network import INPUT_NAME, ConvGeometry, IntNetwork, Population, Synapse
from nctool.reference.simulate import simulate
from nctool.reference.synapses import synaptic_input
from tests.support.networks import seeds
from tests.support.torch_models import (
    THETA,
    binary_pixels,
    converted,
    exact_model,
    float_run,
    holds_nothing,
    normalised,
    on_both_engines,
    population_of,
    random_residual,
    real_input,
    whole,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# --- exact --------------------------------------------------------------


@given(seeds, st.integers(1, 5))
def test_integers_spike_like_the_float_network_where_they_represent_it_exactly(seed, n_steps):
    model, shape = exact_model(seed)
    pixels = binary_pixels(seed, shape)
    conversion = converted(model, shape, n_steps=n_steps)
    assume(holds_nothing(conversion))
    network = conversion.network
    assert all((p.neuron.threshold == THETA).all() for p in network.populations[:-1])
    assert {change.worst_error for change in conversion.changes if change.step.startswith("round")} == {0.0}
    spikes, logits = float_run(model, real_input(pixels), n_steps)
    found = on_both_engines(network, pixels)
    assert set(found.spikes) == set(map(population_of, spikes))
    for name, expected in spikes.items():
        np.testing.assert_array_equal(found.spikes[population_of(name)], expected, name)
    np.testing.assert_array_equal(found.logits, whole(logits))


def test_the_exact_networks_do_spike_and_their_skips_count():
    """The law above compares something: there are spikes and silences, and without the identities they are others."""
    share, changed = [], 0
    for seed in range(8):
        model, shape = exact_model(seed)
        network, pixels = converted(model, shape).network, binary_pixels(seed, shape)
        found = simulate(network, pixels)
        share += [float(spikes.mean()) for spikes in found.spikes.values()]
        changed += simulate(without_skips(network), pixels) != found
    assert 0.2 < np.mean(share) < 0.8
    assert changed >= 6


def without_skips(network: IntNetwork) -> IntNetwork:
    first = (replace(population, synapses=population.synapses[:1]) for population in network.populations)
    return replace(network, populations=tuple(first))


# --- rounded ------------------------------------------------------------


def real_and_integer(model: nn.Module, shape: tuple[int, ...], bits: int) -> tuple[list[FloatPopulation], Conversion]:
    """Return the folded populations, per spike and unit of graded input, and what they were rounded to."""
    conversion = converted(model, shape, bits=bits, std=1.0)
    folded = map_synapses(map_synapses(trace(model, shape), fold_batch_norm), fold_pooling)
    graded = encode_input(shape, (0.0,), (1.0,), int(conversion.network.input.table.max()))
    return list(absorb_spike_values(folded, graded).populations), conversion


@given(seeds, st.sampled_from([3, 5, 8]))
def test_the_drive_of_every_population_is_within_the_reported_errors(seed, bits):
    """For any spikes of the sources: the worst error of each synapse bounds what rounding makes of its sum."""
    model, shape = random_residual(seed, fill=normalised(seed), threshold=1.0)
    reals, conversion = real_and_integer(model, shape, bits)
    assume(holds_nothing(conversion))
    network, rng = conversion.network, np.random.default_rng(seed)
    errors = iter([change.worst_error for change in conversion.changes if change.step.startswith("round")])
    signals = {name: rng.integers(0, 2, (2, 1, *size)) for name, size in network.shapes.items()}
    signals[INPUT_NAME] = rng.integers(0, 20, (2, 1, *shape))
    for real, population in zip(reals, network.populations, strict=True):
        scale = column(scale_of(population, real, network.n_steps), population)
        drive, wanted, most, moved = 0.0, 0.0, 0.0, (0.5000001 / scale).max()
        for before, after in zip(real.synapses, population.synapses, strict=True):
            signal = signals[after.source]
            drive = drive + synaptic_input(after, signal, 1)[:, 0] / scale
            weight = before.repeat.spread(before.weight, before.source_shape)
            wanted = wanted + weigh(weight, after.conv, signal[:, 0])
            largest = np.broadcast_to(column(before.largest, weight), weight.shape)
            error = next(errors)
            most = most + error * weigh(largest, after.conv, np.abs(signal[:, 0]))
            moved = moved + error * largest.reshape(len(largest), -1).sum(axis=1).max() * signal_limit(network, after)
        assert (np.abs(drive - wanted) <= most * (1 + 1e-9) + 1e-9).all()
        np.testing.assert_allclose(population.bias / scale.ravel(), real.bias, atol=moved)  # makes good their mean


def signal_limit(network: IntNetwork, synapse: Synapse) -> int:
    return int(np.abs(network.input.table).max()) if synapse.source == INPUT_NAME else 1


def scale_of(population: Population, real: FloatPopulation, n_steps: int) -> np.ndarray:
    if real.threshold is None:
        return np.full(population.shape, 1 / (population.neuron.scale * n_steps))
    return population.neuron.threshold / real.threshold


def column(values: np.ndarray, like: object) -> np.ndarray:
    return values.reshape(-1, *[1] * (len(like.shape) - 1))


def weigh(weight: np.ndarray, conv: ConvGeometry | None, signal: np.ndarray) -> np.ndarray:
    """Weigh real numbers with torch, not with what conversion uses."""
    kernel, x = torch.from_numpy(weight.copy()), torch.from_numpy(signal).double()
    if conv is None:
        return (x.flatten(1) @ kernel.T).numpy()
    return nn.functional.conv2d(x, kernel, None, conv.stride, conv.padding, conv.dilation, conv.groups).numpy()


@given(seeds, st.sampled_from([2, 4, 8]), st.integers(1, 6))
def test_both_engines_agree_and_bounds_are_those_of_the_weights(seed, bits, n_steps):
    model, shape = random_residual(seed, fill=normalised(seed), threshold=1.0)
    network = converted(model, shape, bits=bits, n_steps=n_steps, std=1.0).network
    pixels = np.random.default_rng(seed).integers(0, 256, (3, *shape), np.uint8)
    on_both_engines(network, pixels)
    for population in network.populations:
        assert population.bound.kind == "proved"
        assert population.bound == prove(network)[population.name].bound("proved")


def test_rounded_logits_are_near_those_of_the_float_network():
    """A spike that rounding moves counts, so this holds for most networks, not for each one."""
    errors = []
    for seed in range(11):
        model, shape = random_residual(seed, fill=normalised(seed), threshold=1.0)
        network = converted(model, shape, n_steps=8, std=1.0).network
        pixels = np.random.default_rng(seed).integers(0, 256, (20, *shape), np.uint8)
        logits = float_run(model, real_input(pixels, 1.0), 8)[1][:, -1] / 8
        found = simulate(network, pixels).logits[:, -1] * network.readout.neuron.scale
        errors.append(np.abs(found - logits).mean() / np.abs(logits).mean())
    assert np.median(errors) < 0.02


class FlatSum(nn.Module):
    """A sum behind nn.Flatten, of as many features as there are."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(features, features), NoisyQuantReLU(4, 1.0))
        self.second = nn.Linear(features, features)
        self.last = nn.Sequential(NoisyQuantReLU(4, 1.0), nn.Linear(features, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(self.second(x) + x)


def test_a_flat_sum_of_more_features_than_a_unit_matrix_may_have_is_refused(monkeypatch):
    monkeypatch.setattr("nctool.conversion.trace.weighing.LARGEST_UNIT_MATRIX", 5)
    assert len(trace(FlatSum(5).eval(), (5,)).populations[1].synapses) == 2
    with pytest.raises(UnsupportedError) as caught:
        trace(FlatSum(6).eval(), (6,))
    assert str(caught.value) == (
        "`add`: hands on 6 features one by one, through a matrix of 6 x 6, allowed up to 5\n"
        "hint: let nn.Flatten come behind it: images need one weight for each channel"
    )
