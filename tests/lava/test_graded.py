"""Graded spikes on Lava: every payload and every logit is the reference engine's, one new sample a step."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nctool.errors import UnsupportedError
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import Bound, IntNetwork, Population, Synapse
from nctool.reference.simulate import simulate
from nctool_deploy.lava import engine
from nctool_deploy.lava.engine import LavaJob, run_jobs
from nctool_deploy.pipeline import depths
from tests.lava.test_stock import same_trace
from tests.support.networks import (
    as_pixels,
    conv,
    dense,
    fitting_graded,
    graded,
    graded_read_out,
    random_pixels,
    signed_input,
    write_network,
)
from tests.support.refusals import refused

RNG = np.random.default_rng(3)
ONES = np.ones((2, 1, 1, 1), int)


def proved(*populations: Population, shape: tuple[int, ...] = (2,)) -> IntNetwork:
    network = IntNetwork(signed_input(*shape), populations, 1)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def weights(*shape: int, least: int = -127) -> np.ndarray:
    return RNG.integers(least, 128, shape)


def dense_chain() -> IntNetwork:
    """Biases of no, one and two sources, exponents of either sign, a layer that never sends."""
    return proved(
        graded("a", dense("input", weights(30, 2)), bias=RNG.integers(-16320, 16321, 30)),
        graded("b", dense("a", weights(20, 30), -12), bias=RNG.integers(-127, 128, 20)),
        graded("silent", dense("b", -np.ones((3, 20)), -2), bias=-5),
        graded("c", dense("b", weights(10, 20), -12), dense("silent", weights(10, 3), 7)),
        graded_read_out(dense("c", weights(5, 10), -3), dense("input", weights(5, 2), 3), bias=300),
    )


def residual() -> IntNetwork:
    """Convolutions with strides and groups, two skips, one over three layers, and a dense readout."""
    return proved(
        graded("stem", conv("input", weights(4, 2, 3, 3), padding=(1, 1)), bias=[9, -400, 0, 77], shape=(4, 6, 4)),
        graded("one", shifted(conv("stem", weights(8, 4, 3, 3), padding=(1, 1), stride=(2, 2)), -10), shape=(8, 3, 2)),
        graded("two", shifted(conv("one", weights(8, 1, 3, 3), padding=(1, 1), groups=8), -8), shape=(8, 3, 2)),
        graded(
            "three",
            shifted(conv("two", weights(8, 8, 1, 1)), -11),
            shifted(conv("stem", weights(8, 4, 1, 1), stride=(2, 2)), -7),
            shifted(conv("one", np.full((8, 1, 1, 1), 64), groups=8), -6),
            bias=200,
            shape=(8, 3, 2),
        ),
        graded_read_out(dense("three", weights(3, 48), -11), dense("stem", weights(3, 96), -10), bias=-7),
        shape=(2, 6, 4),
    )


def shifted(synapse: Synapse, exponent: int) -> Synapse:
    return replace(synapse, exponent=exponent)


def maximum_of_windows() -> IntNetwork:
    """Each 2 x 2 window of an image, by two levels of differences (rule G5), beside the image itself."""
    first, at = np.eye(2, dtype=int)[:, :, None, None], np.zeros((2, 1, 2, 2), int)
    across, down, corner = at.copy(), at.copy(), at.copy()
    across[:, 0, 0] = down[:, 0, 1] = [-1, 1]
    corner[:, 0, 0, 0] = 1
    below = corner[:, :, ::-1] - corner
    windows = {"stride": (2, 2), "groups": 2}
    of_rows = {"groups": 2}
    return proved(
        graded("x", conv("input", first), shape=(2, 4, 4)),
        graded("upper", conv("x", across, **windows), shape=(2, 2, 2)),
        graded("lower", conv("x", down, **windows), shape=(2, 2, 2)),
        graded(
            "rows",
            conv("x", below, **windows),
            conv("lower", ONES, **of_rows),
            conv("upper", -ONES, **of_rows),
            shape=(2, 2, 2),
        ),
        graded(
            "max",
            conv("x", corner, **windows),
            conv("upper", ONES, **of_rows),
            conv("rows", ONES, **of_rows),
            shape=(2, 2, 2),
        ),
        graded_read_out(dense("max", np.eye(8))),
        shape=(2, 4, 4),
    )


def enlarged() -> IntNetwork:
    """A transposed convolution, as one that reads an image with zeros between, beside a skip."""
    wider = {"padding": (1, 1), "input_dilation": (2, 2)}
    return proved(
        graded("small", conv("input", weights(3, 2, 2, 2), stride=(2, 2)), bias=50, shape=(3, 2, 3)),
        graded("wide", shifted(conv("small", weights(2, 3, 4, 4), **wider), -9), shape=(2, 2, 4)),
        graded(
            "both",
            shifted(conv("small", weights(2, 3, 4, 4), **wider), -8),
            conv("wide", ONES, groups=2),
            shape=(2, 2, 4),
        ),
        graded_read_out(dense("both", weights(3, 16), -8)),
        shape=(2, 4, 6),
    )


def upper_bound() -> IntNetwork:
    """Each of four neurons sends no more than 6 (rule G6)."""
    return proved(
        graded("below", dense("input", -weights(4, 2)), bias=6),
        graded("capped", dense("below", -np.eye(4)), bias=6),
        graded_read_out(dense("capped", weights(3, 4))),
    )


def summing(n_most: int) -> IntNetwork:
    """A sum of 127 * 127 * 2**7 from each of 8 neurons, times 64 or, from some, 127; shifted by 16."""
    hidden = graded("a", dense("input", np.tile([127, 0], (8, 1)), 7))
    out = graded_read_out(dense("a", [[127] * n_most + [64] * (8 - n_most)], -16), dense("a", np.zeros((1, 8))))
    network = IntNetwork(signed_input(2), (hidden, out), 1)
    return with_bounds(network, dict.fromkeys(("a", "out"), Bound("calibrated", -(2**22), 2**22)))


NETWORKS = {
    "a dense chain": dense_chain(),
    "a residual block": residual(),
    "maxima": maximum_of_windows(),
    "an upper bound": upper_bound(),
    "an enlarged image": enlarged(),
}


def jobs_of(networks: dict[str, IntNetwork], samples: dict[str, np.ndarray], folder: Path) -> list[LavaJob]:
    return [
        LavaJob(
            write_network(network, folder / f"{number}.net", samples[name]), network.input.signal(samples[name], 1), 1
        )
        for number, (name, network) in enumerate(networks.items())
    ]


@pytest.mark.lava
def test_graded_networks_run_on_lava_as_on_the_reference_engine(tmp_path: Path) -> None:
    networks = {**NETWORKS, **{f"random {seed}": fitting_graded(seed) for seed in range(10)}}
    samples = {name: random_pixels(network, 9) for name, network in networks.items()}
    for name, found in zip(networks, run_jobs(jobs_of(networks, samples, tmp_path)), strict=True):
        expected = simulate(networks[name], samples[name])
        assert not any(expected.overflows.values()), name
        same_trace(found, expected)
        if name in NETWORKS:
            assert all((sent > 0).any() == (layer != "silent") for layer, sent in expected.spikes.items()), name
        if name == "maxima":
            values = as_values(samples[name]).reshape(9, 2, 2, 2, 2, 2).max(axis=(3, 5))
            np.testing.assert_array_equal(found.logits[:, 0], np.maximum(values, 0).reshape(9, 8))


def as_values(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(int) - 128


@pytest.mark.lava
def test_O3_a_sum_beyond_its_register_wraps_on_lava(tmp_path: Path) -> None:
    """8 * 64 and 63 more times 127 * 127 * 2**7 are 1.06e9 and 1.19e9: the limit is 2**30 - 1, about 1.07e9."""
    networks = {"within": summing(0), "beyond": summing(1)}
    samples = {name: as_pixels([[127, 0], [0, 0]]) for name in networks}
    within, beyond = run_jobs(jobs_of(networks, samples, tmp_path))
    expected = {name: simulate(network, samples[name]) for name, network in networks.items()}
    assert [trace.overflows["out"] for trace in expected.values()] == [0, 1]
    same_trace(within, expected["within"])
    assert beyond.logits[0, 0, 0] < 0 < expected["beyond"].logits[0, 0, 0]


@pytest.mark.lava
def test_a_large_convolution_without_an_exponent_runs_as_conv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for one of payloads whose sums may exceed 24 bits, which Conv would clamp."""
    worker = """
        from nctool_deploy.lava.runner import branch
        from nctool_deploy.lava.runner.run import main

        branch.MAX_UNROLLED = 0
        process = branch.Branch.process
        expected = {"input": "Conv", "a": "Sparse", "b": "Sparse", "c": "Conv", "d": "Dense"}

        def checked(self):
            made = process(self)
            assert type(made).__name__ == expected[self.synapse.source], self.synapse.source
            return made

        branch.Branch.process = checked
    """
    (tmp_path / "large_worker.py").write_text(textwrap.dedent(worker))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(engine, "WORKER", "large_worker")
    image = {"shape": (4, 5, 6)}
    network = proved(
        graded("a", conv("input", weights(4, 2, 3, 3), padding=(1, 1)), bias=130, **image),
        graded("b", shifted(conv("a", weights(4, 2, 3, 3), padding=(1, 1), groups=2), -12), **image),
        graded("c", conv("b", np.full((4, 1, 1, 1), 2), groups=4), **image),
        graded("d", conv("c", np.ones((4, 1, 1, 1)), groups=4), **image),
        graded_read_out(dense("d", weights(3, 120), -9)),
        shape=(2, 5, 6),
    )
    samples = {"large": random_pixels(network, 5)}
    (found,) = run_jobs(jobs_of({"large": network}, samples, tmp_path))
    same_trace(found, simulate(network, samples["large"]))


