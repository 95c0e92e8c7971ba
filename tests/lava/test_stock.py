"""The stock backends: exactly the network, in files that an unmodified lava-dl Network runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import assume, given

from nctool import export, verify
from nctool.errors import FormatError, RangeError, UnsupportedError
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import Bound, InputEncoding, IntegerInput, IntegrateFire, IntNetwork, Readout
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool_deploy.backends.stock import StockRegisters
from nctool_deploy.foreign import ForeignOptions, read_foreign
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.netx import KnownAnswers, read, write
from nctool_deploy.targets.target import find_target
from tests.support.networks import (
    as_pixels,
    conv,
    dense,
    fire,
    random_network,
    random_pixels,
    random_pooled,
    read_out,
    seeds,
    signed_input,
)
from tests.support.refusals import refused
from tests.support.small_run import POOLED, small_fit

LAVA = find_target("lava")
WIDE = Bound("proved", -1000, 1000)


def memoryless(*populations, n_steps: int = 1) -> IntNetwork:
    return IntNetwork(signed_input(2), tuple(replace(p, bound=WIDE) for p in populations), n_steps)


def stock_network(seed: int, backend: str) -> IntNetwork:
    """Return a random network that the backend may hold: initial potentials only where nothing is remembered.

    One in three has maximum pooling.
    """
    drawn = (random_network if seed % 3 else random_pooled)(seed, n_steps=1 if backend == "population" else None)
    populations = []
    for population in drawn.populations:
        neuron, bias = population.neuron, np.clip(population.bias, -1000, 1000)
        if backend == "population" and isinstance(neuron, IntegrateFire):
            threshold = np.minimum(neuron.threshold, 6000)
            neuron = replace(neuron, threshold=threshold, initial=np.minimum(neuron.initial, threshold - 1))
        if backend == "zero-reset" and isinstance(neuron, IntegrateFire):
            one = np.full_like(neuron.threshold, neuron.threshold.max())
            neuron = IntegrateFire(one, np.zeros_like(one), "zero")
        populations.append(replace(population, neuron=neuron, bias=bias))
    network = replace(drawn, populations=tuple(populations))
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def lowered_or_rejected(network: IntNetwork, backend: str) -> Lowered:
    try:
        return lower(network, LAVA, backend)
    except RangeError as error:
        # weights that stock netx would change, and sums that leave no room: pinned below
        assume("stock netx" not in error.message and "without its bias" not in error.message)
        raise


def same_trace(found: Trace, expected: Trace) -> None:
    assert list(found.spikes) == list(expected.spikes)
    for name, spikes in expected.spikes.items():
        np.testing.assert_array_equal(found.spikes[name], spikes, err_msg=name)
    np.testing.assert_array_equal(found.logits, expected.logits)


def written(path: Path, lowered: Lowered, pixels: np.ndarray) -> Path:
    write(path, lowered, KnownAnswers(pixels[:1], simulate(lowered.network, pixels[:1])))
    return path


# --- by hand ------------------------------------------------------------


def test_distances_move_into_the_bias():
    """Thresholds 10 and 40, initial potentials 2 and 5, biases 1 and -3: distances 7 and 38, centre 22."""
    network = memoryless(
        fire("a", dense("input", [[1, -1], [2, 3]]), threshold=[10, 40], initial=[2, 5], bias=[1, -3]),
        read_out(dense("a", [[1, -1]]), bias=4),
    )
    lowered = lower(network, LAVA, "population")
    first, last = lowered.network.populations
    assert first.neuron == IntegrateFire(np.array([22, 22]), np.array([0, 0]), "zero")
    assert first.bias.tolist() == [15, -16]
    assert first.bound == Bound("proved", -1013, 1014)
    assert last.neuron == Readout(1.0)
    assert lowered.registers == (StockRegisters(21, np.array([15, -16])), StockRegisters(131071, np.array([4])))


@pytest.mark.parametrize(("drive", "fires"), [(6, False), (7, True)])
def test_a_neuron_fires_at_its_distance(drive, fires):
    network = memoryless(
        fire("a", dense("input", [[1, 0]]), threshold=10, initial=2, bias=1), read_out(dense("a", [[1], [-1]]))
    )
    trace = simulate(lower(network, LAVA, "population").network, as_pixels([[drive, 0]]))
    assert bool(trace.spikes["a"].item()) is fires


@pytest.mark.parametrize("seed", [2, 6])
def test_lowering_again_changes_nothing(seed):
    network = stock_network(seed, "population")
    once = lower(network, LAVA, "population")
    assert lower(once.network, LAVA, "population") == once


# --- laws ---------------------------------------------------------------


@given(seeds)
def test_a_population_file_holds_the_same_function(tmp_path_factory, seed):
    network = stock_network(seed, "population")
    lowered = lowered_or_rejected(network, "population")
    pixels = random_pixels(network, 8, seed)
    same_trace(simulate(lowered.network, pixels), simulate(network, pixels))
    path = written(tmp_path_factory.mktemp("p") / "m.net", lowered, pixels)
    assert read(path).network == lowered.network


@pytest.mark.parametrize("backend", ["population", "zero-reset"])
@given(seed=seeds)
def test_stock_keys_alone_say_the_same(tmp_path_factory, backend, seed):
    """Without `/nctool` the file is one of another tool, and current-based neurons of Loihi give the same trace."""
    network = stock_network(seed, backend)
    lowered = lowered_or_rejected(network, backend)
    pixels = random_pixels(network, 4, seed)
    path = written(tmp_path_factory.mktemp("s") / "m.net", lowered, pixels)
    with h5py.File(path, "r+") as file:
        del file["nctool"]
    options = ForeignOptions(reset_interval=network.n_steps)
    foreign = read_foreign(path, options, input_shape=network.input.shape).network
    assert isinstance(foreign.input, IntegerInput)
    samples = network.pixel_input.encode(pixels).astype(np.int64).reshape(len(pixels), *foreign.input.shape)
    settled = tuple(replace(p, neuron=replace(p.neuron, latency=0)) for p in foreign.populations)
    found = simulate(replace(foreign, populations=settled, n_steps=network.n_steps), samples)
    expected = simulate(network, pixels)
    for ours, theirs in zip(network.populations[:-1], foreign.populations, strict=False):
        np.testing.assert_array_equal(found.spikes[theirs.name], expected.spikes[ours.name], err_msg=ours.name)
    np.testing.assert_array_equal(found.logits >> 6, expected.logits)


# --- in Lava ------------------------------------------------------------


STREAM = """
    import sys
    import numpy as np
    from lava.lib.dl.netx import hdf5
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source

    if __name__ == "__main__":
        path, data_path, out_path, n_steps, reset = sys.argv[1:]
        samples, n_steps = np.load(data_path), int(n_steps)
        options = dict(reset_interval=n_steps, reset_offset=1) if reset == "reset" else {}
        network = hdf5.Network(net_config=path, input_message_bits=8, **options)
        last = network.layers[-1]
        n_total = len(samples) * n_steps + len(network.layers)
        data = np.zeros((*network.inp.shape, n_total), np.int32)
        for number, sample in enumerate(samples):
            values = sample.T if len(network.inp.shape) == 3 else sample.reshape(-1)
            data[..., number * n_steps : (number + 1) * n_steps] = values[..., None]
        source, voltages = Source(data=data), []
        sinks = [Sink(shape=layer.out.shape, buffer=n_total) for layer in network.layers[:-1]]
        source.s_out.connect(network.inp)
        for layer, sink in zip(network.layers, sinks):
            layer.out.connect(sink.a_in)
        config = Loihi2SimCfg(select_tag="fixed_pt")
        for _ in range(n_total):
            network.run(condition=RunSteps(num_steps=1), run_cfg=config)
            voltages.append(last.neuron.v.get().copy())
        spikes = {str(number): sink.data.get() for number, sink in enumerate(sinks)}
        network.stop()
        assert not any(name.startswith("nctool") for name in sys.modules)
        np.savez(out_path, voltages=np.array(voltages, np.int64), **spikes)
