"""Skip connections: numbers worked out by hand, and corner cases against the float spiking network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion.trace.tracing import trace
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry
from nctool.recipe.schema import ActivationSettings, ResnetSettings
from nctool.reference.simulate import simulate
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import find_target
from nctool_models import build_model
from tests.support.torch_models import (
    Skip,
    binary_pixels,
    converted,
    exact_model,
    float_run,
    linear,
    on_both_engines,
    real_input,
    whole,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# --- by hand ------------------------------------------------------------


def test_a_skip_by_hand():
    """Branch 1/4 and identity 1 at a scale of 508 = 127·4: weights 127 and 127·2², threshold 508, bias -254.

    Where the source fires at every step, the drive is 127 + 508 - 254 = 381, and the potential before the spike
    254 + 381 = 635 → 127, 508 → 0, 381, 762 → 254: three spikes in four steps.
    """
    conversion = converted(Skip(linear([[1.0]]), linear([[0.25]], -0.5), linear([[2.0], [-1.0]])), (1,))
    _, branch, two = conversion.network.populations
    assert [(s.source, s.weight.tolist(), s.exponent) for s in branch.synapses] == [
        ("one", [[127]], 0),
        ("one", [[127]], 2),
    ]
    assert (branch.neuron.threshold.tolist(), branch.bias.tolist()) == ([508], [-254])
    assert (branch.bound.kind, branch.bound.low, branch.bound.high) == ("proved", -4 * 254, 507 + 381 - 254)
    found = simulate(conversion.network, np.array([[255], [0]], np.uint8), potentials=True)
    assert found.spikes["one"][:, :, 0].tolist() == [[True] * 4, [False] * 4]
    assert found.spikes["branch"][:, :, 0].tolist() == [[True, True, False, True], [False] * 4]
    assert found.logits[0].tolist() == [[127, -64], [254, -128], [254, -128], [381, -192]]
    assert found.logits[0, -1, 0] * two.neuron.scale == 1.5  # 2 · 3/4
    steps = [change for change in conversion.changes if "branch" in change.step]
    assert [change.step for change in steps] == ["round `branch` from `one`", "round `branch` from `one`"]
    bound = f"bound proved, head-room {branch.head_room_bits:.2f} bits"
    assert [change.detail for change in steps] == [
        f"weights 127..127 of 8 bits; {bound}",
        f"weights 127..127 times 4 of 8 bits; {bound}",
    ]
    assert [change.worst_error for change in steps] == [0.0, 0.0]


# --- corner cases -------------------------------------------------------


def test_a_skip_of_stride_two_takes_every_second_neuron():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    branch = nn.Conv2d(2, 2, 3, padding=1, stride=2)
    with torch.no_grad():
        branch.weight.zero_()
        branch.bias.zero_()
    one = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        one.weight.copy_(torch.tensor([0.7, 0.4]).reshape(2, 1, 1, 1))
    model = Skip(one, branch, head, (90.0, 90.0), skip=nn.AvgPool2d(1, stride=2))
    network = converted(model, (1, 5, 4)).network
    skip = network.populations[1].synapses[1]
    assert (skip.conv, network.populations[1].shape) == (ConvGeometry(stride=(2, 2), groups=2), (2, 3, 2))
    found = on_both_engines(network, np.random.default_rng(0).integers(0, 256, (3, 1, 5, 4), np.uint8))
    np.testing.assert_array_equal(found.spikes["branch"], found.spikes["one"][..., ::2, ::2])
    assert 0 < found.spikes["branch"].mean() < 1


def test_a_branch_of_zeros_leaves_the_skip():
    """The second layer then repeats the spikes of the first, whatever its own scale is."""
    model = Skip(linear([[1.0], [-1.0], [0.3]]), linear(np.zeros((3, 3))), linear(np.eye(3)), (90.0, 90.0))
    network = converted(model, (1,), n_steps=5).network
    assert not network.populations[1].synapses[0].weight.any()
    found = on_both_engines(network, np.array([[255], [100], [0]], np.uint8))
    np.testing.assert_array_equal(found.spikes["branch"], found.spikes["one"])
    assert found.spikes["one"][0].any(axis=0).tolist() == [True, False, True]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_source_that_never_fires_leaves_the_other_branch(bits):
    """The skip is silent, the branch has a bias: it alone makes the second layer fire."""
    model = Skip(linear([[-1.0]]), linear([[1.0]], 0.5), linear([[1.0]]))
    found = on_both_engines(converted(model, (1,), bits=bits).network, np.array([[255], [0]], np.uint8))
    assert not found.spikes["one"].any()
    assert found.spikes["branch"][:, :, 0].tolist() == [[True, False, True, False]] * 2


def test_a_network_of_silent_layers_is_converted():
    model = Skip(linear([[0.0]]), linear([[0.0]]), linear([[0.0], [0.0]]))
    found = on_both_engines(converted(model, (1,)).network, np.array([[255]], np.uint8))
    assert not any(spikes.any() for spikes in found.spikes.values())
    assert found.logits.tolist() == [[[0, 0]] * 4]


def test_one_time_step():
    model, shape = exact_model(3)
    network = converted(model, shape, n_steps=1).network
    pixels = binary_pixels(3, shape)
    found = on_both_engines(network, pixels)
    np.testing.assert_array_equal(found.logits, whole(float_run(model, real_input(pixels), 1)[1]))
    assert 0 < found.spikes["second.conv2"].mean() < 1


@pytest.mark.parametrize("thresholds", [(1.0, 300.0), (300.0, 1.0)])
def test_thresholds_far_apart(thresholds):
    """A spike is worth its own threshold: a skip into neurons 300 times as coarse, or as fine."""
    model = Skip(linear([[1.0], [2.0]]), linear([[0.1, -0.1], [0.2, 0.1]]), linear(np.eye(2)), thresholds)
    network = converted(model, (1,), n_steps=8).network
    pixels = np.arange(0, 256, 17, dtype=np.uint8)[:, np.newaxis]
    spikes = float_run(model, real_input(pixels), 8)[0]
    found = on_both_engines(network, pixels)
    assert (found.spikes["branch"] == spikes["act2"]).mean() > 0.95


def test_the_input_itself_may_skip():
    class FromInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act, self.two = linear([[0.5, 0.0], [0.0, 0.5]]), NoisyQuantReLU(4, 90.0), linear(np.eye(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.act(x + self.one(x)))

    model = FromInput()
    network = converted(model, (2,)).network
    assert [s.source for s in network.populations[0].synapses] == ["input", "input"]
    pixels = np.array([[0, 255], [100, 200]], np.uint8)
    np.testing.assert_array_equal(
        on_both_engines(network, pixels).spikes["one"], float_run(model, real_input(pixels), 4)[0]["act"]
    )


class Added(nn.Module):
    """x + act(conv(x)), twice, with no activation behind the sums; the input may come into the first."""

    def __init__(self, seed: int, *, from_input: bool) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.first, self.second, self.third = (self._conv(rng, each) for each in (True, from_input, False))
        self.acts = nn.ModuleList(NoisyQuantReLU(4, threshold) for threshold in (1.0, 2.0, 1.0))
        self.pool, self.flatten = nn.AvgPool2d(2), nn.Flatten()
        self.head, self.from_input = linear(rng.integers(-1, 2, (3, 8))), from_input

    @staticmethod
    def _conv(rng: np.random.Generator, reads_input: bool) -> nn.Conv2d:
        """Return a convolution of one value; of pixels, one weight a channel: more would not fit without rounding."""
        conv = nn.Conv2d(2, 2, 3, padding=1, bias=False).double()
        weight = np.zeros((2, 2, 3, 3)) if reads_input else rng.integers(-1, 2, (2, 2, 3, 3))
        if reads_input:
            weight[(0, 1), rng.permutation(2), 1, 1] = 1
        conv.weight = nn.Parameter(torch.from_numpy(weight / 2))
        return conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.acts[0](self.first(x))
        x = x + spikes if self.from_input else spikes
        x = x + self.acts[1](self.second(x))
        x += self.acts[2](self.third(x))
        return self.head(self.flatten(self.pool(x)))


@pytest.mark.parametrize("from_input", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_added_spikes_drive_every_layer_that_reads_them(seed, from_input):
    """As in the float network, which adds them: weights of one value and thresholds of powers of two are exact."""
    model = Added(seed, from_input=from_input).eval()
    conversion = converted(model, (2, 4, 4))
    sources = [[synapse.source for synapse in each.synapses] for each in conversion.network.populations]
    start = ["input"] if from_input else []
    assert sources == [["input"], [*start, "first"], [*start, "first", "second"], [*start, "first", "second", "third"]]
    pixels = binary_pixels(seed, (2, 4, 4))
    spikes, logits = float_run(model, real_input(pixels), 4)
    found = on_both_engines(conversion.network, pixels)
    exact = ("first", "second") if from_input else ("first", "second", "third")  # what sums up pixels is rounded
    for name, act in zip(exact, spikes, strict=False):
        np.testing.assert_array_equal(found.spikes[name], spikes[act])
        assert found.spikes[name].any()
    if not from_input:
        mean = found.logits * conversion.network.readout.neuron.scale  # over the window
        np.testing.assert_allclose(mean, logits / 4, rtol=1e-12, atol=1e-9)


def test_added_spikes_may_be_normalised_but_not_joined():
    class Behind(nn.Module):
        def __init__(self, behind: str) -> None:
            super().__init__()
            self.one, self.two = linear(np.eye(2)), linear(np.eye(2))
            self.act, self.norm, self.last = NoisyQuantReLU(4, 1.0), nn.BatchNorm1d(2).double(), NoisyQuantReLU(4, 1.0)
            self.out, self.behind = linear(np.ones((2, 4 if behind == "cat" else 2))), behind

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.act(self.one(x))
            return self.out(self.last(self.norm(x)) if self.behind == "norm" else torch.cat([x, x], 1))

    network = converted(Behind("norm").eval(), (2,)).network
    assert [(each.name, len(each.synapses)) for each in network.populations] == [("one", 1), ("add", 2), ("out", 1)]
    with pytest.raises(UnsupportedError) as caught:
        trace(Behind("cat"), (2,))
    assert str(caught.value) == (
        "function `cat`: joins `add` with no activation between them\n"
        "hint: put nn.ReLU right before `cat`, then nctool.prepare, and train again"
    )


def test_a_residual_network_of_the_zoo_is_converted_and_lowered():
    model = build_model(ResnetSettings(architecture="resnet", depth=8), (1, 6, 5), 3, ActivationSettings())
    network = converted(model, (1, 6, 5), std=0.3).network
    skips = {p.name: [s.source for s in p.synapses] for p in network.populations if len(p.synapses) > 1}
    assert skips == {
        "block1.conv2": ["block1.conv1", "conv1"],
        "block2.conv2": ["block2.conv1", "block1.conv2"],
        "block3.conv2": ["block3.conv1", "block2.conv2"],
    }
    on_both_engines(network, np.random.default_rng(0).integers(0, 256, (2, 1, 6, 5), np.uint8))
    assert lower(network, find_target("lava")).network is network
