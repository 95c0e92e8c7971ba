"""Maximum pooling on its way from a torch module to integers: the OR of spikes, exactly (rules M1 and M2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.activation.rectifier import Rectifier
from nctool.conversion import Conversion, convert
from nctool.conversion.fidelity import FloatSpikes, measure_fidelity
from nctool.conversion.trace.compare_runs import require_same_network
from nctool.conversion.trace.tracing import trace
from nctool.errors import UnsupportedError, UsageError
from nctool.fast.engine import FastEngine
from nctool.ir.network import IntegrateFire
from nctool.reference.simulate import simulate
from nctool_deploy.backends.backend import find_backend
from tests.support.networks import seeds
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 2, 8, 8), np.uint8)
SHAPE = (2, 8, 8)


def images(pixels: np.ndarray = PIXELS) -> Tensor:
    return torch.from_numpy((pixels / 255 - 0.5) / 0.25).float()


def net(*behind: nn.Module, channels: int = 4, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> nn.Module:
    """Return convolution, activation, `behind`, and a linear layer."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(shape[0], channels, 3, padding=1), NoisyQuantReLU(4, 1.5), *behind, nn.Flatten())
    features = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*body, nn.Linear(features, 3)).eval()


def converted(model: nn.Module, backend: str = "autapse", n_steps: int = 1, pixels: np.ndarray = PIXELS, **options):
    return convert(
        model,
        input_shape=pixels.shape[1:],
        mean=(0.5,),
        std=(0.25,),
        number_format=find_backend(backend).number_format,
        n_steps=n_steps,
        calibration=pixels,
        **options,
    )


def float_counts(conversion: Conversion, reset: str, n_steps: int, pixels: np.ndarray = PIXELS) -> tuple:
    return FloatSpikes.prepare(conversion.real, conversion.encoded, reset, n_steps).run(pixels)


# --- what it becomes ----------------------------------------------------


def test_a_maximum_is_a_population_named_by_its_module():
    network = trace(net(nn.MaxPool2d(3, stride=2, padding=1)), SHAPE)
    assert [population.name for population in network.populations] == ["0", "2", "4"]
    first, top, last = network.populations
    assert (top.maximum, top.shape, top.threshold is first.threshold) == (True, (4, 4, 4), True)
    assert (top.synapses[0].source, last.synapses[0].source) == ("0", "2")


@given(seeds)
def test_any_window_of_torch_looks_at_what_torch_looks_at(seed):
    """Overlap, padding, dilation, ceil_mode: equal numbers, whatever torch gives that is not of padding alone."""
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 12, 2).tolist())
    kernel, stride = rng.integers(1, 5, 2).tolist(), rng.integers(1, 5, 2).tolist()
    dilation = rng.integers(1, 4, 2).tolist()
    padding = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=bool(rng.integers(2)))
    values = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed % 2**31))
    try:
        wanted = pool(values)
    except RuntimeError:  # no window fits
        assume(False)
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1), NoisyQuantReLU(4, 1.0), pool, nn.Flatten(), nn.Linear(wanted[0].numel(), 2)
    )
    if wanted.isinf().any():
        assert "reaches beyond the padded image" in str(refused(UnsupportedError, trace, model, (3, *size)))
        return
    network = trace(model.eval(), (3, *size))
    require_same_network(model, network, values.double())
    if len(network.populations) == 2:
        assert torch.equal(wanted, values)
        return
    (synapse,) = network.populations[1].synapses
    conv, taps = synapse.conv, synapse.weight[0, 0].astype(bool)
    windows = torch.nn.functional.unfold(
        values.reshape(6, 1, *size), taps.shape, conv.dilation, conv.padding, conv.stride
    )
    assert torch.equal(windows[:, taps.reshape(-1)].amax(1).reshape(wanted.shape), wanted)
    assert network.populations[1].shape == wanted.shape[1:]


@pytest.mark.parametrize("backend", ["autapse", "population", "zero-reset"])
def test_the_integers_of_a_maximum(backend):
    conversion = converted(net(nn.MaxPool2d(2)), backend)
    top = conversion.network.populations[1]
    assert top.is_maximum
    assert (top.bound.kind, top.bound.low, top.bound.high) == ("proved", 0, 4)
    assert top.synapses[0].weight.shape == (4, 1, 2, 2)
    assert conversion.replicas == {"0": 1}
    steps = {change.step: change.detail for change in conversion.changes}
    assert steps["take maxima"] == "2: a neuron fires where one of its window does"
    assert "round `2`" not in steps


