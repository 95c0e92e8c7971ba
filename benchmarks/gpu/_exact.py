"""Whether the fast engine gives on a device what the reference engine gives, bit for bit."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from _common import random_pixels, to_integers, zoo_model
from _progress import Record
from nctool.fast.choice import usable_on
from nctool.fast.engine import FastEngine, exact_arithmetic, find_device
from nctool.ir.network import IntegrateFire, IntNetwork, Population
from nctool.recipe.schema import ResnetSettings
from nctool.reference.simulate import simulate
from nctool.reference.trace import join
from nctool.running.model_file import model_path, open_model
from nctool.verification.divergence import Divergence, first_divergence
from nctool_deploy.foreign import ForeignOptions
from nctool_models import load_dataset

WINDOWS = (1, 4, 9)
LEAST = 6
"""Random networks that are compared however little time there is: one of each kind."""

Case = tuple[str, IntNetwork, NDArray[np.uint8], int]
"""Name, network, pixels, time steps."""


def difference(network: IntNetwork, pixels: NDArray[np.uint8], n_steps: int, device: str) -> Divergence | None:
    """Return the first difference of the two engines, None where there is none."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:  # NumPy lets others run
        expected = join(list(threads.map(lambda one: simulate(network, one[None], n_steps=n_steps), pixels)))
    engine = FastEngine(network, n_steps=n_steps, device=device)
    engine.batch = engine.part = max(1, len(pixels) // 2)  # more than one
    found = join(engine.traces(pixels))
    if found.overflows != expected.overflows:
        name = next(name for name, count in expected.overflows.items() if found.overflows[name] != count)
        counts = expected.overflows[name], found.overflows[name]
        return Divergence(name, "overflows", 0, n_steps, (), *counts, "reference", f"fast on {device}")
    return first_divergence(network, expected, found, ("reference", f"fast on {device}"))


def real_cases(tiny: bool) -> Iterator[Case]:
    """Yield trained networks of the zoo on the digits, and a residual network as wide as those that are trained."""
    digits = load_dataset("digits").x_test
    for name, n_images in (("digits-cnn", 32), ("digits-cnn-stock", 32)):
        network = open_model(model_path(f"zoo:{name}"), ForeignOptions()).network
        yield name, network, digits[:n_images], network.n_steps
    depth, n_images = (8, 1) if tiny else (18, 4)
    settings = ResnetSettings(architecture="resnet", depth=depth)
    pixels = random_pixels(32, (3, 32, 32))
    network = to_integers(zoo_model(settings, (3, 32, 32)), pixels, 2)
    for n_steps in (1, 2):
        yield f"resnet-{depth}", network, pixels[:n_images], n_steps


def random_cases() -> Iterator[Case]:
    """Yield small random networks of every kind, again and again: odd shapes, groups, signs, extreme weights.

    They are those of the tests, which draw them with the help of Hypothesis.
    """
    from tests.support import networks as drawn

    kinds: dict[str, Callable[[int], IntNetwork]] = {
        "chain": drawn.random_network,
        "spike trains": lambda seed: drawn.random_network(seed, rate=True),
        "enlarging": drawn.random_enlarged,
        "reset to zero": lambda seed: _reset_to_zero(drawn.random_network(seed)),
        "graph": drawn.random_graph,
        "graded": drawn.random_graded,
    }
    for seed in itertools.count():
        for kind, draw in kinds.items():
            network = draw(seed)
            n_steps = 1 if network.is_graded else WINDOWS[seed % len(WINDOWS)]
            yield f"{kind}, seed {seed}", network, drawn.random_pixels(network, 6, seed), n_steps


def _reset_to_zero(network: IntNetwork) -> IntNetwork:
    return replace(network, populations=tuple(map(_changed, network.populations)))


def _changed(population: Population) -> Population:
    neuron = population.neuron
    is_spiking = isinstance(neuron, IntegrateFire)
    return replace(population, neuron=replace(neuron, reset="zero")) if is_spiking else population


def compare(device: str, tiny: bool, record: Record, ready: Callable[[], object]) -> None:
    """Compare random networks for half of the time, then real ones, and note what differs.

    Args:
        device: of the fast engine.
        tiny: take a small residual network.
        record: of the job.
        ready: waits until conversion is ready to be used.
    """
    until = time.perf_counter() + record.budget.left("exact") / 2
    with exact_arithmetic():
        choice = usable_on(find_device(device))
    record.say(f"exact: kernels of {device}: {choice}")
    counts, differences, left_out = {"random": 0, "real": 0}, [], None

    def tried(kind: str, case: Case) -> None:
        name, network, pixels, n_steps = case
        found = difference(network, pixels, n_steps, device)
        counts[kind] += 1
        if found is not None:
            differences.append(f"{name}, T={n_steps}: {found}")
            record.say(f"exact: DIFFERS: {differences[-1]}")

    try:
        for case in random_cases():
            if counts["random"] >= LEAST and time.perf_counter() > until:
                break
            tried("random", case)
    except ImportError as error:
        left_out = f"random networks: {error}"
        record.say(f"exact: without {left_out}")
    ready()
    for case in real_cases(tiny):
        if record.budget.left("exact") < 0 and counts["real"] > 1:
            record.say("exact: no time for the rest of the real networks")
            break
        record.say(f"exact: {case[0]}, T={case[3]}")
        tried("real", case)
    found = {"networks": counts, "differences": differences, "left_out": left_out, "choice": str(choice)}
    record.note("exact", {"equal": not differences, **found})
    record.say(f"exact: {counts['random']} random and {counts['real']} real networks, {len(differences)} differ")
