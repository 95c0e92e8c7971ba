"""Graded spikes on Lava: every payload and every logit is the reference engine's, one new sample a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import IntNetwork, Population, Synapse
from nctool.reference.simulate import simulate
from nctool_deploy.lava.engine import LavaJob, run_jobs
from tests.lava.test_stock import same_trace
from tests.support.networks import (
    conv,
    dense,
    fitting_graded,
    graded,
    graded_read_out,
    random_pixels,
    signed_input,
    write_network,
)

RNG = np.random.default_rng(3)


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


NETWORKS = {"a dense chain": dense_chain(), "a residual block": residual()}


@pytest.mark.lava
def test_graded_networks_run_on_lava_as_on_the_reference_engine(tmp_path: Path) -> None:
    networks = {**NETWORKS, **{f"random {seed}": fitting_graded(seed) for seed in range(12)}}
    samples = {name: random_pixels(network, 9) for name, network in networks.items()}
    jobs = [
        LavaJob(
            write_network(network, tmp_path / f"{number}.net", samples[name]),
            network.input.signal(samples[name], 1),
            1,
        )
        for number, (name, network) in enumerate(networks.items())
    ]
    for (name, network), found in zip(networks.items(), run_jobs(jobs), strict=True):
        same_trace(found, simulate(network, samples[name]))
