"""Post-training conversion, part by part: neurons under given drives, thresholds, corrected weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nctool.activation.surrogate import integrate_and_fire as trained_neurons
from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.maximum_values import maximum_values
from nctool.conversion.post_training.correction import RIDGES, correct, ridge_solutions
from nctool.conversion.post_training.simulation import Window
from nctool.conversion.post_training.stretching import FACTORS, Images, stretch
from nctool.conversion.post_training.thresholds import THRESHOLDS, choose_thresholds
from nctool.conversion.quantise.patches import View, choose_windows
from nctool.ir.geometry import ConvGeometry
from nctool.ir.network import IntegrateFire, Population
from nctool.reference.neurons import integrate_and_fire as reference_neurons
from tests.support.networks import dense, seeds

pytestmark = pytest.mark.usefixtures("one_thread")

RESETS = st.sampled_from(["subtract", "zero"])


def whole_drive(seed: int, n_steps: int, replicas: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a drive (n_steps, 6, 3), thresholds and shifts (3,): whole numbers that make every start one."""
    rng = np.random.default_rng(seed)
    threshold = 2 * replicas * rng.integers(1, 20, 3)
    drive = rng.integers(-60, 90, (n_steps, 6, 3))
    shift = rng.integers(-threshold // (4 * replicas), threshold // (4 * replicas) + 1)
    return tuple(torch.from_numpy(values).double() for values in (drive, threshold, shift))


# --- neurons ----------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 6), st.integers(1, 5), RESETS)
def test_neurons_send_what_those_of_training_do(seed, n_steps, replicas, reset):
    drive, threshold, shift = whole_drive(seed, n_steps, replicas)
    window = Window(n_steps, replicas, reset)
    total = torch.zeros_like(drive[0])
    for start in window.starts(threshold, shift).unbind(1):
        steps = drive.clone()
        if reset == "subtract":  # neurons of training start at half of the threshold
            steps[0] += start - threshold / 2
        total += trained_neurons(steps.flatten(0, 1), threshold, n_steps, reset).view_as(steps).sum(0)
    torch.testing.assert_close(window.sent(drive, threshold, shift), total / (replicas * n_steps), rtol=1e-12, atol=0)


@given(seeds, st.integers(1, 6), st.integers(1, 5), RESETS)
def test_neurons_spike_as_those_of_the_reference_engine(seed, n_steps, replicas, reset):
    drive, threshold, shift = whole_drive(seed, n_steps, replicas)
    window = Window(n_steps, replicas, reset)
    starts = window.starts(threshold, shift).numpy().astype(np.int64).reshape(-1)
    several = threshold.numpy().astype(np.int64).repeat(replicas)
    neuron = IntegrateFire(several, starts, reset)
    population = Population(
        "one", (len(several),), neuron, (dense("input", np.ones((len(several), 1))),), np.zeros(len(several), np.int64)
    )
    steps = drive.numpy().astype(np.int64).repeat(replicas, axis=2).swapaxes(0, 1)
    counts = reference_neurons(population, steps).spikes.sum(axis=1).reshape(6, 3, replicas).sum(axis=2)
    expected = counts * (threshold.numpy() / (replicas * n_steps))
    np.testing.assert_allclose(window.sent(drive, threshold, shift).numpy(), expected, rtol=1e-12)


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.sampled_from([2, 3]))
def test_what_a_maximum_takes_together_fires_where_one_of_it_does(seed, n_steps, replicas, together):
    """In one step, that is the largest of what they send alone."""
    drive, threshold, shift = whole_drive(seed, n_steps, replicas)
    window = Window(n_steps, replicas, "subtract", together)
    alone = [
        torch.stack([replace(window, n_steps=1, together=1).sent(drive[:1, row : row + 1], threshold, shift)[0]])
        for row in range(6)
    ]
    first = torch.cat(alone).unflatten(0, (-1, together)).amax(1)
    torch.testing.assert_close(replace(window, n_steps=1).sent(drive[:1], threshold, shift), first, rtol=1e-12, atol=0)
    several, single = (replace(window, together=n).sent(drive, threshold, shift) for n in (together, 1))
    assert (several >= single.unflatten(0, (-1, together)).amax(1) - 1e-9).all()


