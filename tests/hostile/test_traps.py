"""Where Lava and netx are known to give wrong answers without a word: what nctool runs there is right, or refused.

Each trap is a network of its own. All of them run in one Lava process, in every backend that can hold them, and
give the trace of the reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import convert
from nctool.errors import RangeError
from nctool.fast.engine import FastEngine
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import Bound, InputEncoding, IntegrateFire, IntNetwork, Population
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace, join
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.lava.engine import LavaJob, run_jobs
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target
from tests.support.networks import SPIKING, conv, dense, fire, read_out, signed_input
from tests.support.refusals import refused

LAVA = find_target("lava")
N_SAMPLES = 3


def proved(*populations: Population, shape: tuple[int, ...], n_steps: int = 2) -> IntNetwork:
    network = IntNetwork(signed_input(*shape), populations, n_steps)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def behind(name: str, shape: tuple[int, ...], seed: int = 0) -> Population:
    """Return a readout that sees where every spike of `name` was: no two neurons have equal weights in all classes."""
    weight = np.random.default_rng(seed).integers(-9, 10, (3, int(np.prod(shape))))
    weight[:, :2] = [[-9, 9]]
    return read_out(dense(name, weight))


def image(
    seed: int, out: int, shape: tuple[int, ...], kernel: tuple[int, ...], low: int = -9, high: int = 10, **geometry
):
    """Return a convolution from an image to `out` channels, with a readout behind it."""
    rng = np.random.default_rng(seed)
    groups = geometry.get("groups", 1)
    synapse = conv("input", rng.integers(low, high, (out, shape[0] // groups, *kernel)), **geometry)
    driven = synapse.output_shape(shape)
    first = fire("c", synapse, threshold=100, initial=0, shape=driven)
    return proved(first, behind("c", driven), shape=shape)


def vector(weight: object, threshold: int = 40, n_steps: int = 2) -> IntNetwork:
    """Return a dense layer on a vector, with a readout of mixed signs behind it."""
    weight = np.asarray(weight)
    first = fire("d", dense("input", weight), threshold=threshold, initial=0)
    last = read_out(dense("d", np.arange(2 * len(weight)).reshape(2, -1) - len(weight)))
    return proved(first, last, shape=(weight.shape[1],), n_steps=n_steps)


def flattened() -> IntNetwork:
    """Return a dense layer that picks one pixel of a (2, 3, 4) image behind an identity convolution for each class."""
    synapse = conv("input", np.eye(2)[:, :, None, None] * 3)
    weight = np.zeros((4, 24))
    weight[range(4), [1, 4, 12, 23]] = 5  # (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 2, 3)
    weight[0, 0] = -1
    return proved(fire("c", synapse, threshold=90, shape=(2, 3, 4)), read_out(dense("c", weight)), shape=(2, 3, 4))


def pooled_behind_padding() -> IntNetwork:
    """Convert a padded convolution behind average pooling: its folded kernel reaches over the border."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), NoisyQuantReLU(4, 0.5), nn.AvgPool2d(2), nn.Conv2d(2, 3, 3, padding=1),
        NoisyQuantReLU(4, 0.3), nn.Flatten(), nn.Linear(3 * 3 * 4, 3),
    ).eval()  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 6, 8), np.uint8)
    number_format = find_backend("autapse").number_format
    return convert(
        model,
        input_shape=(1, 6, 8),
        mean=(0.5,),
        std=(0.25,),
        number_format=number_format,
        n_steps=2,
        calibration=pixels,
    ).network


NETWORKS = {
    "127 groups": image(0, 127, (127, 2, 2), (1, 1), groups=127),
    "128 groups": image(0, 128, (128, 2, 2), (1, 1), groups=128),
    "131 groups": image(7, 131, (131, 2, 3), (2, 2), groups=131),
    "groups of several channels": image(8, 260 * 2, (260 * 3, 1, 2), (1, 2), groups=260),
    "a kernel that is not square and not symmetric": image(1, 2, (2, 5, 7), (2, 4)),
    "a stride beyond the kernel": image(2, 3, (1, 7, 9), (2, 1), stride=(3, 4)),
    "stride, padding and dilation that differ by axis": image(
        3, 2, (2, 6, 9), (2, 3), stride=(1, 2), padding=(1, 2), dilation=(2, 1)
    ),
    "an image that is not square, flattened": flattened(),
    "padding behind folded pooling": pooled_behind_padding(),
    "weights that are all negative": vector([[-128, -3, -1], [-128, -128, -5]]),
    "weights that are all negative or zero": vector([[-128, 0, -1], [0, 0, -5]]),
    "weights that are all zero": vector([[0, 0], [0, 0], [0, 0]]),
    "weights that are all positive": vector([[127, 3, 1], [1, 127, 5]]),
    "the most negative weight among others": vector([[-128, 127, 1], [1, -128, 5]]),
    "a channel without weights": vector([[0, 0, 0], [9, 9, 3]]),
    "a layer that never fires": vector([[1, -1], [2, 1]], threshold=8000),
    "a layer that always fires": proved(
        fire("d", dense("input", [[1, -1]]), threshold=1, bias=127), read_out(dense("d", [[5], [-7]])), shape=(2,)
    ),
    "a window of one step": vector([[3, -2], [-5, 7]], n_steps=1),
    "convolution weights of one sign": image(4, 2, (1, 4, 4), (2, 3), low=-85, high=0),
}


