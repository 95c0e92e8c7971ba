"""What never changes is held: it decides no scale, and no spike and no answer is another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import Change, Conversion, convert
from nctool.conversion.constants import Held, hold
from nctool.conversion.float_network import FloatNetwork, FloatPopulation, FloatSynapse
from nctool.ir.network import INPUT_NAME, ConvGeometry
from nctool.reference.simulate import simulate
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from nctool_deploy.backends.backend import find_backend
from tests.support.scales import thresholds

pytestmark = pytest.mark.usefixtures("one_thread")

ZERO = replace(AUTAPSE_FORMAT, reset="zero")
SIGNAL = (np.array([0.0]), np.array([1.0]))
"""One channel from 0 to 1."""


def synapse(weight, bias, source: str = INPUT_NAME) -> FloatSynapse:
    weight = np.asarray(weight, np.float64)
    return FloatSynapse("fc", source, (weight.shape[1],), weight, np.asarray(bias, np.float64), None)


def layer(weight, bias, threshold: float | None = 1.0, replicas: int = 1, source: str = INPUT_NAME) -> FloatPopulation:
    return FloatPopulation(
        "fc", (len(bias) * replicas,), (synapse(weight, bias, source),), thresholds(threshold, len(bias)), replicas
    )


def held(population: FloatPopulation, signal=SIGNAL, number_format=AUTAPSE_FORMAT, n_steps: int = 4):
    network, found = hold(FloatNetwork((1,), (population,)), signal, number_format, n_steps)
    return network.populations[0], found[population.name]


# --- by hand ------------------------------------------------------------


@pytest.mark.parametrize(
    ("number_format", "replicas", "largest_silent"),
    [
        (AUTAPSE_FORMAT, 1, 1 / 8),  # from 1/2, four steps of 1/8 reach the threshold
        (AUTAPSE_FORMAT, 2, 1 / 16),  # the second replica starts at 3/4
        (ZERO, 1, 1 / 4),
    ],
)
def test_a_channel_never_fires_below_what_reaches_the_threshold_in_the_window(number_format, replicas, largest_silent):
    low, high = [[0.05]], [largest_silent - 0.05]
    found, counted = held(layer(low, np.array(high) - 1e-6, replicas=replicas), number_format=number_format)
    assert counted == Held(never=replicas)
    assert not found.synapses[0].weight.any() and not found.bias.any()
    real = layer(low, np.array(high) + 1e-6, replicas=replicas)
    found, counted = held(real, number_format=number_format)
    assert counted == Held()
    np.testing.assert_array_equal(found.synapses[0].weight, low)


@pytest.mark.parametrize(
    ("number_format", "replicas", "least_firing"),
    [
        (AUTAPSE_FORMAT, 1, 7 / 8),  # 1/2 + 4 · 7/8 makes four thresholds
        (AUTAPSE_FORMAT, 2, 15 / 16),  # the first replica starts at 1/4
        (ZERO, 1, 1.0),
    ],
)
def test_a_channel_always_fires_from_what_reaches_the_threshold_at_every_step(number_format, replicas, least_firing):
    weight = [[0.05]]
    found, counted = held(layer(weight, [least_firing + 1e-6], replicas=replicas), number_format=number_format)
    assert counted == Held(always=replicas)
    assert not found.synapses[0].weight.any()
    assert found.bias.tolist() == [1.0]
    assert held(layer(weight, [least_firing - 1e-6], replicas=replicas), number_format=number_format)[1] == Held()


def test_all_synapses_of_a_sum_count():
    both = replace(
        layer([[3.0], [3.0]], [0.0, 0.0]), synapses=(synapse([[3.0], [3.0]], [1, 1]), synapse([[1.0], [1.0]], [-9, -3]))
    )
    found, counted = held(both)
    assert counted == Held(never=1)
    assert [s.weight.tolist() for s in found.synapses] == [[[0], [3]], [[0], [1]]]
    assert [s.bias.tolist() for s in found.synapses] == [[0, 1], [0, -3]]


def test_a_padded_convolution_may_see_nothing_of_an_input_that_is_never_0():
    convolution = FloatSynapse("c", INPUT_NAME, (1, 3, 3), np.full((1, 1, 3, 3), -1.0), np.array([4.0]), ConvGeometry())
    beside = (np.array([1.0]), np.array([2.0]))
    for padding, counted in (((0, 0), Held(never=1)), ((1, 1), Held())):
        size = 1 + 2 * padding[0]
        padded = replace(convolution, conv=ConvGeometry(padding=padding))
        assert held(FloatPopulation("c", (1, size, size), (padded,), thresholds(1.0, 1)), beside)[1] == counted


def test_weights_that_see_only_padding_or_silence_become_0():
    silent, loud = [0.0, -5.0], [0.0, 100.0]
    first = layer([[1.0], [1.0]], silent)
    behind = replace(layer([loud], [0.0], None, source="fc"), name="out")
    network, found = hold(FloatNetwork((1,), (first, behind)), SIGNAL, AUTAPSE_FORMAT, 4)
    assert found == {"fc": Held(never=1), "out": Held(unread=1)}
    assert not network.populations[1].synapses[0].weight.any()

    kernel = FloatSynapse("c", INPUT_NAME, (1, 1, 2), np.ones((1, 1, 3, 3)), np.zeros(1), ConvGeometry(padding=(1, 1)))
    population, counted = held(FloatPopulation("c", (1, 1, 2), (kernel,), thresholds(1.0, 1)))
    assert population.synapses[0].weight[0, 0].tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert counted == Held(unread=6)


@pytest.mark.parametrize(
    ("bias", "raised"),
    [
        ([0.0, -3.1, 1.0], {1: -2.0}),  # the others fill 0 .. 2
        ([0.0, -2.9, 1.0], {}),
        ([10.0, -50.0, 9.5], {1: -1.5}),  # 9.5 .. 11: as far below 9.5 as 11 is large
        ([4.0, 3.0, 0.0], {}),  # 3 .. 5: 1 is no less than 3 - 5
        ([0.0, 0.0, 0.0], {}),
    ],
)
def test_classes_far_below_the_answer_are_raised(bias, raised):
    real = layer([[1.0]] * 3, bias, None)
    found, counted = held(real)
    assert counted.raised == tuple(raised)
    for number, (wanted, weight) in enumerate(zip(bias, found.synapses[0].weight, strict=True)):
        assert found.bias[number] == raised.get(number, wanted)
        assert weight.tolist() == ([0] if number in raised else [1])


@pytest.mark.parametrize("bias", [[-1.0, 0.0], [-1e6, 0.0], [3.0, 4.0], [-1e6, 4.0]])
def test_a_logit_is_raised_to_no_tie(bias):
    """Both classes are constant: the lower index would win one."""
    found, _ = held(layer([[0.0], [0.0]], bias, None))
    assert found.bias[0] < found.bias[1]


# --- whole networks -----------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 2, 6, 6), dtype=np.uint8)


class Net(nn.Module):
    """Two convolutions and a skip, in float64; `change` is applied to it."""

    def __init__(self, change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.act0 = nn.Conv2d(2, 4, 3, padding=1), NoisyQuantReLU(4, 1.0)
        self.branch, self.act1 = nn.Conv2d(4, 4, 3, padding=1), NoisyQuantReLU(4, 1.0)
        self.head = nn.Linear(144, 3)
        with torch.no_grad():
            change(self)

    def forward(self, x):
        x = self.act0(self.stem(x))
        return self.head(self.act1(self.branch(x) + x).flatten(1))


def nothing(net: Net) -> None:
    """Leave the network as it is."""


def dead(net: Net) -> None:
    net.stem.bias[0] = -1000.0


def dead_for_real(net: Net) -> None:
    net.stem.bias[0], net.stem.weight[0] = 0.0, 0.0


def dead_with_large_weights(net: Net) -> None:
    """Also what reads the dead channel is large."""
    net.stem.weight[0] *= 1e6
    net.stem.bias[0], net.branch.weight[:, 0] = -1e9, 1e6


def saturated(net: Net) -> None:
    net.stem.bias[0] = 1000.0


def saturated_at_the_threshold(net: Net) -> None:
    net.stem.bias[0], net.stem.weight[0] = 1.0, 0.0


def converted(change, backend: str = "autapse", n_steps: int = 64, **options) -> Conversion:
    number_format = replace(find_backend(backend).number_format, **options.pop("number_format", {}))
    return convert(
        Net(change),
        input_shape=(2, 6, 6),
        mean=(0.5,),
        std=(0.25,),
        number_format=number_format,
        n_steps=n_steps,
        calibration=PIXELS,
        **options,
    )


WAYS = [
    {},
    {"n_steps": 4},
    {"input": "rate"},
    {"number_format": {"one_threshold": True}},
    {"number_format": {"weight_bits": 3}},
    {"replicas": 2, "n_steps": 2},
    {"backend": "population", "n_steps": 1, "replicas": 4},
    {"backend": "zero-reset", "n_steps": 8},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize(
    ("change", "same"),
    [(dead, dead_for_real), (dead_with_large_weights, dead_for_real), (saturated, saturated_at_the_threshold)],
)
def test_what_never_changes_takes_no_bit_from_the_others(change, same, options):
    found, wanted = converted(change, **options).network, converted(same, **options).network
    assert found == wanted
    channel = simulate(found, PIXELS).spikes["stem"][:, :, 0]
    assert channel.all() if change is saturated else not channel.any()


def test_the_change_is_told():
    (change,) = [each for each in converted(dead).changes if each.step.startswith("hold")]
    unread = 4 * 3 * 3 + 1  # of the kernels, and of the skip
    detail = f"`stem`: channels that never fire 1; `branch`: weights that see only padding or silence {unread}"
    assert change == Change("hold what never changes", detail, True)


def test_a_class_that_is_masked_leaves_the_bits_to_the_others():
    def masked(net: Net) -> None:
        net.head.bias[0] = -1e6

    conversion, beside = converted(masked), converted(nothing)
    raised = Change("raise logits", "of classes that are never the answer, `head`: 0", False)
    assert raised in conversion.changes
    found, wanted = (
        simulate(each.network, PIXELS).logits[:, -1] * each.network.readout.neuron.scale
        for each in (conversion, beside)
    )
    assert (found[:, 0] < found[:, 1:].min(axis=1)).all()
    assert np.abs(found[:, 1:] - wanted[:, 1:]).max() < 0.1 * wanted.std()


# --- in little memory -------------------------------------------------------------------------------------------------


def test_weights_of_which_none_is_held_are_not_copied():
    population = layer([[0.5], [-0.5]], [0.3, 0.2])
    found, counted = held(population)
    assert counted == Held()
    assert found.synapses[0].weight is population.synapses[0].weight


def test_channels_that_are_looked_at_a_few_at_a_time_are_held_all_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    conv = FloatSynapse(
        "c", INPUT_NAME, (4, 5, 5), rng.normal(size=(6, 2, 3, 3)), rng.normal(size=6), ConvGeometry(groups=2)
    )
    population = FloatPopulation("fc", (6, 3, 3), (conv,), thresholds(60.0, 6))
    signal = (np.array([0.0, -1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 2.0]))
    together = held(population, signal)
    monkeypatch.setattr("nctool.conversion.constants.AT_ONCE", 1)
    one_by_one = held(population, signal)
    assert together[1] == one_by_one[1] and together[1].never > 0
    np.testing.assert_array_equal(together[0].synapses[0].weight, one_by_one[0].synapses[0].weight)