@given(seeds)
def test_the_neurons_of_a_window_are_those_that_the_maximum_looks_at(seed):
    rng = np.random.default_rng(seed)
    size, kernel, stride = (int(n) for n in (rng.integers(3, 9), rng.integers(2, 4), rng.integers(1, 4)))
    padding, channels = int(rng.integers(0, kernel)), 2
    geometry = ConvGeometry((stride, stride), (padding, padding), groups=channels)
    taps = np.ones((channels, 1, kernel, kernel))
    if rng.random() < 0.5:
        taps[:, :, 0] = 0  # as where more lies behind the image than in front
    source = (channels, size, size)
    synapse = FloatSynapse("pool", "c", source, taps, np.zeros(channels), geometry)
    shape = (channels, *geometry.output_size(source, (kernel, kernel)))
    values = torch.from_numpy(rng.random((3, *source)))
    wanted = maximum_values(FloatPopulation("pool", shape, (synapse,), maximum=True), values)
    neurons, absent = choose_windows(synapse, len(values), most=10**6)
    seen = values[neurons.sample, :, neurons.y, neurons.x].reshape(*absent.shape, channels)
    found = seen.masked_fill(torch.from_numpy(absent)[..., None], 0.0).amax(1)
    torch.testing.assert_close(found, wanted.permute(0, 2, 3, 1).flatten(0, 2))
    assert len(choose_windows(synapse, len(values), most=12)[1]) <= 12


def test_replicas_by_hand():
    """Threshold 4, two replicas that start at 1 and 3; drives 2, 2: they fire at step 2, and at 1."""
    drive = torch.tensor([[[2.0]], [[2.0]]])
    window = Window(2, 2, "subtract")
    assert window.starts(torch.tensor([4.0])).tolist() == [[1.0, 3.0]]
    assert window.sent(drive, torch.tensor([4.0])).tolist() == [[4.0 * 2 / 4]]
    assert window.starts(torch.tensor([4.0]), torch.tensor([-1.0])).tolist() == [[0.0, 2.0]]
    assert Window(2, 2, "zero").starts(torch.tensor([4.0]), torch.tensor([-1.0])).tolist() == [[0.0, 0.0]]


# --- thresholds -------------------------------------------------------------------------------------------------------