def test_over_several_steps_the_changes_say_what_a_maximum_is():
    details = [change.detail for change in converted(net(nn.MaxPool2d(2)), n_steps=3).changes]
    assert any(detail.endswith("which over several steps is at least the largest count") for detail in details)


# --- the law ------------------------------------------------------------


@given(seeds, st.integers(1, 6))
def test_in_one_step_the_units_of_a_maximum_are_the_maximum_of_the_units(seed, replicas):
    rng = np.random.default_rng(seed)
    kernel = int(rng.integers(2, 4))
    pool = nn.MaxPool2d(kernel, int(rng.integers(1, 4)), int(rng.integers(2)), ceil_mode=bool(rng.integers(2)))
    conversion = converted(net(pool, seed=seed), replicas=replicas)
    first, top, _ = conversion.network.populations
    assert top.shape[0] == first.shape[0] == 4 * replicas
    spikes = simulate(conversion.network, PIXELS).spikes
    each = torch.from_numpy(spikes["0"][:, 0].astype(np.float64))
    np.testing.assert_array_equal(spikes["2"][:, 0], pool(each).numpy() > 0)
    counts, pooled = (by_activation(spikes[name], replicas) for name in ("0", "2"))
    np.testing.assert_array_equal(pooled, pool(torch.from_numpy(counts)).numpy())


def by_activation(spikes: np.ndarray, replicas: int) -> np.ndarray:
    samples, _, channels, *size = spikes.shape
    return spikes[:, 0].reshape(samples, channels // replicas, replicas, *size).sum(2).astype(np.float64)


def test_in_one_step_as_many_replicas_as_levels_are_the_quantised_network():
    """The population code: what the float network counts is the activation itself, behind maxima too."""
    model = net(nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), NoisyQuantReLU(4, 0.8), nn.MaxPool2d(2, ceil_mode=True))
    conversion = converted(model, "population", replicas=4)
    counts, logits = float_counts(conversion, "subtract", 1)
    seen: dict[str, Tensor] = {}
    for name, layer in activations(model).items():
        layer.register_forward_hook(lambda _, given, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        wanted = model.double()(images().double())
    for population, name, theta in (("0", "1", 1.5), ("3", "4", 0.8)):
        levels = counts[population].reshape(24, -1, 4, *counts[population].shape[2:]).sum(2) / 4
        np.testing.assert_allclose(levels * theta, seen[name].numpy(), atol=1e-6)
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_the_module_in_spiking_mode_is_the_float_network(reset, n_steps):
    model = net(
        nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(4, 5, 3), NoisyQuantReLU(4, 0.8), nn.MaxPool2d(2)
    ).double()
    for layer in activations(model).values():
        layer.reset_to = reset
    conversion = converted(model, "autapse" if reset == "subtract" else "zero-reset", n_steps)
    _, logits = float_counts(conversion, reset, n_steps)
    real = torch.from_numpy((PIXELS / 255 - 0.5) / 0.25)
    with in_mode(model, "spiking"):
        wanted = sum(model(real) for _ in range(n_steps)) / n_steps
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-9)
    with torch.no_grad(), in_mode(model, "window", n_steps):
        window = model(real.repeat(n_steps, 1, 1, 1)).unflatten(0, (n_steps, -1)).mean(0)
    np.testing.assert_allclose(window.numpy(), wanted.numpy(), atol=1e-9)


@pytest.mark.parametrize("input_", ["graded", "rate"])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_integers_answer_like_the_float_network(input_, n_steps):
    model = net(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), NoisyQuantReLU(4, 0.8), nn.MaxPool2d(2))
    conversion = converted(model, n_steps=n_steps, replicas=2, input=input_)
    fidelity = measure_fidelity(conversion, PIXELS, lambda pixels: model(images(pixels)).detach().numpy().astype(float))
    assert set(fidelity.layers) == {"0", "3"}  # a maximum has no error of its own
    assert fidelity.same_as_snn >= 0.8
    assert max(layer.error for layer in fidelity.layers.values()) < 0.3
    fast = next(FastEngine(conversion.network).traces(PIXELS))
    np.testing.assert_array_equal(fast.logits, simulate(conversion.network, PIXELS).logits)


