"""One law for the whole tool: reference, fast and Lava give the same trace of any network, bit for bit.

Lava takes seconds to start, so that one example is many networks, run one after the other in one process. How many
examples are tried follows the Hypothesis profile: one in `ci`, 40 in `nightly`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nctool.fast.engine import FastEngine
from nctool.reference.simulate import simulate
from nctool.reference.trace import join
from nctool.verification.divergence import first_divergence
from nctool_deploy.lava.engine import LavaJob, run_jobs
from tests.support.networks import random_network, random_pixels, seeds, write_network

NETWORKS = 14
"""Networks in one example."""

N_SAMPLES = 4
CHEAP_EXAMPLES = 50
"""How many examples of other laws one of this law costs."""


@pytest.mark.lava
@pytest.mark.usefixtures("one_thread")
@settings(
    max_examples=max(1, settings.default.max_examples // CHEAP_EXAMPLES),
    phases=[Phase.reuse, Phase.generate],  # a failure names its network: a smaller one is not worth minutes
)
@given(st.lists(seeds, min_size=NETWORKS, max_size=NETWORKS, unique=True))
def test_three_engines_give_one_trace(tmp_path_factory, chosen):
    """Odd shapes, groups, strides, one-signed and zero weights, 16-bit biases, thresholds per channel, 1 to 5 steps.

    Pixels are graded where the seed is even, and spike trains where it is odd.
    """
    folder = tmp_path_factory.mktemp("networks")
    networks = [random_network(seed, rate=seed % 2 == 1, enlarging=seed % 3 == 0) for seed in chosen]
    samples = [random_pixels(network, N_SAMPLES, seed) for seed, network in zip(chosen, networks, strict=True)]
    jobs = [
        LavaJob(write_network(n, folder / f"{k}.net", pixels), n.input.signal(pixels, n.n_steps), n.n_steps)
        for k, (n, pixels) in enumerate(zip(networks, samples, strict=True))
    ]
    total = 0
    for seed, network, pixels, lava in zip(chosen, networks, samples, run_jobs(jobs), strict=True):
        reference, fast = simulate(network, pixels), join(FastEngine(network).traces(pixels))
        assert first_divergence(network, reference, fast, ("reference", "fast")) is None, f"random_network({seed})"
        assert first_divergence(network, reference, lava, ("reference", "lava")) is None, f"random_network({seed})"
        total += sum(int(np.count_nonzero(spikes)) for spikes in reference.spikes.values())
    assert total > 0, "no network spiked: nothing was compared"
