"""`prepare` turns a network of your own into one that trains and converts, and keeps its weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nctool import prepare
from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.activation.thresholds import images_fit
from nctool.conversion import convert
from nctool.errors import NctoolError, NctoolWarning, RangeError, UnsupportedError, UsageError
from nctool.reference.simulate import simulate
from nctool.training import Normalisation
from nctool.training.finetuning import window_logits
from nctool.training.images.data import LabelledImages
from nctool.training.noise import measure_held_out
from nctool_deploy.backends.backend import find_backend

IMAGES = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """As people write them: functions, one ReLU used twice, maximum pooling, a skip, a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(4 * 4 * 4, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.relu(self.norm(self.conv2(x)) + x)
        x = x.view(x.size(0), -1)
        return self.fc2(F.relu(self.fc1(x)))


def model(kind: type[nn.Module] = Functional) -> nn.Module:
    """Return a network whose batch norms have seen data."""
    torch.manual_seed(0)
    net = kind()
    net(IMAGES)
    return net.eval()


def run(function, *modules: nn.Module) -> nn.Module:
    """Return a network that ends in a linear layer behind `function`."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, padding=1)
            self.parts = nn.ModuleList(modules)
            self.fc = nn.Linear(function(self.conv(IMAGES), *modules).shape[1], 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(function(self.conv(x), *self.parts))

    torch.manual_seed(0)
    return Net().eval()


def test_every_use_of_an_activation_has_a_threshold_of_its_own():
    prepared = prepare(model(), IMAGES, levels=8)
    found = activations(prepared)
    assert list(found) == ["relu", "relu_2", "relu_3"]
    assert {layer.levels for layer in found.values()} == {8}
    assert len({float(layer.threshold.detach()) for layer in found.values()}) == 3
    assert not any(isinstance(module, nn.ReLU) for module in prepared.modules())


def test_maximum_pooling_stays_unless_averages_are_wanted():
    own = run(lambda x, pool: torch.flatten(pool(pool(F.relu(x))), 1), nn.MaxPool2d(2))
    assert list(pools(prepare(own, IMAGES))) == [("MaxPool2d", 2), ("MaxPool2d", 2)]
    assert list(pools(prepare(own, IMAGES, pooling="average"))) == [("AvgPool2d", (2, 2)), ("AvgPool2d", (2, 2))]


def pools(network: fx.GraphModule) -> Iterator[tuple[str, object]]:
    """Yield the class and the window of each pooling that is called."""
    called = (network.get_submodule(node.target) for node in network.graph.nodes if node.op == "call_module")
    for module in called:
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            yield type(module).__name__, module.kernel_size


@pytest.mark.parametrize("pooling", ["maximum", "average"])
def test_pooling_of_the_whole_image_becomes_a_module(pooling):
    for function in (lambda x: F.adaptive_max_pool2d(F.relu(x), 1), lambda x: F.relu(F.adaptive_max_pool2d(x, 1))):
        prepared = prepare(run(lambda x, of=function: torch.flatten(of(x), 1)), IMAGES, pooling=pooling)
        kind = nn.AdaptiveMaxPool2d if pooling == "maximum" else nn.AdaptiveAvgPool2d
        assert [type(m) for m in prepared.modules() if "Pool" in type(m).__name__] == [kind]


def test_weights_are_kept_and_shared():
    own = model()
    prepared = prepare(own, IMAGES)
    for name, parameter in own.named_parameters():
        assert prepared.get_parameter(name) is parameter
    assert isinstance(own.pool, nn.MaxPool2d)
    assert isinstance(own.relu, nn.ReLU)


def test_thresholds_are_percentiles_of_what_an_activation_lets_through():
    own = model()
    prepared = prepare(own, IMAGES, percentile=90.0)
    with torch.no_grad():
        before = own.conv1(IMAGES)
    expected = torch.quantile(before[before > 0], 0.9)
    torch.testing.assert_close(activations(prepared)["relu"].threshold.detach(), expected)


def test_with_many_levels_it_computes_what_the_model_did():
    """Only the rounding to 64 levels and the clipping differ, which a mean evens out more than a maximum does."""
    own = model()
    own.pool = nn.AvgPool2d(2)
    prepared = prepare(own, IMAGES, levels=64, percentile=100.0).eval()
    with torch.no_grad():
        wanted, found = own(IMAGES), prepared(IMAGES)
    assert float((found - wanted).abs().max()) < 0.05 * float(wanted.std())


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_it_trains_and_converts(reset):
    prepared = prepare(model(), IMAGES, reset=reset).train()
    before = prepared.get_parameter("conv1.weight").detach().clone()
    optimiser = torch.optim.SGD(prepared.parameters(), lr=0.1)
    F.cross_entropy(prepared(IMAGES), torch.arange(16) % 3).backward()
    optimiser.step()
    assert not torch.equal(prepared.get_parameter("conv1.weight"), before)
    assert all(layer.threshold.grad is not None for layer in activations(prepared).values())
    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, 8, 8), np.uint8)
    number_format = find_backend("autapse" if reset == "subtract" else "zero-reset").number_format
    network = convert(
        prepared.eval(),
        input_shape=(2, 8, 8),
        mean=(0.5,),
        std=(0.3,),
        number_format=number_format,
        n_steps=4,
        calibration=pixels,
    ).network
    assert [population.name for population in network.populations] == ["conv1", "pool", "conv2", "fc1", "fc2"]
    with in_mode(prepared, "spiking"):
        real = torch.from_numpy((pixels / 255 - 0.5) / 0.3).float()
        wanted = sum(prepared(real) for _ in range(4)).numpy() / 4
    found = simulate(network, pixels).logits[:, -1] * network.readout.neuron.scale
    assert np.abs(found - wanted).mean() < 0.5 * np.abs(wanted).std()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.flatten(x.relu(), 1),
        lambda x: torch.relu(x).flatten(1),
        lambda x: F.relu6(x).reshape(x.shape[0], -1),
        lambda x: F.relu(x, inplace=True).reshape(x.size(0), -1),
        lambda x: F.max_pool2d(F.relu(x), 2).view(x.size()[0], -1),
        lambda x: torch.flatten(F.max_pool2d(F.relu(x), kernel_size=2, stride=2), 1),
        lambda x: torch.flatten(F.avg_pool2d(F.relu(x), 4), 1),
        lambda x: torch.flatten(F.adaptive_avg_pool2d(F.relu(x), 1), 1),
        lambda x: F.relu(x).view(-1, 256),
        lambda x: F.relu(x).reshape((x.shape[0], 256)),
        lambda x: torch.flatten(F.adaptive_avg_pool2d(F.relu(x), x.size(2) // 2), 1),
        lambda x: torch.flatten(F.max_pool2d(F.relu(x), x.size(2)), 1),
        lambda x: F.relu(x).mean([2, 3]),
        lambda x: torch.mean(F.relu(x), dim=(-1, -2)),
        lambda x: F.relu(x).mean((2, 3), keepdim=True).flatten(1),
    ],
)
def test_functions_become_modules(function):
    own = run(function)
    prepared = prepare(own, IMAGES, levels=64, percentile=100.0)
    assert len(activations(prepared)) == 1
    with torch.no_grad():
        assert prepared.eval()(IMAGES).shape == own(IMAGES).shape


class PreActivation(nn.Module):
    """An activation in place changes what the skip carries, too."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc, self.in_place = nn.Linear(4 * 64, 3), in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = F.relu(x, inplace=True) if self.in_place else x.relu_()
        return self.fc(torch.flatten(F.relu(self.branch(out) + x), 1))


@pytest.mark.parametrize("in_place", [True, False])
def test_an_activation_in_place_is_seen_by_all_that_read_later(in_place):
    torch.manual_seed(0)
    own = PreActivation(in_place).eval()
    prepared = prepare(own, IMAGES, levels=64, percentile=100.0).eval()
    with torch.no_grad():
        wanted, found = own(IMAGES), prepared(IMAGES)
    assert len(activations(prepared)) == 2
    assert float((found - wanted).abs().mean()) < 0.05 * float(wanted.std())


def statement(y: Tensor, x: Tensor) -> Tensor:
    y.add_(x)
    return y


def into_itself(y: Tensor, x: Tensor) -> Tensor:
    torch.add(y, x, out=y)
    return y


def augmented(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return y


def alias(y: Tensor, x: Tensor) -> Tensor:
    before = y
    y.add_(x)
    return before


class Skip(nn.Module):
    """A sum that changes one of its terms, `where` that stands before an activation, or behind another."""

    def __init__(self, add, where: str) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc, self.add, self.where = nn.Linear(4 * 64, 3), add, where

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        branch = self.branch(x) if self.where == "before" else F.relu(self.branch(x))
        return self.fc(torch.flatten(F.relu(self.add(branch, x)), 1))


@pytest.mark.parametrize("add", [statement, into_itself, augmented, alias, lambda y, x: y.add_(x), lambda y, x: y + x])
@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_sum_in_place_is_a_sum(add, where):
    """Its result need not be read, and what is changed may be what an activation gave."""
    torch.manual_seed(0)
    own = Skip(add, where).eval()
    prepared = prepare(own, IMAGES)
    with torch.no_grad(), in_mode(prepared, "rectified"):
        assert torch.equal(prepared.eval()(IMAGES), own(IMAGES))
    torch.manual_seed(0)
    plain = prepare(Skip(lambda y, x: y + x, where).eval(), IMAGES)
    assert sigma(prepared) == sigma(plain)


def sigma(net: nn.Module) -> list[float]:
    """Return σ of every layer, in order."""
    images = (IMAGES * 40 + 128).clamp(0, 255).to(torch.uint8)
    held_out = LabelledImages(images, torch.zeros(len(images), dtype=torch.int64))
    return list(measure_held_out(net, held_out, Normalisation((0.5,) * 2, (0.25,) * 2), 2).sigma.values())


def times(y: Tensor) -> None:
    y *= 0.5


def minus(y: Tensor) -> None:
    y -= 0.5


def by(y: Tensor) -> None:
    y /= 2.0


@pytest.mark.parametrize(
    "change",
    [
        lambda net, y: net.same2(net.same(y)).add_(y),
        lambda net, y: (net.same(y), net.same2(y).add_(1.0)),
        lambda net, y: torch.flatten(net.drop(y), 1).add_(1.0),
        lambda net, y: F.dropout(y, 0.3, net.training).add_(1.0),
        lambda net, y: y[:, 0][:, 0].zero_(),
        lambda net, y: y.narrow(1, 0, 2).zero_(),
        lambda net, y: y.select(1, 0).add_(1.0),
        lambda net, y: y.swapaxes(2, 3).add_(1.0),
        lambda net, y: y.detach().add_(y),
        lambda net, y: y.data.add_(y),
        lambda net, y: y.contiguous().mul_(0.5),
        lambda net, y: times(y),
        lambda net, y: minus(y),
        lambda net, y: by(y),
        lambda net, y: F.relu(y, inplace=True),
        lambda net, y: net.relu(net.same(y)),
    ],
)
def test_no_change_in_place_is_lost(change):
    """Whatever is changed, through whichever name: the prepared network computes it, or it is refused."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.drop = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 * 64, 3), nn.Dropout(0.5)
            self.same, self.same2, self.relu = nn.Identity(), nn.Identity(), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            change(self, y)
            return self.fc(torch.flatten(F.relu(y), 1))

    own = model(Net)
    try:
        prepared = prepare(own, IMAGES)
    except UnsupportedError:
        return
    with torch.no_grad(), in_mode(prepared, "rectified"):
        assert torch.equal(prepared.eval()(IMAGES), own(IMAGES))


@pytest.mark.parametrize("replaced", [nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5, inplace=True)])
def test_a_hook_on_what_is_replaced_is_refused(replaced):
    own = run(lambda x, module: torch.flatten(F.relu(module(x)), 1), replaced)
    with_hook = own.parts[0].register_forward_hook(lambda module, given, output: output * 0.5)
    assert str(refusal(own)).startswith(f"module `parts.0` ({type(replaced).__name__} with the forward hook <lambda>)")
    with_hook.remove()


def test_a_pooling_that_nothing_reads_is_left_out():
    def unread(x: Tensor, pool: nn.Module) -> Tensor:
        x = F.relu(x)
        pool(x)
        return torch.flatten(x, 1)

    assert not list(pools(prepare(run(unread, nn.MaxPool2d(2)), IMAGES)))


def test_dropout_in_place_trains_as_a_spiking_network():
    own = run(lambda x, drop: torch.flatten(drop(F.relu(x)), 1), nn.Dropout(0.5, inplace=True)).train()
    prepared = prepare(own, IMAGES)
    window_logits(prepared, {}, IMAGES.expand(2, *IMAGES.shape)).sum().backward()
    assert all(parameter.grad is not None for parameter in prepared.parameters())


def test_an_activation_that_nothing_reads_is_left_out():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.aux = nn.Conv2d(2, 4, 3), nn.Linear(4 * 36, 3), nn.Linear(4 * 36, 3)
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = torch.flatten(self.relu(self.conv(x)), 1)
            self.relu(self.aux(x))
            return self.fc(x)

    assert list(activations(prepare(model(Auxiliary), IMAGES))) == ["relu"]


@pytest.mark.parametrize(("function", "kind"), [(F.dropout, nn.Dropout), (F.dropout2d, nn.Dropout2d)])
def test_functional_dropout_becomes_a_module(function, kind):
    own = run(lambda x: torch.flatten(F.relu(function(x, 0.25, training=False)), 1))
    (dropout,) = (m for m in prepare(own, IMAGES).modules() if isinstance(m, kind))
    assert dropout.p == 0.25


@pytest.mark.parametrize("module", [nn.Dropout(0.25, inplace=True), nn.Dropout2d(0.25, inplace=True)])
def test_dropout_in_place_is_no_longer_so(module):
    prepared = prepare(run(lambda x, drop: torch.flatten(drop(F.relu(x)), 1), module), IMAGES)
    (dropout,) = (m for m in prepared.modules() if type(m) is type(module))
    assert (dropout.p, dropout.inplace, module.inplace) == (0.25, False, True)


def test_an_activation_behind_maximum_pooling_comes_before_it():
    """As in many tutorials. Thresholds are then those of the pixels before they are pooled."""
    prepared = [
        prepare(run(function), IMAGES)
        for function in (
            lambda x: torch.flatten(F.relu(F.max_pool2d(x, 2)), 1),
            lambda x: torch.flatten(F.max_pool2d(F.relu(x), 2), 1),
        )
    ]
    with torch.no_grad():
        assert torch.equal(*(net(IMAGES) for net in prepared))
    behind = run(lambda x: torch.flatten(F.max_pool2d(x, 2), 1))  # but not where there is none
    assert "put nn.ReLU right before `max_pool2d`, and take away one behind it" in str(refusal(behind))


def test_averages_in_place_of_a_pooling_that_overlaps_have_windows_that_tile():
    own = run(lambda x, pool: torch.flatten(pool(F.relu(x)), 1), nn.MaxPool2d(3, stride=2, padding=1))
    pool = next(m for m in prepare(own, IMAGES, pooling="average").modules() if isinstance(m, nn.AvgPool2d))
    assert (pool.kernel_size, pool.stride, pool.padding) == ((2, 2), (2, 2), 0)


def test_a_model_that_is_prepared_already_stays_so():
    prepared = prepare(model(), IMAGES)
    thresholds = {name: layer.threshold for name, layer in activations(prepared).items()}
    again = prepare(prepared, IMAGES)
    assert {name: layer.threshold for name, layer in activations(again).items()} == thresholds


def test_the_mode_of_the_model_is_kept():
    assert prepare(model().train(), IMAGES).training
    assert not prepare(model(), IMAGES).training


def test_statistics_of_batch_norm_are_left_alone():
    own = model().train()
    before = own.norm.running_mean.clone()
    prepare(own, IMAGES)
    assert torch.equal(own.norm.running_mean, before)


# --- what is refused ------------------------------------------------------


def refusal(net: nn.Module, images: Tensor = IMAGES, **options) -> NctoolError:
    with pytest.raises(NctoolError) as caught:
        prepare(net, images, **options)
    return caught.value


def changed(x: Tensor, method, *arguments) -> Tensor:
    """Return a tensor that a statement has changed."""
    method(*arguments)
    return x


RELU = "hint: replace it by nn.ReLU, then nctool.prepare, and train again: a few epochs are enough (docs/OWN_MODEL.md)"
SUPPORTED = (
    "cannot be converted\n"
    "hint: supported are Conv2d, ConvTranspose2d, Linear, BatchNorm, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d, "
    "AdaptiveMaxPool2d, Upsample, PixelShuffle, Flatten, Dropout, NoisyQuantReLU, sums of branches, torch.cat of "
    "channels; through nctool.prepare also ReLU"
)
VIEWS = "hint: use what changes nothing: y = y + x instead of y += x, relu instead of relu_"
TILES = 'hint: keep the maximum: pooling="maximum", or use windows as large as the stride, without padding'


@pytest.mark.parametrize(
    ("function", "module", "text"),
    [
        (lambda x, a: torch.flatten(a(x), 1), nn.GELU(), f"module `parts.0` (GELU) cannot be converted\n{RELU}"),
        (
            lambda x: torch.flatten(F.relu(changed(x, x.mul_, 0.5)), 1),
            None,
            f"function `mul_` {SUPPORTED}",
        ),
        (
            lambda x: torch.flatten(F.relu(changed(x, x.clamp_, -1)), 1),
            None,
            "function `clamp_` (with lower bound -1, upper bound inf) cannot be converted\nhint: "
            "use nn.ReLU, nn.ReLU6 or nn.Hardtanh(0, a): a neuron sends no negative spikes",
        ),
        (
            lambda x: torch.flatten(F.relu(changed(x, torch.flatten(x, 1).add_, 1)), 1),
            None,
            f"function `add_` (in place, of a tensor with views) cannot be converted\n{VIEWS}",
        ),
        (
            lambda x, same: torch.flatten(F.relu(same(x) + changed(x, x.add_, x)), 1),
            nn.Identity(),
            f"function `add_` (in place, of a tensor with views) cannot be converted\n{VIEWS}",
        ),
        (
            lambda x: torch.flatten(F.adaptive_avg_pool2d(F.relu(x), 2 + x.size(0) % 2), 1),
            None,
            "function `adaptive_avg_pool2d` (of windows that depend on the image) cannot be converted\n"
            "hint: use nn.AdaptiveAvgPool2d(1)",
        ),
        (
            lambda x: torch.flatten(F.dropout(F.relu(x), x.size(2) / 16, training=False), 1),
            None,
            "function `dropout` (of rates that depend on the image) cannot be converted\nhint: use nn.Dropout(p)",
        ),
        (
            lambda x: torch.flatten(F.max_pool2d(F.relu(x), 2 + x.size(0) % 2), 1),
            None,
            "function `max_pool2d` (of windows that depend on the image) cannot be converted\n"
            "hint: use nn.AdaptiveMaxPool2d(1)",
        ),
        (lambda x: torch.flatten(F.leaky_relu(x), 1), None, f"function `leaky_relu` cannot be converted\n{RELU}"),
        (
            lambda x: torch.flatten(F.log_softmax(F.relu(x), 1), 1),
            None,
            "function `log_softmax` cannot be converted\n"
            "hint: return the logits, and let the loss take them: functional.cross_entropy",
        ),
        (
            lambda x, a: torch.flatten(a(F.max_pool2d(F.relu(x), 8)), 1),
            nn.AdaptiveAvgPool2d(7),
            "module `parts.0` (AdaptiveAvgPool2d of 1x1 to 7x7) cannot be converted\n"
            "hint: use nn.AdaptiveAvgPool2d(1), and 4 inputs for the nn.Linear behind it",
        ),
    ],
)
def test_what_has_no_form_is_named(function, module, text):
    error = refusal(run(function, *([module] if module else [])))
    assert isinstance(error, UnsupportedError)
    assert str(error) == text


@pytest.mark.parametrize(
    ("function", "module", "text"),
    [
        (
            lambda x, a: torch.flatten(a(F.relu(x)), 1),
            nn.MaxPool2d(3, ceil_mode=True),
            "pooling `parts.0` (kernel (3, 3), stride (3, 3), padding (0, 0)) of 8x8 gives 3x3, but the average over "
            f"its stride 2x2\n{TILES}",
        ),
        (
            lambda x: torch.flatten(F.max_pool2d(F.relu(x), 2, stride=1), 1),
            None,
            "pooling `max_pool2d` (kernel (2, 2), stride (1, 1), padding (0, 0)) of 8x8 gives 7x7, but the average "
            f"over its stride 8x8\n{TILES}",
        ),
        (
            lambda x, a: torch.flatten(a(F.relu(x)), 1),
            nn.MaxPool2d(4, stride=2),
            "pooling `parts.0` (kernel (4, 4), stride (2, 2), padding (0, 0)) of 8x8 gives 3x3, but the average over "
            f"its stride 4x4\n{TILES}",
        ),
    ],
)
def test_averages_of_other_shapes_than_the_maxima_are_refused(function, module, text):
    own = run(function, *([module] if module else []))
    assert str(refusal(own, pooling="average")) == text
    assert not any(isinstance(m, nn.AvgPool2d) for m in prepare(own, IMAGES).modules())  # the maximum converts


def test_what_becomes_of_maximum_pooling_is_one_of_two():
    assert refusal(model(), pooling="mean").message == "pooling: got 'mean', allowed: 'maximum', 'average'"


def test_a_pooling_that_conversion_cannot_fold_is_refused_before_training():
    def padded(x: Tensor, conv: nn.Module) -> Tensor:
        return torch.flatten(F.relu(conv(F.max_pool2d(F.relu(x), 3))), 1)

    error = refusal(run(padded, nn.Conv2d(4, 4, 3, padding=1)), pooling="average")
    assert str(error) == (
        "module `max_pool2d`: pooling (3, 3) stride (3, 3) of (8, 8) has no exact form before the padded convolution "
        "`parts.0`\n"
        "hint: let the pooling windows tile the image without remainder or overlap, or use padding=0 behind it"
    )


def test_a_branch_on_data_is_refused():
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    error = refusal(Branch())
    assert error.message == (
        "model `Branch`: its forward method depends on data at `return x if x.sum() > 0 else -x` "
        "(symbolically traced variables cannot be used as inputs to control flow)"
    )
    assert error.hint == "write the network as modules in a fixed order, for example nn.Sequential"


@pytest.mark.parametrize(
    ("images", "options", "text"),
    [
        (
            IMAGES.byte(),
            {},
            "images: got torch.uint8 (16, 2, 8, 8), allowed float (N, channels, height, width)\n"
            "hint: normalise them as in training: (pixels / 255 - mean) / std",
        ),
        (
            IMAGES.numpy(),
            {},
            "images: got ndarray, allowed a float tensor (N, channels, height, width)\n"
            "hint: torch.from_numpy(images).float() makes one of an array; normalise it as in training",
        ),
        (IMAGES[:0], {}, "images: got torch.float32 (0, 2, 8, 8), allowed float (N, channels, height, width)"),
        (
            IMAGES.index_fill(1, torch.tensor([1]), float("nan")),
            {},
            "images: hold nan, allowed finite numbers\nhint: a standard deviation of 0 divides by 0",
        ),
        (IMAGES, {"percentile": 0.0}, "percentile: 0.0 is out of range, allowed 0 < percentile <= 100"),
    ],
)
def test_bad_images(images, options, text):
    error = refusal(model(), images, **options)
    assert isinstance(error, UsageError)
    assert str(error) == text


@pytest.mark.parametrize(("given", "kind"), [("model.pt", "str"), ({}, "dict")])
def test_what_is_no_network(given, kind):
    error = refusal(given)
    assert isinstance(error, UsageError)
    assert str(error) == (
        f"model: got {kind}, allowed a torch.nn.Module\n"
        "hint: build the network, then load its weights: model.load_state_dict(torch.load(path))"
    )


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.* is deprecated:DeprecationWarning")
def test_a_network_in_compiled_code_is_refused():
    assert str(refusal(torch.jit.trace(model(), IMAGES))) == (
        "model: got TopLevelTracedModule, allowed a torch.nn.Module in Python\n"
        "hint: give the module that was scripted or traced: its forward method is read"
    )


def test_images_of_numpys_float_type_are_taken():
    wanted, found = (activations(prepare(model(), images)) for images in (IMAGES, IMAGES.double()))
    assert [layer.threshold for layer in found.values()] == [layer.threshold for layer in wanted.values()]


def test_images_of_another_size():
    error = refusal(model(), torch.randn(2, 2, 10, 10))
    assert isinstance(error, UsageError)
    assert error.message.startswith("images: (2, 2, 10, 10) do not fit the model (")


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (
            torch.randn(16, 8, 8, 1),
            "the channels stand behind the images' axis: give images.permute(0, 3, 1, 2), of an array "
            "images.transpose(0, 3, 1, 2)",
        ),
        (torch.randn(16, 8, 8), "the axis of the channels is missing: give images[:, None]"),
        (
            torch.randn(16, 3, 8, 8),
            "it takes more than one image, of the size that it is trained on; pooling windows must tile them",
        ),
    ],
)
def test_the_channels_of_images_stand_elsewhere(images, hint):
    error = refusal(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), images)
    assert isinstance(error, UsageError)
    assert error.message.startswith(f"images: {tuple(images.shape)} do not fit the model (given groups=1, weight of ")
    assert error.hint == hint


def test_the_result_shares_parameters_and_statistics():
    own = model()
    prepared = prepare(own, IMAGES)
    shared = {tensor.data_ptr() for tensor in prepared.state_dict().values()}
    assert {tensor.data_ptr() for tensor in own.state_dict().values()} <= shared


@pytest.mark.parametrize("failure", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_runs_out_is_not_the_images(monkeypatch, failure):
    def no_room(*_args):
        raise failure

    own = model()
    monkeypatch.setattr(type(own), "forward", no_room)
    with pytest.raises(type(failure)) as caught, images_fit(IMAGES):
        own(IMAGES)
    assert caught.value is failure


def test_images_are_called_what_the_caller_knows():
    with pytest.raises(UsageError) as caught, images_fit(IMAGES[:2, :, :3], "calibration images"):
        model()(IMAGES[:2, :, :3])
    assert caught.value.message.startswith(
        f"calibration images: {tuple(IMAGES[:2, :, :3].shape)} do not fit the model ("
    )


def test_an_activation_that_is_never_positive():
    own = model()
    nn.init.constant_(own.fc1.weight, 0.0)
    nn.init.constant_(own.fc1.bias, -1.0)
    error = refusal(own)
    assert isinstance(error, RangeError)
    assert error.message == "activation `relu_3`: is 0 on all 16 images, so it has no threshold"


def test_a_setting_of_the_activation_that_is_out_of_range():
    assert refusal(model(), levels=0).message == "activation `levels` is 0, allowed 1..64"


class Namesakes(nn.Module):
    """Its poolings have the names that torch.fx gives to the functions beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)
        self.max_pool2d, self.relu = nn.MaxPool2d(4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(F.relu(self.conv(x)))
        return self.fc(self.max_pool2d(F.max_pool2d(x, 2)).flatten(1))


def test_a_function_does_not_take_the_place_of_a_module_of_its_name():
    prepared = prepare(model(Namesakes), IMAGES)
    assert [type(prepared.relu), prepared.relu_2.levels] == [nn.Identity, 4]
    assert [prepared.max_pool2d.kernel_size, prepared.max_pool2d_2.kernel_size] == [4, 2]


def relu6_as_a_module(x: Tensor, act: nn.Module) -> Tensor:
    return torch.flatten(act(x), 1)


def relu6_as_a_function(x: Tensor) -> Tensor:
    return torch.flatten(F.relu6(x), 1)


@pytest.mark.parametrize(("function", "modules"), [(relu6_as_a_module, [nn.ReLU6()]), (relu6_as_a_function, [])])
def test_the_bound_of_relu6_is_kept(function, modules):
    own = run(function, *modules)
    nn.init.constant_(own.conv.bias, 100.0)
    (layer,) = activations(prepare(own, IMAGES)).values()
    assert layer.threshold.item() == 6.0


@pytest.mark.vision
def test_resnet18_of_torchvision():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    own = resnet18(num_classes=10).eval()
    with pytest.warns(NctoolWarning, match="batch norm `bn1` and 19 more: no data seen"):
        prepared = prepare(own, torch.randn(2, 3, 32, 32))
    names = list(activations(prepared))
    assert len(names) == 17
    assert names[:4] == ["relu", "layer1.0.relu", "layer1.0.relu_2", "layer1.1.relu"]
    assert isinstance(prepared.get_submodule("maxpool"), nn.MaxPool2d)
    assert all(isinstance(layer, NoisyQuantReLU) for layer in activations(prepared).values())


@pytest.mark.vision
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("googlenet", 64, {"aux_logits": False, "init_weights": False}),
        ("inception_v3", 96, {"aux_logits": False, "init_weights": False}),
        ("regnet_x_400mf", 32, {}),
    ],
)
def test_other_networks_of_torchvision_are_taken_as_they_are(name, size, options):
    import torchvision

    torch.manual_seed(0)
    own = getattr(torchvision.models, name)(num_classes=10, **options).eval()
    with pytest.warns(NctoolWarning, match="no data seen"):
        assert len(activations(prepare(own, torch.randn(2, 3, size, size)))) > 40
