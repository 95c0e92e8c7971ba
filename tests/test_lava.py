"""The Lava engine: the same trace as the reference engine, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from nctool.api.engines import Job, traces
from nctool.bounds import prove, with_bounds
from nctool.errors import EngineError, RangeError
from nctool.network import (
    INPUT_NAME,
    ConvGeometry,
    InputEncoding,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Synapse,
)
from nctool.sim.reference import simulate
from nctool.sim.trace import Trace
from nctool_deploy import engine
from nctool_deploy.netx import read
from tests.networks import random_network, random_pixels, write_network


def assert_same(expected: Trace, actual: Trace) -> None:
    assert list(expected.spikes) == list(actual.spikes)
    for name, spikes in expected.spikes.items():
        np.testing.assert_array_equal(actual.spikes[name], spikes, err_msg=name)
    np.testing.assert_array_equal(actual.logits, expected.logits)


@pytest.mark.lava
def test_a_big_convolution_runs_as_a_lava_conv(tmp_path: Path) -> None:
    """Above MAX_UNROLLED connections: non-square kernel, stride and padding per axis, groups, sizes beyond int8."""
    rng = np.random.default_rng(0)
    source = (4, 130, 18)
    conv = ConvGeometry(stride=(1, 2), padding=(2, 1), dilation=(1, 1), groups=2)
    synapse = Synapse(INPUT_NAME, rng.integers(-60, 61, (128, 2, 13, 11)).astype(np.int32), conv=conv)
    shape = synapse.output_shape(source)
    assert np.prod(shape) * 2 * 13 * 11 > 20_000_000
    threshold = rng.integers(1, 128, 128) << 6
    populations = (
        Population("conv", shape, IntegrateFire(threshold, threshold // 2), rng.integers(-999, 999, 128), (synapse,)),
        Population(
            "readout",
            (3,),
            Readout(1.0),
            np.array([1, -2, 3]),
            (Synapse("conv", (rng.integers(0, 5000, (3, int(np.prod(shape)))) == 0).astype(np.int32)),),
        ),
    )
    table = np.broadcast_to((np.arange(256) // 32 - 4).astype(np.int8), (4, 256)).copy()
    network = IntNetwork(InputEncoding(source, table), populations, 2)
    network = with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})
    pixels = random_pixels(network, 2)
    path = write_network(network, tmp_path / "big.net", pixels)
    (actual,) = engine.stream(path, network, pixels)
    assert_same(simulate(network, pixels), actual)


@pytest.mark.lava
def test_what_conv_cannot_hold_runs_as_a_sparse_matrix() -> None:
    """However large it is: groups, exponent and delay, and a sum that Conv would clamp."""
    script = textwrap.dedent("""
        import nctool_deploy.lava_runner  # makes Lava importable
        import numpy as np
        from nctool.network import ConvGeometry, Synapse
        from nctool_deploy.lava_runner import branch

        branch.MAX_UNROLLED = 0

        def process(groups=1, channels=1, exponent=0, delay=0):
            weight = np.full((groups, channels, 1, 1), 127, np.int32)
            synapse = Synapse("input", weight, exponent, ConvGeometry(groups=groups))
            source = (groups * channels, 1, 1)
            return type(branch.Branch(synapse, source, delay, branch.GRADED_BITS, 128).process()).__name__

        print(process(127), process(channels=516), process(128), process(channels=517))
        print(process(exponent=1), process(delay=1))
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout.split() == ["Conv", "Conv", "Sparse", "Sparse", "Sparse", "DelaySparse"], ended.stderr


@pytest.mark.lava
def test_samples_do_not_leak_into_each_other(tmp_path: Path) -> None:
    network = random_network(4)
    pixels = random_pixels(network, 5)
    path = write_network(network, tmp_path / "n.net", pixels)
    forward = engine.LavaJob(path, network.input.signal(pixels, network.n_steps), network.n_steps)
    backward = engine.LavaJob(path, network.input.signal(pixels[::-1], network.n_steps), network.n_steps)
    one, other = engine.run_jobs([forward, backward])
    np.testing.assert_array_equal(one.logits, other.logits[::-1])


@pytest.mark.lava
def test_a_run_out_of_time_is_killed_and_said(tmp_path: Path) -> None:
    network = random_network(1)
    pixels = random_pixels(network, 400)
    path = write_network(network, tmp_path / "n.net", pixels)
    with pytest.raises(EngineError) as caught:
        list(engine.stream(path, network, pixels, timeout_s=0.5))
    assert str(caught.value) == (
        "engine `lava`: no answer for 400 samples after 0.5 s\nhint: give more with --timeout, or fewer --samples"
    )
    assert workers_left(tmp_path) == []


