"""The Lava engine: the same trace as the reference engine, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from nctool.errors import EngineError, RangeError, UsageError
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import (
    INPUT_NAME,
    ConvGeometry,
    InputEncoding,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Synapse,
)
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool.running.engines import Job, traces
from nctool_deploy.lava import engine
from nctool_deploy.netx import read
from tests.support.networks import random_network, random_pixels, write_network

pytestmark = pytest.mark.fresh_lava

INVALID = "ValueError: invalid literal for int() with base 10: 'x'"


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
        import nctool_deploy.lava.runner  # makes Lava importable
        import numpy as np
        from nctool.ir.network import ConvGeometry, Synapse
        from nctool_deploy.lava.runner import branch

        branch.MAX_UNROLLED = 0

        def process(groups=1, channels=1, exponent=0, delay=0):
            weight = np.full((groups, channels, 1, 1), 127, np.int32)
            synapse = Synapse("input", weight, exponent, ConvGeometry(groups=groups))
            source = (groups * channels, 1, 1)
            return type(branch.Branch(synapse, source, delay, branch.GRADED_BITS, 128).process()).__name__

        print(process(127), process(channels=516), process(128), process(channels=517))
        print(process(exponent=1), process(delay=1))
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
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
    assert processes_left() == []


@pytest.mark.lava
def test_a_failing_run_says_why(tmp_path: Path) -> None:
    network = random_network(1)
    path = tmp_path / "no.net"
    job = engine.LavaJob(path, network.input.signal(random_pixels(network, 1), 1), 1)
    with pytest.raises(UsageError) as caught:
        engine.run_jobs([job])
    assert caught.value.message == f"no such file: `{path}`"
    assert processes_left() == []


WAY_OUT = (
    "hint: without Lava: `nctool run-sim MODEL.net --engine fast`, `nctool verify MODEL.net --engines reference,fast`"
)


def refused_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> str:
    """Run a network with something broken in the subprocess; return the error."""
    lines = ["import os, signal, threading, nctool_deploy.lava.runner", textwrap.dedent(change)]
    worker = "\n".join([*lines, "from nctool_deploy.lava.runner.run import main"])
    (tmp_path / "broken_worker.py").write_text(worker)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(engine, "WORKER", "broken_worker")
    network = random_network(1)
    pixels = random_pixels(network, 1)
    path = write_network(network, tmp_path / "n.net", pixels)
    with pytest.raises(EngineError) as caught:
        list(engine.stream(path, network, pixels))
    assert processes_left() == []
    return str(caught.value)


IN_A_LAVA_PROCESS = """
    from lava.proc.lif.models import PyLifResetModelBitAcc

    def fail(self):
        {}

    PyLifResetModelBitAcc.run_spk = fail
"""


@pytest.mark.lava
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (IN_A_LAVA_PROCESS.format("raise ValueError('broken on purpose')"), "ValueError: broken on purpose"),
        (IN_A_LAVA_PROCESS.format("threading.Thread(target=int, args='x').start(); signal.pause()"), INVALID),
        (IN_A_LAVA_PROCESS.format("os.kill(os.getpid(), signal.SIGKILL)"), "a process of Lava ended by SIGKILL"),
        ("raise OSError('no space left on device')", "OSError: no space left on device"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
        ("os._exit(3)", "exit code 3"),
    ],
    ids=["a Lava process raises", "its thread raises", "it is killed", "the runner raises", "is killed", "exits"],
)
def test_what_ends_a_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, reason: str) -> None:
    """Lava keeps an exception to itself, and its other processes wait for ever."""
    assert refused_run(tmp_path, monkeypatch, change) == f"engine `lava`: {reason}\n{WAY_OUT}"


@pytest.mark.lava
def test_an_error_behind_the_start_of_lava_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping Lava then would last for ever."""
    change = """
        from nctool_deploy.lava.runner import record

        def fail(process):
            raise OSError(28, "No space left on device")

        record.watched = fail
    """
    expected = f"engine `lava`: OSError: [errno 28] no space left on device\n{WAY_OUT}"
    assert refused_run(tmp_path, monkeypatch, change) == expected


@pytest.mark.lava
def test_a_file_that_is_replaced_while_lava_runs_is_said(tmp_path: Path) -> None:
    network, other = random_network(1), random_network(2)
    pixels = random_pixels(network, 1)
    path = write_network(other, tmp_path / "n.net", random_pixels(other, 1))
    with pytest.raises(EngineError) as caught:
        list(engine.stream(path, network, pixels))
    assert str(caught.value) == f"`{path}` was replaced while Lava ran it\nhint: run again, and let the file be"


@pytest.mark.lava
def test_a_run_needs_no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(1)
    pixels = random_pixels(network, 1)
    path = write_network(network, tmp_path / "n.net", pixels)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    (actual,) = engine.stream(path, network, pixels)
    assert_same(simulate(network, pixels), actual)


@pytest.mark.lava
def test_a_run_says_why_it_fails_where_no_file_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Linux has such files."""
    monkeypatch.delattr(os, "memfd_create")
    assert refused_run(tmp_path, monkeypatch, "raise RuntimeError('broken')") == (
        f"engine `lava`: RuntimeError: broken\n{WAY_OUT}"
    )


@pytest.mark.lava
def test_a_stock_loader_rejects_the_file(digits_model: Path) -> None:
    script = textwrap.dedent(f"""
        import nctool_deploy.lava.runner  # makes Lava importable
        from lava.lib.dl.netx import hdf5

        hdf5.Network({str(digits_model)!r}, input_message_bits=8)
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
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
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
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


def processes_left(patience_s: float = 60.0) -> list[int]:
    """Return the processes that runs of this one left, once there are none or patience is over.

    Those that were killed need a moment to end.
    """
    deadline = time.monotonic() + patience_s
    while (found := processes_of_runs()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def processes_of_runs() -> list[int]:
    """Return the processes that a run started from here consists of; all have its command line."""
    started, found = f"enter({engine.WORKER!r}, {os.getpid()}, ".encode(), []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if started in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found