@dataclass(frozen=True)
class Case:
    network: IntNetwork
    pixels: np.ndarray
    trace: Trace


def holds(network: IntNetwork, backend: str) -> IntNetwork | None:
    """Return the network as the backend can hold it: its neurons reset as it does, its window is as it allows."""
    chosen = find_backend(backend)
    populations = network.populations
    if backend == "zero-reset":
        neurons = [p.neuron for p in populations]
        one = [replace(n, reset="zero") if isinstance(n, IntegrateFire) else n for n in neurons]
        populations = tuple(replace(p, neuron=n) for p, n in zip(populations, one, strict=True))
    changed = replace(network, populations=populations, n_steps=chosen.steps or network.n_steps)
    changed = with_bounds(changed, {name: found.bound("proved") for name, found in prove(changed).items()})
    try:
        return lower(changed, LAVA, backend).network
    except RangeError:
        return None


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[tuple[str, str], Case]:
    """Every trap in every backend that holds it, run by Lava in one process."""
    folder: Path = tmp_path_factory.mktemp("traps")
    cases, jobs = {}, []
    for name, network in NETWORKS.items():
        pixels = np.random.default_rng(5).integers(0, 256, (N_SAMPLES, *network.input.shape), np.uint8)
        for backend in (backend.name for backend in SPIKING):
            held = holds(network, backend)
            if held is not None:
                path = folder / f"{len(jobs)}.net"
                known = KnownAnswers(pixels, simulate(held, pixels))
                write(path, lower(held, LAVA, backend), known)
                jobs.append(LavaJob(path, held.input.signal(pixels, held.n_steps), held.n_steps))
                cases[name, backend] = (held, pixels)
    return {key: Case(*case, trace) for (key, case), trace in zip(cases.items(), run_jobs(jobs), strict=True)}


@pytest.mark.lava
@pytest.mark.parametrize("name", NETWORKS)
def test_a_trap(ran, name):
    found = {backend: case for (trap, backend), case in ran.items() if trap == name}
    assert "autapse" in found
    for backend, case in found.items():
        expected = simulate(case.network, case.pixels)
        assert join(FastEngine(case.network).traces(case.pixels)) == expected
        np.testing.assert_array_equal(case.trace.logits, expected.logits, err_msg=backend)
        for population, spikes in expected.spikes.items():
            np.testing.assert_array_equal(case.trace.spikes[population], spikes, err_msg=f"{backend} {population}")


@pytest.mark.lava
def test_which_traps_stock_netx_can_hold(ran):
    """What a stock loader would change is refused there, and thresholds too far apart for one bias register."""
    only_autapse = {name for name, _ in ran if (name, "population") not in ran}
    assert only_autapse == {
        "weights that are all negative",
        "weights that are all negative or zero",
        "weights that are all zero",
        "padding behind folded pooling",
    }


def test_the_traps_are_sprung():
    """Layers that must spike do, in at least one of the samples, and those that must not do not."""
    for name, network in NETWORKS.items():
        pixels = np.random.default_rng(5).integers(0, 256, (N_SAMPLES, *network.input.shape), np.uint8)
        trace = simulate(network, pixels)
        spikes = trace.spikes[network.populations[0].name]
        assert spikes.any() != (name in ("a layer that never fires", "weights that are all zero")), name
        assert spikes.all() == (name == "a layer that always fires"), name


# --- limits that no backend can get round -----------------------------


def refusal(network: IntNetwork, backend: str = "autapse") -> str:
    return refused(RangeError, lower, network, LAVA, backend).message


def test_a_sum_beyond_the_state_is_refused():
    wide = read_out(dense("input", [[127] * 9]), bound=Bound("proved", 0, 131072))
    network = IntNetwork(InputEncoding((9,), signed_input(9).table), (wide,), 1)
    assert refusal(network) == "population `out`: accumulated input reaches 0..131072, allowed -131071..131071"
    lower(replace(network, populations=(replace(wide, bound=Bound("proved", 0, 131071)),)), LAVA)


def test_a_weight_of_nine_bits_is_refused():
    assert refusal(vector([[128, -1]])) == "population `d`: weight 128 does not fit signed 8 bit, allowed -128..127"