"""


@pytest.fixture(scope="module")
def pooled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run of convolutions with maximum pooling."""
    folder = tmp_path_factory.mktemp("pooled")
    small_fit(folder, (POOLED, "training.epochs=2"))
    return folder


@pytest.mark.lava
@pytest.mark.bare_lava
@pytest.mark.parametrize("run", ["digits_run", "pooled_run"])
@pytest.mark.parametrize("backend", ["population", "zero-reset"])
def test_the_unmodified_network_of_lava_dl_runs_the_file(request, run, tmp_path, backend):
    """A process that never imports nctool: stock Network, a new sample every window, one pipeline."""
    model, folder = tmp_path / "model.net", request.getfixturevalue(run)
    report = export(folder, model, target="lava", backend=backend, steps=1 if backend == "population" else 3)
    content = read(model)
    network, n_steps = content.network, report.steps
    pixels = content.known_answers.pixels[:4]
    program, data, out = tmp_path / "stream.py", tmp_path / "samples.npy", tmp_path / "out.npz"
    program.write_text(textwrap.dedent(STREAM))
    np.save(data, network.pixel_input.encode(pixels).astype(np.int32))
    reset = "memoryless" if backend == "population" else "reset"
    command = [sys.executable, str(program), str(model), str(data), str(out), str(n_steps), reset]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    expected = simulate(network, pixels)
    with np.load(out) as found:
        for depth, population in enumerate(network.populations[:-1], start=1):
            own = np.moveaxis(found[str(depth - 1)], -1, 0)[depth : depth + len(pixels) * n_steps]
            own = own.transpose(0, *reversed(range(1, own.ndim)))
            spikes = own.reshape(len(pixels), n_steps, *population.shape).astype(bool)
            np.testing.assert_array_equal(spikes, expected.spikes[population.name], err_msg=population.name)
        depth = len(network.populations)
        logits = found["voltages"][depth : depth + len(pixels) * n_steps].reshape(len(pixels), n_steps, -1) >> 6
    np.testing.assert_array_equal(logits, expected.logits)


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["population", "zero-reset"])
def test_the_lava_engine_agrees(digits_run, tmp_path, backend):
    export(digits_run, tmp_path / "m.net", target="lava", backend=backend)
    report = verify(tmp_path / "m.net", engines=["reference", "fast", "lava"], samples=6)
    assert report.equal
    assert report.compared_spikes > 0


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["population", "zero-reset"])
def test_random_networks_in_lava(tmp_path, backend):
    """Strides, groups, dilation, paddings and extreme weights of three random networks."""
    from nctool_deploy.lava import engine

    done = 0
    for seed in range(40):
        network = stock_network(seed, backend)
        try:
            lowered = lower(network, LAVA, backend)
        except RangeError:
            continue
        pixels = random_pixels(network, 3, seed)
        path = written(tmp_path / f"{seed}.net", lowered, pixels)
        (found,) = engine.stream(path, lowered.network, pixels)
        same_trace(found, simulate(network, pixels))
        done += 1
        if done == 3:
            return
    pytest.fail("no three networks fit")


