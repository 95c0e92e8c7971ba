"""Networks with skips on Lava: the same trace as the reference engine, which knows of no delays."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest

from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import IntNetwork, Population
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool_deploy.lava import engine
from tests.support.networks import as_pixels, conv, dense, fire, random_pixels, read_out, signed_input, write_network

RNG = np.random.default_rng(0)


def bounded(*populations: Population, shape: tuple[int, ...] = (2,), n_steps: int = 4) -> IntNetwork:
    network = IntNetwork(signed_input(*shape), populations, n_steps)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def weights(*shape: int) -> np.ndarray:
    return RNG.integers(-60, 90, shape)


def layer(name: str, *synapses, **options):
    """Return a population that fires in about half of the steps."""
    return fire(name, *synapses, **{"threshold": 64, "initial": 32, **options})


def first(n: int) -> Population:
    return fire("a", dense("input", weights(n, 2)), threshold=64 << 5, initial=64 << 4)


def skewed() -> IntNetwork:
    """`b` and `c` repeat what `a` does: `plus` and `minus` get c - a and a - c, which is nothing if all is in step."""
    repeat, skip = [[1]], [[-1]]
    return bounded(
        fire("a", dense("input", [[1]]), threshold=2, initial=1),
        fire("b", dense("a", repeat)),
        fire("c", dense("b", repeat)),
        fire("plus", dense("c", repeat), dense("a", skip)),
        fire("minus", dense("c", skip), dense("a", repeat)),
        read_out(dense("plus", [[1]]), dense("minus", [[1]]), dense("a", [[5]])),
        shape=(1,),
        n_steps=5,
    )


def image_branches() -> IntNetwork:
    """Two convolutions to half the size beside one that skips with stride 2, and a skip to the same place."""
    return bounded(
        layer("stem", conv("input", weights(3, 2, 3, 3) // 5, padding=(1, 1)), threshold=64 << 4, shape=(3, 5, 4)),
        layer("one", conv("stem", weights(6, 3, 3, 3), padding=(1, 1), stride=(2, 2)), shape=(6, 3, 2)),
        layer(
            "two",
            conv("one", weights(6, 6, 3, 3), padding=(1, 1)),
            conv("stem", weights(6, 3, 1, 1), stride=(2, 2)),
            shape=(6, 3, 2),
        ),
        layer(
            "three",
            conv("two", weights(6, 1, 3, 3), padding=(1, 1), groups=6),
            conv("one", np.full((6, 1, 1, 1), 100), groups=6),
            shape=(6, 3, 2),
        ),
        read_out(dense("three", weights(4, 36)), dense("stem", weights(4, 60))),
        shape=(2, 5, 4),
    )


def wide_skip(channels: int = 150) -> IntNetwork:
    """Return a depthwise convolution and a skip that passes it by, both of more groups than fit in 8 bits."""
    return bounded(
        layer(
            "a",
            conv("input", weights(channels, 1, 1, 1) // 5, groups=channels),
            threshold=64 << 4,
            shape=(channels, 2, 2),
        ),
        layer("b", conv("a", weights(channels, 1, 3, 3), padding=(1, 1), groups=channels), shape=(channels, 2, 2)),
        layer(
            "c",
            conv("b", weights(channels, 1, 1, 1), groups=channels),
            conv("a", np.full((channels, 1, 1, 1), 100), groups=channels),
            shape=(channels, 2, 2),
        ),
        read_out(dense("c", weights(4, 4 * channels))),
        shape=(channels, 2, 2),
        n_steps=2,
    )


GRAPHS = {
    "skips of several lengths, from the input too, with exponents": bounded(
        first(4),
        layer("b", dense("a", weights(4, 4)), bias=5),
        layer("c", dense("b", weights(4, 4)), dense("a", weights(4, 4), 2), dense("input", weights(4, 2)), bias=300),
        read_out(dense("c", weights(3, 4)), dense("a", weights(3, 4), 7), dense("input", weights(3, 2), 1), bias=7),
    ),
    "one time step": bounded(
        first(4),
        layer("b", dense("a", weights(4, 4)), dense("input", weights(4, 2))),
        layer("c", dense("a", weights(3, 4)), dense("b", weights(3, 4)), dense("input", weights(3, 2))),
        read_out(dense("input", weights(3, 2)), dense("a", weights(3, 4)), dense("c", weights(3, 3))),
        n_steps=1,
    ),
    "branches of images": image_branches(),
    "depthwise layers and a skip of more channels than Conv has groups": wide_skip(),
    "a channel of zeros in every branch, and a layer that never fires": bounded(
        fire("a", dense("input", weights(4, 2) * [[1], [0], [1], [1]]), threshold=64 << 5, initial=64 << 4),
        layer("silent", dense("a", np.zeros((4, 4))), bias=-3),
        layer("b", dense("a", weights(4, 4) * [[1], [1], [0], [1]]), dense("silent", weights(4, 4)), bias=[9, 0, 0, 0]),
        read_out(dense("silent", weights(3, 4)), dense("b", weights(3, 4)), dense("a", np.zeros((3, 4)))),
    ),
    "several synapses from one source": bounded(
        first(3),
        layer("b", dense("a", weights(3, 3)), dense("a", weights(3, 3), 1)),
        read_out(dense("b", weights(2, 3)), dense("a", weights(2, 3)), dense("a", weights(2, 3), 5)),
    ),
    "a side that is deeper than the readout": bounded(
        first(3),
        layer("b", dense("a", weights(3, 3))),
        layer("c", dense("b", weights(3, 3)), dense("input", weights(3, 2)), bias=200),
        read_out(dense("a", weights(2, 3)), dense("input", weights(2, 2))),
    ),
    "a skip over five layers": bounded(
        fire("p0", dense("input", [[1]]), threshold=3, initial=1),
        *(fire(f"p{n}", dense(f"p{n - 1}", [[1]])) for n in range(1, 5)),
        read_out(dense("p4", [[1]]), dense("input", [[100]]), dense("p0", [[-5]])),
        shape=(1,),
    ),
}


def differences(expected: Trace, found: Trace) -> dict[str, int]:
    """Return how many values of each population differ."""
    assert list(expected.spikes) == list(found.spikes)
    spikes = {name: np.count_nonzero(expected.spikes[name] != found.spikes[name]) for name in expected.spikes}
    return {**spikes, "logits": np.count_nonzero(expected.logits != found.logits)}


@pytest.mark.lava
def test_graphs_run_on_lava_as_on_the_reference_engine(tmp_path: Path) -> None:
    samples = {name: random_pixels(network, 12) for name, network in GRAPHS.items()}
    jobs = [
        engine.LavaJob(
            write_network(network, tmp_path / f"{number}.net", samples[name]),
            network.input.signal(samples[name], network.n_steps),
            network.n_steps,
        )
        for number, (name, network) in enumerate(GRAPHS.items())
    ]
    for (name, network), found in zip(GRAPHS.items(), engine.run_jobs(jobs), strict=True):
        expected = simulate(network, samples[name])
        assert set(differences(expected, found).values()) == {0}, name
        assert all(spikes.any() for layer, spikes in expected.spikes.items() if layer != "silent"), name


# --- in step ------------------------------------------------------------


def test_what_is_out_of_step_would_fire():
    """By hand: `a` fires at steps 1, 3 and 5, and so do those that repeat it; both sums stay 0."""
    found = simulate(skewed(), as_pixels([[1]]), potentials=True)
    for name in ("a", "b", "c"):
        assert found.spikes[name][0, :, 0].tolist() == [True, False, True, False, True]
    for name in ("plus", "minus"):
        assert not found.spikes[name].any()
        assert not found.potentials[name].any()
    assert found.logits[0, :, 0].tolist() == [5, 5, 10, 10, 15]


@pytest.mark.lava
def test_a_delay_that_is_off_by_one_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network with each skip a step early, as it is, and a step late."""
    worker = """
        from nctool_deploy.lava.runner import network, run
        from nctool_deploy.lava.runner.run import main
        from nctool_deploy.pipeline import delays

        def skewed(job, offsets=iter((-1, 0, 1)), answer=run.answer):
            offset = next(offsets)
            network.delays = lambda *what: tuple(delay and delay + offset for delay in delays(*what))
            return answer(job)

        run.answer = skewed
    """
    (tmp_path / "skewing_worker.py").write_text(textwrap.dedent(worker))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(engine, "WORKER", "skewing_worker")
    network, pixels = skewed(), as_pixels([[1], [1]])
    path = write_network(network, tmp_path / "skewed.net", pixels)
    job = engine.LavaJob(path, network.input.signal(pixels, network.n_steps), network.n_steps)
    early, right, late = engine.run_jobs([job, job, job])
    expected = simulate(network, pixels)
    assert set(differences(expected, right).values()) == {0}
    for off in (early, late):
        assert off.spikes["plus"].any() or off.spikes["minus"].any()
        assert differences(expected, off)["logits"] > 0