@pytest.mark.lava
def test_a_stock_loader_rejects_the_file(tmp_path: Path) -> None:
    network = upper_bound()
    path = write_network(network, tmp_path / "graded.net", random_pixels(network, 1))
    script = textwrap.dedent(f"""
        import nctool_deploy.lava.runner  # makes Lava importable
        from lava.lib.dl.netx import hdf5

        hdf5.Network({str(path)!r}, input_message_bits=8)
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1:] == ["AttributeError: 'NoneType' object has no attribute 'pop'"]


@pytest.mark.lava
def test_a_user_can_stream_samples_through_the_network(tmp_path: Path) -> None:
    """The logits of sample n stand at step n + depth in what the readout sends."""
    network = dense_chain()
    pixels = random_pixels(network, 4)
    path = write_network(network, tmp_path / "graded.net", pixels)
    np.save(tmp_path / "signal.npy", network.input.encode(pixels))
    assert max(depths(network).values()) == 5
    script = textwrap.dedent(f"""
        import numpy as np
        from nctool_deploy import Network  # first: it makes Lava importable
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg
        from lava.proc.io.sink import RingBuffer as Sink
        from lava.proc.io.source import RingBuffer

        if __name__ == "__main__":
            samples = np.load({str(tmp_path / "signal.npy")!r}).astype(np.int32)
            network = Network({str(path)!r}, n_samples=len(samples))
            depth = 5
            data = np.zeros((*network.inp.shape, len(samples) + depth), np.int32)
            data[..., : len(samples)] = samples.T
            source, sink = RingBuffer(data=data), Sink(shape=network.out_layer.out.shape, buffer=len(samples) + depth)
            source.s_out.connect(network.inp)
            network.out_layer.out.connect(sink.a_in)
            network.run(condition=RunSteps(len(samples) + depth), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            print(sink.data.get().astype(int).T[depth:].tolist())
            network.stop()
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1:] == [str(simulate(network, pixels).logits[:, 0].tolist())], ended.stderr


@pytest.mark.lava
def test_a_window_of_more_steps_is_refused(tmp_path: Path) -> None:
    network = upper_bound()
    path = write_network(network, tmp_path / "graded.net", random_pixels(network, 1))
    error = refused(UnsupportedError, run_jobs, [LavaJob(path, np.zeros((1, 2, 2), np.int8), 2)])
    assert str(error) == "backend `graded`: a window of 2 steps, allowed 1"