# --- what does not fit --------------------------------------------------


def refusal(network: IntNetwork, backend: str) -> str:
    return str(refused(RangeError, lower, network, LAVA, backend))


def test_a_network_without_memory_has_one_step():
    network = memoryless(fire("a", dense("input", [[1, -1]])), read_out(dense("a", [[1], [-1]])), n_steps=4)
    assert refusal(network, "population") == (
        "network: a window of 4 time steps, neurons without memory allow 1\nhint: use --steps 1, or --backend autapse"
    )


def test_zero_reset_lists_all_that_its_neuron_cannot_do():
    network = memoryless(
        fire("a", dense("input", [[1, -1], [-1, 1]]), threshold=[2, 3], initial=1), read_out(dense("a", [[1, -1]]))
    )
    assert refusal(network, "zero-reset").splitlines()[:3] == [
        "population `a`: reset is `subtract`, the stock neuron allows `zero`",
        "population `a`: an initial potential is not 0, the stock neuron starts at 0",
        "population `a`: thresholds 2..3, the stock neuron allows one for a population",
    ]


@pytest.mark.parametrize(("bias", "fits"), [(4095, True), (4096, False), (-4096, True), (-4097, False)])
def test_a_bias_has_thirteen_bits(bias, fits):
    network = memoryless(read_out(dense("input", [[1, -1]]), bias=bias))
    if fits:
        assert lower(network, LAVA, "zero-reset").registers[0].bias_mantissa.tolist() == [bias]
        return
    assert refusal(network, "zero-reset").splitlines()[0] == (
        f"population `out`: biases need mantissas {bias}..{bias}, allowed -4096..4095"
    )


@pytest.mark.parametrize(("threshold", "fits"), [(2**17, True), (2**17 + 1, False)])
def test_a_threshold_register_has_seventeen_bits(threshold, fits):
    first = fire("a", dense("input", [[1, -1]]), threshold=threshold, reset="zero")
    network = memoryless(first, read_out(dense("a", [[1], [-1]])))
    if fits:
        assert lower(network, LAVA, "zero-reset").registers[0].threshold_mantissa == threshold - 1
        return
    assert refusal(network, "zero-reset") == f"population `a`: threshold {threshold}, allowed 1..{2**17}"