def random_drive(seed: int, n_steps: int, rows: int = 300, channels: int = 4) -> tuple[Tensor, Tensor]:
    """Return a drive with noise at every step, and what ReLUs should send."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(rows, channels, generator=generator) * torch.tensor([0.01, 1.0, 5.0, 300.0])[:channels]
    noise = 0.2 * mean.std(0) * torch.randn(n_steps, rows, channels, generator=generator)
    return mean + noise, mean.clamp(min=0)


def errors(drive: Tensor, wanted: Tensor, window: Window, threshold: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    return (window.sent(drive, threshold, shift) - wanted).square().mean(0, dtype=torch.float64)


@given(seeds, st.integers(1, 5), st.integers(1, 4), RESETS, st.sampled_from([1, 4]))
def test_compiled_loops_count_the_spikes_that_torch_counts(seed, n_steps, replicas, reset, together):
    """Of maxima over padding too, whose drive is minus infinity."""
    drive, wanted = random_drive(seed, n_steps, 40)
    drive[:, ::7] = -torch.inf
    window = Window(n_steps, replicas, reset, together)
    thresholds = torch.rand((3, 4), generator=torch.Generator().manual_seed(seed)) + 0.01
    shifts = 0.1 * thresholds.flip(0)
    compiled = window.sent(drive, thresholds[0], shifts[0])
    of_compiled = window.errors(drive, wanted[::together], thresholds, shifts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nctool.conversion.post_training.simulation.failure", lambda module: module)
        assert torch.equal(window.sent(drive, thresholds[0], shifts[0]), compiled)
        by_torch = window.errors(drive, wanted[::together], thresholds, shifts)
    torch.testing.assert_close(of_compiled, by_torch, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize(("n_steps", "replicas"), [(1, 1), (1, 4), (4, 1), (8, 1), (4, 2)])
def test_the_threshold_is_as_good_as_the_best_of_a_fine_grid(n_steps, replicas, reset):
    """The search looks at every sixth part of an octave, then at 3 % around: it misses little of the best."""
    drive, wanted = random_drive(0, n_steps, 4000)
    window = Window(n_steps, replicas, reset)
    chosen = choose_thresholds(drive, wanted, window, shared=False)
    grid = torch.logspace(-5, 0.5, 300, base=2.0)
    best = torch.stack([errors(drive, wanted, window, part * wanted.amax(0)) for part in grid]).amin(0)
    assert (chosen.error <= 1.05 * best).all()
    torch.testing.assert_close(chosen.error, errors(drive, wanted, window, chosen.threshold, chosen.shift))


@given(seeds, st.integers(1, 8), st.integers(1, 4), RESETS, st.booleans())
def test_the_largest_activation_is_never_a_better_threshold(seed, n_steps, replicas, reset, shared):
    drive, wanted = random_drive(seed, n_steps, 60)
    window = Window(n_steps, replicas, reset)
    chosen = choose_thresholds(drive, wanted, window, shared)
    largest = wanted.amax(0) if not shared else wanted.amax().expand(wanted.shape[1])
    assert 1.0 in THRESHOLDS.tolist()
    found, beside = chosen.error, errors(drive, wanted, window, largest)
    if shared:
        assert len(set(chosen.threshold.tolist())) == 1
        found, beside = found.sum(), beside.sum()
    assert (found <= beside).all()


@given(seeds, st.integers(1, 6), st.sampled_from([1, 2, 4, 16]), RESETS)
def test_a_channel_that_should_send_nothing_is_silent(seed, n_steps, replicas, reset):
    """Its drive is above 0 now and then: spikes before it say more than the activations that they stand for."""
    drive, wanted = random_drive(seed, n_steps, 60)
    wanted = wanted.clone()
    wanted[:, 1] = 0
    window = Window(n_steps, replicas, reset)
    chosen = choose_thresholds(drive, wanted, window, shared=False)
    assert not window.sent(drive, chosen.threshold, chosen.shift)[:, 1].any()
    alone = choose_thresholds(drive[:, :, 1:2], wanted[:, 1:2], window, shared=False)
    assert not window.sent(drive[:, :, 1:2], alone.threshold, alone.shift).any()


def test_a_silent_channel_gets_a_threshold_of_the_size_of_the_others():
    """A far smaller one would not fit beside its weights, where these have few bits."""
    drive, wanted = random_drive(0, 4, channels=3)
    drive[:, :, 0] = -drive[:, :, 0].abs()
    wanted[:, 0] = 0
    chosen = choose_thresholds(drive, wanted, Window(4, 1, "subtract"), shared=False)
    assert chosen.threshold[0] == wanted[:, 1:].amax(0).mean()


@pytest.mark.parametrize("replicas", [1, 16])
def test_a_silent_channel_does_not_move_a_shared_threshold_away(replicas):
    drive, wanted = random_drive(0, 4, channels=2)
    window = Window(4, replicas, "subtract")
    silent = torch.cat([drive, drive[:, :, 1:] * 100], 2), torch.cat([wanted, 0 * wanted[:, 1:]], 1)
    with_silent = choose_thresholds(*silent, window, shared=True)
    assert float(with_silent.threshold[0]) <= 1.5 * 1.12 * float(wanted.amax())
    assert len(set(with_silent.threshold.tolist())) == 1


def test_a_shift_makes_up_for_a_drive_that_is_off():
    """Drives lie 0.05 below what should be sent, a fifth of what a spike is worth."""
    wanted = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0))
    drive = (wanted - 0.05).expand(4, -1, -1)
    chosen = choose_thresholds(drive, wanted, Window(4, 1, "subtract"), shared=False)
    assert chosen.shift.item() > 0
    assert choose_thresholds(drive, wanted, Window(4, 1, "zero"), shared=False).shift.item() == 0


@pytest.mark.parametrize("size", [0.0, 1e-3, 1e4])
def test_nothing_to_send_at_all(size):
    """Thresholds are of the size of the drive, so that they fit beside the weights."""
    drive = -size * torch.ones(2, 5, 3)
    for shared in (False, True):
        chosen = choose_thresholds(drive, torch.zeros(5, 3), Window(2, 1, "subtract"), shared)
        assert (chosen.threshold >= 0.02 * (size or 1.0)).all()
        assert chosen.error.tolist() == [0, 0, 0]


# --- corrected weights ------------------------------------------------------------------------------------------------

ROWS, FAN_IN, OUT = 4000, 12, 5
SAMPLES = np.arange(ROWS) // 10


def synapse(rng: np.random.Generator, groups: int = 1, out: int = OUT, source: str = "input") -> FloatSynapse:
    weight = rng.normal(size=(out, FAN_IN, 1, 1))
    geometry = ConvGeometry(groups=groups)
    return FloatSynapse("m", source, (FAN_IN * groups, 8, 8), weight, rng.normal(size=out), geometry)


def population(*synapses: FloatSynapse) -> FloatPopulation:
    return FloatPopulation("m", (len(synapses[0].bias), 8, 8), synapses, threshold=np.ones(len(synapses[0].bias)))


def signals(rng: np.random.Generator, groups: int = 1, rows: int = ROWS) -> np.ndarray:
    """Return signals that vary together, as activations do: float32 (groups, rows, fan-in)."""
    mixing = rng.normal(size=(FAN_IN, FAN_IN))
    return (rng.gamma(2.0, size=(groups, rows, FAN_IN)) @ mixing).astype(np.float32)


def drive_of(of: FloatPopulation, *seen: np.ndarray) -> np.ndarray:
    pairs = zip(of.synapses, seen, strict=True)
    return of.bias.astype(np.float32) + sum(View(s, each).output(s.weight) for s, each in pairs)


def corrected(of: FloatPopulation, seen: list[np.ndarray], wanted: np.ndarray, samples: np.ndarray = SAMPLES):
    return correct(of, [View(s, each) for s, each in zip(of.synapses, seen, strict=True)], wanted, samples)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(axis=0)).sum())


@pytest.mark.parametrize("groups", [1, 3])
def test_signals_without_errors_change_nothing(groups):
    rng = np.random.default_rng(0)
    of = population(synapse(rng, groups, 6))
    seen = signals(rng, groups)
    found = corrected(of, [seen], drive_of(of, seen))
    np.testing.assert_allclose(found.synapses[0].weight, of.synapses[0].weight, atol=1e-5)
    np.testing.assert_allclose(found.bias, of.bias, atol=1e-4)


def test_an_offset_of_the_drive_goes_into_the_bias():
    rng = np.random.default_rng(0)
    of, seen, offset = population(synapse(rng)), signals(rng), np.array([0.5, -2.0, 0.0, 3.0, 1.0], np.float32)
    found = corrected(of, [seen], drive_of(of, seen) + offset)
    np.testing.assert_allclose(found.bias, of.bias + offset, atol=1e-3)
    np.testing.assert_allclose(found.synapses[0].weight, of.synapses[0].weight, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 3])
def test_weights_undo_a_linear_distortion_of_the_signals(groups):
    rng = np.random.default_rng(1)
    of, right = population(synapse(rng, groups, 6)), signals(rng, groups)
    seen = (right @ (np.eye(FAN_IN) + 0.1 * rng.normal(size=(FAN_IN, FAN_IN)))).astype(np.float32)
    wanted = drive_of(of, right)
    found = corrected(of, [seen], wanted)
    assert relative(drive_of(found, seen), wanted) < 0.02 * relative(drive_of(of, seen), wanted)


def test_each_of_several_synapses_is_corrected():
    rng = np.random.default_rng(2)
    of = population(synapse(rng), replace(synapse(rng), source="other"))
    right = [signals(rng), signals(rng)]
    seen = [right[0] * np.float32(0.7), right[1] * np.float32(1.2)]
    wanted = drive_of(of, *right)
    found = corrected(of, seen, wanted)
    assert relative(drive_of(found, *seen), wanted) < 0.02 * relative(drive_of(of, *seen), wanted)
    assert all((a.weight != b.weight).any() for a, b in zip(found.synapses, of.synapses, strict=True))
    np.testing.assert_array_equal(found.synapses[1].bias, of.synapses[1].bias)


def test_weights_that_are_zero_by_design_stay():
    rng = np.random.default_rng(3)
    sparse = synapse(rng)
    sparse.weight[:, ::2] = 0
    of, seen = population(sparse), signals(rng)
    found = corrected(of, [seen * np.float32(0.5)], drive_of(of, seen))
    np.testing.assert_array_equal(found.synapses[0].weight, sparse.weight)
    assert (found.bias != of.bias).all()


@pytest.mark.parametrize("rows", [100, 400, 4000])
def test_a_correction_that_fits_noise_only_is_refused(rows):
    rng = np.random.default_rng(4)
    of, seen = population(synapse(rng)), signals(rng, rows=rows)
    wanted = drive_of(of, seen) + rng.normal(size=(rows, OUT)).astype(np.float32)
    found = corrected(of, [seen], wanted, np.arange(rows))
    np.testing.assert_array_equal(found.synapses[0].weight, of.synapses[0].weight)


def test_one_image_corrects_the_bias_alone():
    rng = np.random.default_rng(5)
    of, seen = population(synapse(rng)), signals(rng)
    found = corrected(of, [seen * np.float32(0.5)], drive_of(of, seen), np.zeros(ROWS, np.int64))
    np.testing.assert_array_equal(found.synapses[0].weight, of.synapses[0].weight)


def test_more_unknowns_than_patches():
    """Both systems of equations give the same move: that of the patches, and that of the fan-in."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(20, 24)).astype(np.float32), rng.normal(size=(20, 3)).astype(np.float32)
    unit = float(np.square(x).sum(dtype=np.float64)) / 24
    pairs = zip(RIDGES, ridge_solutions(x, y, None), ridge_solutions(x, y, x.T), strict=True)
    for ridge, weights, shares in pairs:
        expected = np.linalg.solve(x.T @ x + ridge * unit * np.eye(24), x.T @ y)
        np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(x.T @ shares, expected, rtol=1e-3, atol=1e-5)