# --- neurons that are chosen for ReLUs ----------------------------------


@pytest.mark.parametrize("backend", ["autapse", "population", "zero-reset"])
def test_a_maximum_follows_the_neurons_that_are_chosen_for_what_it_pools(backend):
    behind = (nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), NoisyQuantReLU(4, 0.8), nn.MaxPool2d(2))
    model = nn.Sequential(*(Rectifier() if isinstance(m, NoisyQuantReLU) else m for m in net(*behind)))
    conversion = converted(model, backend, replicas=1 if backend == "zero-reset" else 4)
    by_name = {population.name: population for population in conversion.real.populations}
    for name, source in (("2", "0"), ("5", "3")):
        np.testing.assert_array_equal(by_name[name].threshold, by_name[source].threshold)
        assert np.isfinite(by_name[name].threshold).all()
    with torch.no_grad():
        wanted = model(images()).numpy()
    found = simulate(conversion.network, PIXELS).logits[:, -1] * conversion.network.readout.neuron.scale
    loss = np.sqrt(np.square(found - wanted).mean()) / wanted.std()
    assert loss < (1.0 if backend == "zero-reset" else 0.5)
    assert not any("choose neurons `2`" in change.step for change in conversion.changes)


# --- graphs -------------------------------------------------------------


class Graph(nn.Module):
    """A stem, whose maximum several branches read; an inception block, and a sum in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(2, 4, 3, padding=1), NoisyQuantReLU(4, 1.5)
        self.down, self.same, self.all = nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, ceil_mode=True)
        self.left, self.act_left = nn.Conv2d(4, 3, 1), NoisyQuantReLU(4, 1.0)
        self.right, self.act_right = nn.Conv2d(4, 4, 1), NoisyQuantReLU(4, 1.0)
        self.act_sum, self.fc = NoisyQuantReLU(4, 2.0), nn.Linear(7 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.act(self.stem(x)))
        left, right = self.act_left(self.left(x)), self.act_right(self.right(self.same(x)) + x)
        x = self.all(torch.cat([left, right], 1))
        return self.fc(torch.flatten(x, 1))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_branches_sums_and_concatenations_of_maxima(n_steps):
    torch.manual_seed(0)
    model = Graph().eval().double()
    conversion = converted(model, n_steps=n_steps, replicas={"left": 3, "stem": 2})
    maxima = [population.name for population in conversion.network.populations if population.is_maximum]
    assert maxima == ["down", "same", "all", "all_2"]
    shapes = conversion.network.shapes
    assert [shapes[name][0] for name in maxima] == [8, 8, 9, 4]  # as many replicas as what they read
    one = converted(model, n_steps=n_steps)
    _, logits = float_counts(one, "subtract", n_steps)
    with in_mode(model, "spiking"):
        wanted = sum(model(torch.from_numpy((PIXELS / 255 - 0.5) / 0.25)) for _ in range(n_steps)) / n_steps
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-9)
    fidelity = measure_fidelity(conversion, PIXELS, lambda pixels: model(images(pixels).double()).detach().numpy())
    assert fidelity.same_as_snn > 0.8


def test_a_maximum_of_a_maximum_and_one_that_pools_nothing():
    network = trace(net(nn.MaxPool2d(2), nn.MaxPool2d(1), nn.MaxPool2d(2, 1), nn.AdaptiveMaxPool2d(3)), SHAPE)
    assert [population.name for population in network.populations] == ["0", "2", "4", "7"]


def test_the_whole_image():
    conversion = converted(net(nn.AdaptiveMaxPool2d(1)), replicas=3)
    spikes = simulate(conversion.network, PIXELS).spikes
    np.testing.assert_array_equal(spikes["2"][..., 0, 0], spikes["0"].any(axis=(-1, -2)))


def test_average_pooling_behind_a_maximum_is_folded_into_what_reads_it():
    model = net(nn.MaxPool2d(2), nn.AvgPool2d(2)).double()
    conversion = converted(model, replicas=2)
    assert [population.name for population in conversion.network.populations] == ["0", "2", "5"]
    _, logits = float_counts(converted(model), "subtract", 1)
    with in_mode(model, "spiking"):
        wanted = model(torch.from_numpy((PIXELS / 255 - 0.5) / 0.25))
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-9)


def test_channels_that_never_change_do_not_change_behind_a_maximum():
    """One that never fires and one that always does, on any image: what reads them is held or gets a constant."""
    model = net(nn.MaxPool2d(2, padding=1))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-100.0, 100.0, 0.0, 0.0]))
    conversion = converted(model, n_steps=2)
    first, top, last = conversion.network.populations
    spikes = simulate(conversion.network, PIXELS).spikes["2"]
    assert not spikes[:, :, 0].any()
    assert spikes[:, :, 1].all()
    assert not last.synapses[0].weight.reshape(3, 4, -1)[:, 0].any()
    assert top.is_maximum
    assert isinstance(first.neuron, IntegrateFire)


def test_replicas_are_those_of_what_is_pooled():
    error = refused(UsageError, converted, net(nn.MaxPool2d(2)), replicas={"2": 2})
    assert error.message == "replicas: no layer `2` that spikes, allowed 0"


# --- what is refused ----------------------------------------------------


class Summing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.act = nn.Conv2d(2, 4, 3, padding=1), NoisyQuantReLU(4, 1.5)
        self.two, self.act2 = nn.Conv2d(4, 4, 3, padding=1), NoisyQuantReLU(4, 1.5)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.one(x))
        return self.fc(torch.flatten(self.pool(x + self.act2(self.two(x))), 1))


REFUSED = {
    "a sum": (
        Summing(),
        "module `pool`: takes the maximum of the sum `add`, allowed is that of what an activation gives\n"
        "hint: put nn.ReLU right before `pool`, then nctool.prepare",
    ),
    "the input": (
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)),
        "module `0`: takes the maximum of the input, allowed is that of what an activation gives\n"
        "hint: pool behind the first nn.ReLU, or let the data hold the pooled images",
    ),
    "averages": (
        net(nn.AvgPool2d(2), nn.MaxPool2d(2)),
        "module `3`: takes the maximum of the averages of `2`, allowed is that of what an activation gives\n"
        "hint: take the maximum first: put `3` before it",
    ),
    "a weighted sum": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)),
        "module `1`: follows `0` with no activation between them\n"
        "hint: put nn.ReLU right before `1`, and take away one behind it, then nctool.prepare, and train again",
    ),
    "a vector": (
        nn.Sequential(nn.Flatten(), nn.Linear(128, 64), NoisyQuantReLU(4, 1.5), nn.MaxPool2d(2), nn.Linear(16, 3)),
        "module `3`: gets shape (64,), allowed (channels, height, width)",
    ),
    "places": (
        nn.Sequential(nn.Conv2d(2, 4, 3), NoisyQuantReLU(4, 1.5), nn.MaxPool2d(2, return_indices=True)),
        "module `2` (MaxPool2d with return_indices=True) cannot be converted\n"
        "hint: leave out return_indices: spikes do not know the place of a maximum",
    ),
    "windows that do not tile": (
        net(nn.AdaptiveMaxPool2d(3)),
        "module `2` (AdaptiveMaxPool2d of 8x8 to 3x3) cannot be converted\n"
        "hint: use sizes that divide those of the image, or nn.MaxPool2d",
    ),
    "a window beyond the image": (
        nn.Sequential(nn.Conv2d(2, 4, 3), NoisyQuantReLU(4, 1.5), nn.MaxPool2d(7)),
        "module `2` (MaxPool2d): its window reaches beyond the padded image, which is (6, 6) unpadded",
    ),
}


@pytest.mark.parametrize(("model", "text"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_maximum_is_named(model, text):
    assert str(refused(UnsupportedError, trace, model, SHAPE)) == text


def test_a_module_that_takes_another_maximum_is_refused():
    """Of the class of maximum pooling, but it computes something else: what reads it is not driven as it says."""

    class Lower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net(nn.MaxPool2d(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model = Lower()
    model.body[2].register_forward_hook(lambda _, given, output: output * 0.5)
    network = trace(net(nn.MaxPool2d(2)), SHAPE)
    error = refused(UnsupportedError, require_same_network, model, network, images().double())
    assert "first difference: what drives `4`" in error.message