def test_the_drive_without_its_bias_must_fit():
    population = replace(read_out(dense("input", [[1, -1]]), bias=-100), bound=Bound("proved", -1, 131000))
    network = IntNetwork(signed_input(2), (population,), 1)
    assert refusal(network, "zero-reset").splitlines()[0] == (
        "population `out`: the drive without its bias may reach 131100, allowed 131071"
    )
    lower(replace(network, populations=(replace(population, bound=Bound("proved", -1, 130971)),)), LAVA, "zero-reset")


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        ([[0, 0]], "all weights are 0, on which the stock netx loader fails"),
        ([[-128, -3]], "the stock netx loader runs 2 of 2 weights with another value, -128 as -127"),
        ([[-128, 0]], "the stock netx loader runs 1 of 2 weights with another value, -128 as -64"),
    ],
)
def test_dense_weights_that_stock_netx_would_change_are_refused(weight, text):
    lines = refusal(memoryless(read_out(dense("input", weight))), "population").splitlines()
    assert lines[0].startswith("population `out`: " + text.partition(" runs")[0])
    assert lines[-1] == "hint: use --backend autapse, which keeps every weight"


@pytest.mark.parametrize("weight", [[[0, 255 // 2]], [[3, 4]], [[-127, 126]], [[-128, 127]]])
def test_dense_weights_that_stock_netx_keeps(weight):
    assert lower(memoryless(read_out(dense("input", weight))), LAVA, "population").network


def test_a_weight_exponent_is_refused():
    network = memoryless(read_out(dense("input", [[1, -1]], exponent=1)))
    assert "population `out`: weight exponent is 1, " in refusal(network, "population")


def test_a_skip_is_refused(tmp_path):
    network = memoryless(
        fire("a", dense("input", [[1, -1]])), read_out(dense("a", [[1], [2]]), dense("input", [[1, 1], [1, -1]]))
    )
    with pytest.raises(UnsupportedError) as caught:
        lower(network, LAVA, "population")
    assert str(caught.value) == (
        "population `out`: driven by `a`, `input`, allowed one synapse from `a`\n"
        "hint: use --backend autapse: stock netx has no skip connections"
    )


# --- files --------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("layer/1/neuron/vDecay", 1, "`/layer/1/neuron/vDecay` is 1, allowed 4096"),
        ("layer/1/neuron/iDecay", 0, "`/layer/1/neuron/iDecay` is 0, allowed 4096"),
        ("layer/2/neuron/vThMant", 5, "`/layer/2/neuron/vThMant` is 5, allowed 131071"),
        ("layer/1/neuron/type", np.bytes_(b"LOIHI"), "`/layer/1/neuron/type` is `LOIHI`, allowed CUBA"),
    ],
)
def test_a_changed_neuron_is_refused(tmp_path, key, value, text):
    network = memoryless(fire("a", dense("input", [[1, -1]])), read_out(dense("a", [[1], [-1]])))
    path = written(tmp_path / "m.net", lower(network, LAVA, "population"), as_pixels([[1, 2]]))
    with h5py.File(path, "r+") as file:
        del file[key]
        file[key] = value if isinstance(value, np.bytes_) else np.int64(value)
    with pytest.raises(FormatError) as caught:
        read(path)
    assert caught.value.message == f"`{path}`: {text}"


def test_a_changed_threshold_does_not_match_its_digest(tmp_path):
    network = memoryless(fire("a", dense("input", [[1, -1]])), read_out(dense("a", [[1], [-1]])))
    path = written(tmp_path / "m.net", lower(network, LAVA, "population"), as_pixels([[1, 2]]))
    shutil.copy(path, tmp_path / "copy.net")
    with h5py.File(path, "r+") as file:
        file["layer/1/neuron/vThMant"][()] += 1
    with pytest.raises(FormatError) as caught:
        read(path)
    assert caught.value.message == f"`{path}`: layer `a` is not what was exported: its digest differs"


def test_an_image_and_a_convolution_come_back(tmp_path):
    encoding = InputEncoding((1, 4, 5), signed_input(1).table)
    first = fire("c", conv("input", np.ones((2, 1, 2, 3)), stride=(2, 1)), threshold=[3, 5], initial=1, shape=(2, 2, 3))
    populations = tuple(replace(p, bound=WIDE) for p in (first, read_out(dense("c", np.eye(3, 12) - np.eye(3, 12, 1)))))
    network = IntNetwork(encoding, populations, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 5), np.uint8)
    path = written(tmp_path / "m.net", lower(network, LAVA, "population"), pixels)
    same_trace(simulate(read(path).network, pixels), simulate(network, pixels))