@pytest.mark.lava
def test_a_failing_run_says_why(tmp_path: Path) -> None:
    network = random_network(1)
    path = tmp_path / "no.net"
    job = engine.LavaJob(path, network.input.signal(random_pixels(network, 1), 1), 1)
    with pytest.raises(EngineError, match=r"engine `lava`: .*UsageError: no such file: `.*no.net`"):
        engine.run_jobs([job])
    assert workers_left(tmp_path) == []


@pytest.mark.lava
def test_a_failing_lava_process_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lava keeps the exception to itself, and its other processes wait for ever."""
    worker = """
        import sys
        from nctool_deploy.lava_runner.run import main
        from lava.proc.lif.models import PyLifResetModelBitAcc

        def fail(self):
            raise ValueError("broken on purpose")

        PyLifResetModelBitAcc.run_spk = fail
        main(sys.argv[1:])
    """
    (tmp_path / "broken_worker.py").write_text(textwrap.dedent(worker))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(engine, "WORKER", "broken_worker")
    network = random_network(1)
    pixels = random_pixels(network, 1)
    path = write_network(network, tmp_path / "n.net", pixels)
    with pytest.raises(EngineError) as caught:
        list(engine.stream(path, network, pixels, timeout_s=120))
    assert str(caught.value) == (
        "engine `lava`: ValueError: broken on purpose\nhint: `--engine reference` runs the same file"
    )
    assert workers_left(tmp_path) == []


@pytest.mark.lava
def test_a_stock_loader_rejects_the_file(digits_model: Path) -> None:
    script = textwrap.dedent(f"""
        import nctool_deploy.lava_runner  # makes Lava importable
        from lava.lib.dl.netx import hdf5

        hdf5.Network({str(digits_model)!r}, input_message_bits=8)
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[-1:] == ["AttributeError: 'NoneType' object has no attribute 'pop'"]


@pytest.mark.lava
def test_a_user_can_run_the_network_as_a_lava_process(digits_model: Path) -> None:
    script = textwrap.dedent(f"""
        import numpy as np
        from nctool_deploy import Network  # first: it makes Lava importable
        from lava.lib.dl.netx import hdf5
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg
        from lava.proc.io.source import RingBuffer

        if __name__ == "__main__":
            network = Network({str(digits_model)!r})
            assert isinstance(network, hdf5.Network) and len(network) == 4
            source = RingBuffer(data=np.ones((*network.inp.shape, 8), np.int32))
            source.s_out.connect(network.inp)
            network.run(condition=RunSteps(8), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            potential = network.out_layer.neuron.u.get()
            network.stop()
            print("logits", len(potential))
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout.splitlines()[-1:] == ["logits 10"], ended.stderr


def test_no_sample_and_no_step_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "require_lava", lambda: None)
    network = random_network(1)
    with pytest.raises(RangeError) as caught:
        engine.stream(tmp_path / "n.net", network, random_pixels(network, 1)[:0])
    assert str(caught.value) == f"simulation: 0 samples and {network.n_steps} steps, allowed >= 1 of both"


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_samples_are_not_cast_to_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    monkeypatch.setattr(engine, "require_lava", lambda: None)
    network = random_network(1)
    pixels = random_pixels(network, 2)
    content = read(write_network(network, tmp_path / "n.net", pixels))
    job = Job(tmp_path / "n.net", content, pixels.astype(kind) + 256)
    with pytest.raises(RangeError) as caught:
        list(traces("lava", job))
    assert str(caught.value) == (
        f"input: got {np.dtype(kind)} {network.input.shape} per sample, allowed uint8 {network.input.shape}\n"
        "hint: give the data set that the network was trained on, as pixels 0..255"
    )


def test_long_jobs_are_split(digits_model: Path) -> None:
    network = read(digits_model).network
    assert 1 <= engine.samples_per_run(network, 4) <= engine.MAX_SAMPLES_PER_RUN
    assert engine.samples_per_run(network, 10**9) == 1


def workers_left(folder: Path, patience_s: float = 10.0) -> list[str]:
    """Return the command lines of workers that run a model in `folder`, once there are none or patience is over.

    Those that were killed need a moment to end.
    """
    deadline = time.monotonic() + patience_s
    while (found := worker_processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def worker_processes(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if engine.WORKER in command and str(folder) in command:
            found.append(command)
    return found