# --- stretched for what reads -----------------------------------------------------------------------------------------


def test_thresholds_are_stretched_where_readers_add_up_many_neurons():
    """Neurons of one step whose values a reader adds up: what is cut off counts there, how coarse they are does not."""
    values = torch.randn(400, 256, generator=torch.Generator().manual_seed(0)).abs() * (
        0.5 + torch.rand(400, 1, generator=torch.Generator().manual_seed(1))
    )
    window = Window(1, 1, "subtract")
    chosen = choose_thresholds(values[None], values, window, shared=False)
    adding = FloatSynapse("fc", "c", (256,), np.ones((1, 256)), np.zeros(1), None)
    alone = FloatSynapse("fc", "c", (256,), np.eye(256), np.zeros(256), None)
    images = Images(values[None], values)
    stretched = stretch(chosen, window, images, [adding])
    assert (stretched.threshold > 1.1 * chosen.threshold).all()
    torch.testing.assert_close(stretch(chosen, window, images, [alone]).threshold, chosen.threshold)
    assert stretch(chosen, window, images, []) is chosen


@given(seeds)
def test_no_other_factor_gives_readers_a_smaller_error(seed):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.exponential(size=(8, 3, 4, 4))).float()
    drive = values.permute(0, 2, 3, 1).reshape(1, -1, 3)
    window = Window(2, 1, "subtract")
    drive = drive.expand(2, -1, -1)
    chosen = choose_thresholds(drive, drive[0], window, shared=False)
    reader = FloatSynapse("c", "b", (3, 4, 4), rng.normal(size=(5, 3, 3, 3)), np.zeros(5), ConvGeometry(padding=(1, 1)))

    def error(factor: float) -> float:
        sent = window.sent(drive, factor * chosen.threshold, factor * chosen.shift)
        given = sent.reshape(8, 4, 4, 3).permute(0, 3, 1, 2)
        weight = torch.from_numpy(reader.weight).float()
        gap = torch.conv2d(given - values, weight, padding=1)
        return float((gap - gap.mean((0, 2, 3), keepdim=True)).square().mean())

    stretched = stretch(chosen, window, Images(drive, values), [reader])
    factor = float((stretched.threshold / chosen.threshold).mean())
    assert error(factor) <= min(error(other) for other in FACTORS) * (1 + 1e-4)
