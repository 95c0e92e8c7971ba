"""Maximum pooling in Lava: the same trace as the reference engine, in every backend."""

from __future__ import annotations

import numpy as np
import pytest

from nctool.errors import RangeError
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import INPUT_NAME, InputEncoding, IntNetwork
from nctool.reference.simulate import simulate
from nctool_deploy.lava.engine import LavaJob, run_jobs
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target
from tests.lava.test_stock import same_trace, stock_network
from tests.support.networks import conv, dense, fire, maximum, random_pixels, random_pooled, read_out, signed_input

LAVA = find_target("lava")


def skipping(n_steps: int) -> IntNetwork:
    """Two convolutions, one behind a maximum, meet in a readout that also reads what the maximum reads."""
    rng = np.random.default_rng(1)
    encoding = InputEncoding((2, 6, 6), signed_input(2).table)
    first = fire("a", conv(INPUT_NAME, rng.integers(-9, 10, (3, 2, 3, 3)), padding=(1, 1)), threshold=64 << 4,
                 initial=32 << 4, bias=9, shape=(3, 6, 6))  # fmt: skip
    top = maximum("m", "a", (3, 6, 6), np.ones((3, 3)), stride=(2, 2), padding=(1, 1))
    both = fire("b", conv("m", rng.integers(-60, 90, (4, 3, 1, 1))), conv("a", rng.integers(-60, 90, (4, 3, 2, 2)),
                stride=(2, 2)), threshold=64, initial=32, shape=(4, 3, 3))  # fmt: skip
    last = read_out(dense("b", rng.integers(-60, 60, (3, 36))), dense("m", rng.integers(-60, 60, (3, 27))))
    network = IntNetwork(encoding, (first, top, both, last), n_steps)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def many_channels(backend: str) -> IntNetwork:
    """A maximum of 200 channels: as many groups are zeros in Lava's Conv."""
    rng = np.random.default_rng(2)
    reset = "zero" if backend == "zero-reset" else "subtract"
    encoding = InputEncoding((1, 4, 4), signed_input(1).table)
    weight = rng.integers(-20, 21, (200, 1, 1, 1))
    first = fire("a", conv(INPUT_NAME, weight), threshold=1024, reset=reset, shape=(200, 4, 4))
    top = maximum("m", "a", (200, 4, 4), [[0, 1], [0, 1]], stride=(2, 2), padding=(0, 1))
    last = read_out(dense("m", rng.integers(-9, 10, (2, top.n_neurons))))
    network = IntNetwork(encoding, (first, top, last), 1 if backend == "population" else 2)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["autapse", "population", "zero-reset"])
def test_maximum_pooling_in_lava(tmp_path, backend):
    if backend == "autapse":
        networks = [skipping(1), skipping(4), *map(random_pooled, range(6))]
    else:
        drawn = (stock_network(3 * seed, backend) for seed in range(20))
        networks = [network for network in drawn if held(network, backend)][:5]
        assert len(networks) == 5
    jobs, expected = [], []
    for number, network in enumerate([*networks, many_channels(backend)]):
        lowered, pixels = lower(network, LAVA, backend), random_pixels(network, 4, number)
        path = tmp_path / f"{number}.net"
        write(path, lowered, KnownAnswers(pixels[:1], simulate(lowered.network, pixels[:1])))
        jobs.append(LavaJob(path, network.input.signal(pixels, network.n_steps), network.n_steps))
        expected.append(simulate(network, pixels))
    for found, wanted in zip(run_jobs(jobs), expected, strict=True):
        same_trace(found, wanted)
    pooled = [spikes for trace in expected for name, spikes in trace.spikes.items() if name[0] == "m"]
    assert any(spikes.any() for spikes in pooled)
    assert not all(spikes.all() for spikes in pooled)


def held(network: IntNetwork, backend: str) -> bool:
    try:
        lower(network, LAVA, backend)
    except RangeError:
        return False
    return True
