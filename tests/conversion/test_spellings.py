"""The many ways in which people write a network for images: each becomes the same populations.

`prepare` compares what it reads with what the network computes: the rewritten network with the one that was given, and
the drive of each population with that of its activation.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nctool import prepare
from nctool.activation.noisy_quant import activations
from nctool.conversion.trace.tracing import trace
from nctool.errors import NctoolWarning, UnsupportedError

IMAGES = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(16, 2, 12, generator=torch.Generator().manual_seed(0))
BOUND = "use nn.ReLU, nn.ReLU6 or nn.Hardtanh(0, a): a neuron sends no negative spikes"


class Net(nn.Module):
    """A convolution, `function` with modules, a linear layer, and `end`."""

    def __init__(self, function, modules=(), end=None, images: Tensor = IMAGES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1) if images.ndim == 4 else nn.Conv1d(2, 4, 3, padding=1)
        self.parts = nn.ModuleList(modules)
        self.function, self.end = function, end
        self.fc = nn.Linear(function(self.conv(images), *modules).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.function(self.conv(x), *self.parts))
        return x if self.end is None else self.end(x)


def prepared(function, *modules: nn.Module, images: Tensor = IMAGES, end=None) -> nn.Module:
    return prepare(Net(function, modules, end, images).eval(), images, levels=64, percentile=100.0).eval()


def pools(net: nn.Module, images: Tensor = IMAGES) -> list[tuple]:
    """Return kernel, divisor and source of what is pooled before the last layer."""
    last = trace(net, tuple(images.shape[1:])).populations[-1]
    return [(pool.kernel, pool.divisor, pool.source) for pool in last.synapses[0].pools]


def seen(norm: nn.Module) -> nn.Module:
    """Return a batch norm that has seen data."""
    norm(torch.randn(8, 4, 12) + 1.0)
    return norm.eval()


def sized(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c * h * w)


# --- from images to features ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, start_dim=1, end_dim=3),
        lambda x: x.flatten(-3),
        lambda x: x.flatten(2).flatten(1),
        lambda x: x.reshape(len(x), -1),
        sized,
        lambda x: x.view(x.size(0), x.size(1) * x.size(2) * x.size(3)),
        lambda x: x.reshape(x.shape[0], x.numel() // x.shape[0]),
        lambda x: x.reshape(-1, 4 * 8 * 8),
        lambda x: torch.reshape(x, (x.shape[0], -1)),
        lambda x: x.contiguous().view(x.size()[0], -1),
        lambda x: x.unsqueeze(1).flatten(1),
        lambda x: x.view(x.size(0), -1).view(x.size(0), 4, 8, 8).flatten(1),
    ],
)
def test_every_way_to_flatten_is_flattening(function):
    net = prepared(lambda x: function(F.relu(x)))
    (into,) = trace(net, (2, 8, 8)).populations[-1].synapses
    assert (into.source_shape, into.pools, into.weight.shape) == ((4, 8, 8), (), (3, 256))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean([2, 3]),
        lambda x: x.mean((-2, -1)),
        lambda x: torch.mean(x, dim=(3, 2)),
        lambda x: x.mean(3).mean(2),
        lambda x: x.mean(2).mean(2),
        lambda x: x.mean(-1).mean(-1),
        lambda x: x.flatten(2).mean(2),
        lambda x: x.view(x.size(0), x.size(1), -1).mean(-1),
        lambda x: x.mean((2, 3), keepdim=True).flatten(1),
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(),
        lambda x: F.adaptive_avg_pool2d(x, (1, 1)).squeeze(-1).squeeze(-1),
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2),
        lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0],
        lambda x: F.adaptive_avg_pool2d(x, 1)[..., 0, 0],
        lambda x: F.avg_pool2d(x, x.size()[2:]).view(x.size(0), -1),
        lambda x: F.avg_pool2d(x, x.shape[-1]).flatten(1),
        lambda x: F.avg_pool2d(x, kernel_size=(x.shape[2], x.shape[3])).flatten(1),
    ],
)
def test_every_mean_over_the_image_is_a_pooling(function):
    found = pools(prepared(lambda x: function(F.relu(x))))
    high, wide = (math.prod(kernel[axis] for kernel, _, _ in found) for axis in (0, 1))
    assert (high, wide, math.prod(divisor for _, divisor, _ in found)) == (8, 8, 64)


def test_a_sum_over_the_image_is_a_pooling_that_does_not_divide():
    assert pools(prepared(lambda x: F.relu(x).sum((2, 3)))) == [((8, 8), 1, (4, 8, 8))]


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mean_over_one_axis_pools_along_it(axis):
    kernel = (8, 1) if axis == 2 else (1, 8)
    assert pools(prepared(lambda x: F.relu(x).mean(axis).flatten(1))) == [(kernel, 8, (4, 8, 8))]


@pytest.mark.parametrize(
    ("function", "modules"),
    [
        (lambda x: x.amax((2, 3)), ()),
        (lambda x: torch.amax(x, [3, 2], keepdim=True).flatten(1), ()),
        (lambda x, pool: pool(x).flatten(1), (nn.AdaptiveMaxPool2d(1),)),
        (lambda x: F.adaptive_max_pool2d(x, 1).flatten(1), ()),
        (lambda x: F.max_pool2d(x, x.shape[2:]).flatten(1), ()),
    ],
)
def test_every_maximum_over_the_image_is_one_pooling(function, modules):
    net = prepared(lambda x, *parts: function(F.relu(x), *parts), *modules)
    _, largest, _ = trace(net, (2, 8, 8)).populations
    assert (largest.maximum, largest.shape, largest.synapses[0].weight.shape) == (True, (4, 1, 1), (4, 1, 8, 8))
    own = Net(lambda x, *parts: function(F.relu(x), *parts), modules)
    assert pools(prepare(own.eval(), IMAGES, pooling="average")) == [((8, 8), 64, (4, 8, 8))]


@pytest.mark.parametrize("function", [lambda x: x.mean(1), lambda x: x.mean((1, 2, 3)), lambda x: x.mean((0, 2, 3))])
def test_a_mean_over_channels_or_samples_is_refused(function):
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(36, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            return self.fc(x.flatten(1)[:, :36] + function(x).sum())

    with pytest.raises(UnsupportedError, match="function `mean` cannot be converted"):
        prepare(Mean(), IMAGES)


# --- activations with a bound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "modules", "bound"),
    [
        (lambda x: x.clamp(min=0), (), None),
        (lambda x: torch.clamp_min(x, 0.0), (), None),
        (F.relu6, (), 6.0),
        (lambda x, act: act(x), (nn.ReLU6(),), 6.0),
        (lambda x, act: act(x), (nn.Hardtanh(0, 0.25),), 0.25),
        (lambda x: F.hardtanh(x, 0, 0.25), (), 0.25),
        (lambda x: F.hardtanh(x, min_val=0.0, max_val=0.25), (), 0.25),
        (lambda x: torch.clamp(x, 0, 0.25), (), 0.25),
        (lambda x: x.clamp(min=0, max=0.25), (), 0.25),
        (lambda x: x.clamp_(0, 0.25), (), 0.25),
        (lambda x: torch.clip(x, 0.0, 0.25), (), 0.25),
    ],
)
def test_a_bound_is_kept_and_no_threshold_is_above_it(function, modules, bound):
    net = prepared(lambda x, *parts: function(x, *parts).flatten(1), *modules)
    (layer,) = activations(net).values()
    threshold = float(layer.threshold.detach())
    assert threshold <= (bound or threshold)
    assert (threshold == 0.25) == (bound == 0.25)


@pytest.mark.parametrize(
    ("function", "modules", "text"),
    [
        (lambda x, act: act(x), (nn.Hardtanh(),), "module `parts.0` (Hardtanh) (with lower bound -1, upper bound 1)"),
        (lambda x: torch.clamp(x, 0.5), (), "function `clamp` (with lower bound 0.5, upper bound inf)"),
        (lambda x: x.clamp(max=1.0), (), "function `clamp` (with no lower bound, upper bound 1)"),
    ],
)
def test_a_lower_bound_other_than_0_is_refused(function, modules, text):
    with pytest.raises(UnsupportedError) as caught:
        prepared(lambda x, *parts: function(x, *parts).flatten(1), *modules)
    assert str(caught.value) == f"{text} cannot be converted\nhint: {BOUND}"


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        lambda x: F.log_softmax(x, dim=1),
        lambda x: F.softmax(x, -1),
        lambda x: torch.softmax(x, 1),
        lambda x: x.log_softmax(1),
        nn.LogSoftmax(dim=1),
        nn.Softmax(dim=-1),
    ],
)
def test_a_softmax_behind_the_logits_is_left_out_and_said(end):
    own = Net(lambda x: F.relu(x).flatten(1), end=end).eval()
    with pytest.warns(NctoolWarning, match="behind the logits is left out: it keeps their order"):
        net = prepare(own, IMAGES, levels=64, percentile=100.0)
    assert trace(net, (2, 8, 8)).populations[-1].shape == (3,)
    assert net.eval()(IMAGES).sum(1).abs().max() > 1e-3


def test_a_softmax_elsewhere_is_refused():
    with pytest.raises(UnsupportedError, match="function `softmax` cannot be converted"):
        prepared(lambda x: F.softmax(F.relu(x).flatten(1), 1))


# --- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (0, 1, 0, 1), (2, 0, 1, 3), (0, 0, 2, 1)])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 5, 3),
        nn.Conv2d(4, 5, (3, 2), stride=(2, 1), padding=(0, 1), bias=False),
        nn.Conv2d(4, 4, 2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, dilation=(3, 2)),
    ],
)
@pytest.mark.parametrize("as_module", [True, False])
def test_zeros_go_into_the_convolution_behind_them(widths, conv, as_module):
    if as_module:
        prepared(lambda x, pad, conv: F.relu(conv(pad(F.relu(x)))).flatten(1), nn.ZeroPad2d(widths), conv)
    else:
        prepared(lambda x, conv: F.relu(conv(F.pad(F.relu(x), widths))).flatten(1), conv)


def test_zeros_of_two_paddings_add_up():
    net = prepared(
        lambda x, one, two, conv: F.relu(conv(two(one(F.relu(x))))).flatten(1),
        nn.ConstantPad2d((1, 0, 0, 0), 0.0),
        nn.ZeroPad2d(1),
        nn.Conv2d(4, 5, 3, padding=1),
    )
    (into,) = trace(net, (2, 8, 8)).populations[1].synapses
    assert into.conv is not None
    assert (into.conv.padding, into.weight.shape) == ((2, 3), (5, 4, 3, 4))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kernel", [(2, 2), (4, 3), (1, 6)])
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)])
def test_same_padding_of_even_kernels(kernel, dilation):
    conv = nn.Conv2d(4, 5, kernel, padding="same", dilation=dilation)
    net = prepared(lambda x, conv: F.relu(conv(F.relu(x))).flatten(1), conv)
    assert trace(net, (2, 8, 8)).populations[1].shape == (5, 8, 8)


def test_zeros_go_into_average_pooling():
    net = prepared(lambda x, pad, pool: pool(pad(F.relu(x))).flatten(1), nn.ZeroPad2d(1), nn.AvgPool2d(2))
    assert trace(net, (2, 8, 8)).populations[-1].synapses[0].pools[0].padding == (1, 1)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: F.pad(F.relu(x), (1, 1)).flatten(1), "`flatten`: follows padding with zeros, allowed before"),
        (lambda x: F.pad(F.relu(x), (1, 1), value=1.0).flatten(1), "(with something else than zeros)"),
        (lambda x: F.pad(F.relu(x), (1, 1, 1, 1), mode="reflect").flatten(1), "(with something else than zeros)"),
        (lambda x: F.pad(F.relu(x), (0, 0, 1, 1, 1, 1)).flatten(1), "(of other axes than height and width)"),
        (lambda x: F.pad(F.relu(x), (-1, 0)).flatten(1), "(ZeroPad2d with something else than zeros)"),
        (lambda x: F.avg_pool2d(F.pad(F.relu(x), (1, 0)), (2, 3)).flatten(1), "behind more zeros on one side"),
    ],
)
def test_other_padding_is_refused(function, text):
    with pytest.raises(UnsupportedError) as caught:
        prepared(function)
    assert text in caught.value.message


@pytest.mark.parametrize("widths", [(0, 1, 0, 1), (1, 2, 0, 1)])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(2, 1, 0, 2)])
def test_zeros_go_into_maximum_pooling(widths, pool):
    net = prepared(lambda x, pad, pool: pool(pad(F.relu(x))).flatten(1), nn.ZeroPad2d(widths), pool)
    assert trace(net, (2, 8, 8)).populations[1].maximum


def test_a_shortcut_that_skips_pixels_and_adds_channels_of_zeros():
    """As in ResNets for small images: the skip has no weights."""

    def block(x: Tensor, conv: nn.Module) -> Tensor:
        x = F.relu(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        return F.relu(conv(x) + shortcut).flatten(1)

    net = prepared(block, nn.Conv2d(4, 8, 3, stride=2, padding=1))
    _, summed, _ = trace(net, (2, 8, 8)).populations
    assert (summed.shape, [synapse.weight.shape for synapse in summed.synapses]) == (
        (8, 4, 4),
        [(8, 4, 3, 3), (8, 4, 1, 1)],
    )


# --- sequences --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("function", "modules"),
    [
        (lambda x: F.relu(x).flatten(1), ()),
        (lambda x: F.relu(x).mean(2), ()),
        (lambda x: F.relu(x).mean(dim=-1), ()),
        (lambda x, norm: F.relu(norm(x)).sum(2), (seen(nn.BatchNorm1d(4)),)),
        (lambda x, pool: pool(F.relu(x)).squeeze(-1), (nn.AdaptiveAvgPool1d(1),)),
        (lambda x, pool, conv: F.relu(conv(pool(F.relu(x)))).flatten(1), (nn.AvgPool1d(2), nn.Conv1d(4, 5, 3))),
        (lambda x, pool: pool(F.relu(x)).flatten(1), (nn.MaxPool1d(3, 2, 1, ceil_mode=True),)),
        (lambda x, pool: F.relu(pool(x)).squeeze(2), (nn.AdaptiveMaxPool1d(1),)),
        (lambda x: F.max_pool1d(F.relu(x), 2).flatten(1), ()),
        (lambda x: F.avg_pool1d(F.relu(x), 4, 2).flatten(1), ()),
        (lambda x: F.adaptive_avg_pool1d(F.relu(x), 3).flatten(1), ()),
        (lambda x: F.relu(x).amax(2), ()),
        (lambda x, conv: F.relu(conv(F.pad(F.relu(x), (2, 0)))).flatten(1), (nn.Conv1d(4, 5, 3, dilation=2),)),
        (lambda x, conv: F.relu(conv(F.relu(x))).flatten(1), (nn.Conv1d(4, 4, 4, padding="same", groups=2),)),
        (lambda x: torch.cat([F.relu(x), F.relu6(x)], -2).flatten(1), ()),
        (lambda x, conv: F.relu(x + conv(F.relu(x))).flatten(1), (nn.Conv1d(4, 4, 1),)),
    ],
)
def test_sequences_are_images_of_height_1(function, modules):
    net = prepared(function, *modules, images=SEQUENCES)
    network = trace(net, (2, 12))
    assert network.input_shape == (2, 1, 12)
    assert network.populations[0].shape == (4, 1, 12)
    assert trace(net, (2, 1, 12)).populations[-1].synapses[0].pools == network.populations[-1].synapses[0].pools


@pytest.mark.parametrize("function", [lambda x: x.flatten(2), lambda x: x.squeeze(2), lambda x: x[:, :, 0]])
def test_images_of_height_1_may_become_sequences(function):
    """So that `nctool.train`, whose images have a height, trains a network of sequences."""

    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(function(x))).mean(2))

    net = prepare(Sequences().eval(), SEQUENCES[:, :, None])
    assert trace(net, (2, 1, 12)).populations[0].shape == (4, 1, 12)
