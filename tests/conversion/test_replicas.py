"""K staggered replicas in T steps count like one replica in K * T steps, and T = 1 is the quantised ANN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import convert
from nctool.conversion.float_network import map_synapses
from nctool.conversion.folding import fold_pooling
from nctool.conversion.replicas import replicas_by_name, stagger
from nctool.conversion.trace.tracing import trace
from nctool.errors import UsageError
from nctool.ir.network import IntegrateFire, IntNetwork, Population, Readout, Synapse
from nctool.reference.simulate import simulate
from nctool.reference.synapses import convolve, dense
from nctool_deploy.backends.backend import find_backend
from tests.support.networks import as_pixels, fire, read_out, signed_input
from tests.support.networks import dense as dense_synapse

POPULATION = find_backend("population").number_format
AUTAPSE = find_backend("autapse").number_format


def staggered(threshold: int, replicas: int) -> list[int]:
    return [threshold * (2 * replica + 1) // (2 * replicas) for replica in range(replicas)]


def counts(drive: int, threshold: int, replicas: int, n_steps: int) -> int:
    """Return the spikes of replicas that share a drive and a threshold."""
    together = np.ones((replicas, 1))
    population = fire(
        "a", dense_synapse("input", together), threshold=threshold, initial=staggered(threshold, replicas)
    )
    populations = (population, read_out(dense_synapse("a", together.T)))
    network = IntNetwork(signed_input(1), populations, n_steps)
    return int(simulate(network, as_pixels([[drive]])).logits[0, -1, 0])


@pytest.mark.parametrize(
    ("drive", "expected"), [(-9, 0), (0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (6, 2), (7, 3), (8, 3), (9, 4), (127, 4)]
)
def test_four_replicas_in_one_step_by_hand(drive, expected):
    """Threshold 10: the replicas start at 1, 3, 6 and 8, so they fire at drives of 9, 7, 4 and 2."""
    assert staggered(10, 4) == [1, 3, 6, 8]
    assert counts(drive, 10, 4, 1) == expected


@given(st.integers(-128, 127), st.integers(1, 300), st.integers(1, 6), st.integers(1, 5))
def test_replicas_count_like_steps(drive, threshold, replicas, n_steps):
    assert counts(drive, threshold, replicas, n_steps) == counts(drive, threshold, 1, replicas * n_steps)


# --- a network of them ----------------------------------------------------


def model(seed: int = 0) -> nn.Sequential:
    """Return a small net with groups, stride, pooling and a dense layer behind an image."""
    torch.manual_seed(seed)
    layers = nn.Sequential()
    layers.conv1 = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
    layers.act1 = NoisyQuantReLU(4, 1.0)
    layers.conv2 = nn.Conv2d(4, 4, (1, 3), groups=4)
    layers.act2 = NoisyQuantReLU(4, 0.6)
    layers.pool = nn.AvgPool2d(2)
    layers.flat = nn.Flatten()
    layers.fc = nn.Linear(4 * 2 * 1, 3)
    return layers.eval()


PIXELS = np.random.default_rng(1).integers(0, 256, (24, 2, 8, 8), np.uint8)


def converted(replicas, n_steps=1, number_format=POPULATION) -> IntNetwork:
    conversion = convert(
        model(),
        input_shape=(2, 8, 8),
        mean=(0.5,),
        std=(0.25,),
        number_format=number_format,
        n_steps=n_steps,
        calibration=PIXELS,
        replicas=replicas,
    )
    return conversion.network


def of_one_replica(population: Population, replicas: int) -> tuple[Synapse, np.ndarray, np.ndarray]:
    """Take the first copy of everything: all copies must hold the same."""
    synapse = population.synapses[0]
    weight, threshold = synapse.weight, getattr(population.neuron, "threshold", population.bias)
    for values in (weight, population.bias, threshold):
        np.testing.assert_array_equal(values, np.repeat(values[::replicas], replicas, axis=0))
    return synapse, population.bias[::replicas], threshold[::replicas]


def quantised_ann(network: IntNetwork, pixels: np.ndarray, replicas: int) -> np.ndarray:
    """Return the integer logits of the quantised ANN: floor(K z / theta + 1/2) levels, cut to 0..K, layer by layer.

    Copied channels are put together again: a level counts for so many spikes of weight w.
    """
    levels = network.pixel_input.encode(pixels).astype(np.int64)
    copies_in = 1
    for population in network.populations:
        copies = 1 if isinstance(population.neuron, Readout) else replicas
        synapse, bias, threshold = of_one_replica(population, copies)
        weight = synapse.weight[::copies].astype(np.int64)
        if synapse.conv is None:
            shape = (len(weight), levels.shape[1], copies_in, -1)
            weight = weight.reshape(shape)[:, :, 0].reshape(len(weight), -1)
            total = dense(levels, weight)
        else:
            total = convolve(levels, weight[:, ::copies_in], synapse.conv)
        total = total + bias.reshape(-1, *[1] * (total.ndim - 2))
        if isinstance(population.neuron, Readout):
            return total
        theta = threshold.reshape(-1, *[1] * (total.ndim - 2))
        levels, copies_in = np.clip((2 * replicas * total + theta) // (2 * theta), 0, replicas), replicas
    raise AssertionError("a network ends in a readout")


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
@pytest.mark.parametrize("number_format", [POPULATION, AUTAPSE], ids=["population", "autapse"])
def test_one_step_is_the_integer_quantised_ann(replicas, number_format):
    network = converted(replicas, number_format=number_format)
    trace = simulate(network, PIXELS)
    np.testing.assert_array_equal(trace.logits[:, 0], quantised_ann(network, PIXELS, replicas))
    assert len(np.unique(trace.logits)) > 10


def test_one_step_is_close_to_the_float_quantised_ann():
    """With as many replicas as levels: what is left is the rounding of weights and input."""
    network = converted(4)
    real = torch.from_numpy((PIXELS / 255 - 0.5) / 0.25).float()
    with torch.no_grad():
        wanted = model()(real).numpy()
    found = simulate(network, PIXELS).logits[:, 0] * network.readout.neuron.scale
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(wanted).std()


def test_replicas_differ_by_layer():
    network = converted({"conv2": 3}, n_steps=2, number_format=AUTAPSE)
    assert [population.shape for population in network.populations] == [(4, 4, 4), (12, 4, 2), (3,)]
    first, second, last = network.populations
    assert isinstance(second.neuron, IntegrateFire)
    theta = second.neuron.threshold
    assert second.neuron.initial.tolist() == [int(t) * (2 * (n % 3) + 1) // 6 for n, t in enumerate(theta)]
    assert isinstance(first.neuron, IntegrateFire)
    assert first.neuron.initial.tolist() == (first.neuron.threshold // 2).tolist()
    assert last.synapses[0].weight.shape == (3, 12 * 4 * 2)


def test_copies_behind_a_flattened_image_are_those_of_a_channel():
    copied = stagger(map_synapses(trace(model(), (2, 8, 8)), fold_pooling), {"conv2": 2})
    synapse = copied.populations[2].synapses[0]
    weight = synapse.repeat.spread(synapse.weight, synapse.source_shape).reshape(3, 4, 2, -1)
    np.testing.assert_array_equal(weight[:, :, 0], weight[:, :, 1])


@pytest.mark.parametrize(
    ("replicas", "text"),
    [
        ({"conv3": 2}, "replicas: no layer `conv3` that spikes, allowed conv1, conv2"),
        ({"fc": 2}, "replicas: no layer `fc` that spikes, allowed conv1, conv2"),
        ({"conv1": 0}, "replicas: 0 for `conv1`, allowed 1..64"),
        (65, "replicas: 65 for `conv1`, allowed 1..64"),
    ],
)
def test_replicas_that_are_refused(replicas, text):
    with pytest.raises(UsageError) as caught:
        replicas_by_name(trace(model(), (2, 8, 8)), replicas)
    assert str(caught.value) == text
