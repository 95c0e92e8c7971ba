"""How time grows with the window, the number of images, the width and the depth; and with the size of a file.

    python benchmarks/scaling.py [--repeat R] [--figure FILE]

A stack of 3x3 convolutions on 16x16 images with random integer weights, whose bounds are all proved. From one base
(4 convolutions of 32 channels, T = 4, 64 images in a call) one quantity at a time is changed; its values take turns.
`fast` is a median of R runs, `reference` one run of at most two images. Then a network of 11 million weights is
lowered, written as netx and read back, with all digests and checks. The last line of stdout is one JSON object;
`--figure` draws it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from _common import environment, random_pixels, seconds, side_by_side
from nctool.fast.engine import FastEngine
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
from nctool.reference import simulate as reference
from nctool.reference.trace import join
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, read, write
from nctool_deploy.targets.target import find_target

REFERENCE_IMAGES = 2
KNOWN_ANSWERS = 16
"""Samples with known answers in a file: as many as `nctool export` writes."""


@dataclass(frozen=True)
class Setting:
    """One point: a window, the images of one call, and the network."""

    steps: int = 4
    images: int = 64
    channels: int = 32
    convolutions: int = 4


BASE = Setting()
SWEEPS: dict[str, tuple[int, ...]] = {
    "steps": (1, 2, 4, 8, 16, 32, 64),
    "images": (1, 4, 16, 64, 256, 1024),
    "channels": (8, 16, 32, 64),
    "convolutions": (2, 3, 4, 6, 8, 12),
}
LARGE = (256, 256, 512, 512, 512, 512, 512)
"""Channels of the network that is written and read: 11.3 million weights on 4x4 images."""


def stack(channels: tuple[int, ...], side: int, n_steps: int) -> IntNetwork:
    """Return a chain of convolutions and a dense readout of 10 classes, on images of 3 channels."""
    rng = np.random.default_rng(0)
    populations: list[Population] = []
    inputs = 3
    for number, outputs in enumerate(channels):
        source = populations[-1].name if populations else INPUT_NAME
        synapse = Synapse(source, _weights(rng, outputs, inputs, 3, 3), conv=ConvGeometry(padding=(1, 1)))
        neuron = IntegrateFire(np.full(outputs, 64), np.full(outputs, 32))
        shape = (outputs, side, side)
        populations.append(Population(f"conv{number}", shape, neuron, rng.integers(-9, 10, outputs), (synapse,)))
        inputs = outputs
    synapse = Synapse(populations[-1].name, _weights(rng, 10, inputs * side * side))
    populations.append(Population("readout", (10,), Readout(1.0), np.zeros(10, np.int64), (synapse,)))
    encoding = InputEncoding((3, side, side), np.tile(np.arange(-128, 128, dtype=np.int8), (3, 1)))
    network = IntNetwork(encoding, tuple(populations), n_steps)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw weights so small that every accumulated input fits, whatever the input."""
    return rng.integers(-3, 4, shape).astype(np.int32)


def sweep(name: str, values: tuple[int, ...], repeat: int) -> list[dict[str, float]]:
    """Change one field of the base and return images per second of both engines at each value, measured in turns."""
    settings = {value: replace(BASE, **{name: value}) for value in values}
    fast, slow = {}, {}
    for value, setting in settings.items():
        network = stack((setting.channels,) * setting.convolutions, 16, setting.steps)
        pixels = random_pixels(setting.images, network.input.shape)
        fast[value] = partial(_run_fast, FastEngine(network), pixels)
        slow[value] = partial(reference.simulate, network, pixels[:REFERENCE_IMAGES])
    fast_times, slow_times = side_by_side(fast, repeat), side_by_side(slow, 1)
    return [
        {
            name: value,
            "fast_images_per_second": setting.images / fast_times[value],
            "reference_images_per_second": min(setting.images, REFERENCE_IMAGES) / slow_times[value],
        }
        for value, setting in settings.items()
    ]


def _run_fast(engine: FastEngine, pixels: np.ndarray) -> None:
    for _ in engine.summaries(pixels):
        pass


def measure_file() -> dict[str, float]:
    """Return seconds for each part of writing and reading a large network."""
    network = stack(LARGE, 4, BASE.steps)
    pixels = random_pixels(KNOWN_ANSWERS, network.input.shape)
    known = KnownAnswers(pixels, join(FastEngine(network).traces(pixels)))
    lowered, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.net"
        times = {
            "lower_seconds": seconds(lambda: lowered.append(lower(network, find_target("lava")))),
            "write_seconds": seconds(lambda: write(path, lowered[0], known)),
            "read_seconds": seconds(lambda: found.append(read(path))),
        }
        size = path.stat().st_size
    if found[0].network != network or found[0].known_answers != known:
        raise SystemExit("the network that was read is not the one that was written")
    weights = sum(population.synapses[0].weight.size for population in network.populations)
    return {"weights": weights, "megabytes": size / 1e6, "total_seconds": sum(times.values()), **times}


def print_tables(result: dict[str, Any]) -> None:
    """Print a Markdown table for each sweep, and one for the file."""
    for name, points in result["scaling"].items():
        print(f"\n| {name} | `fast`, images/s | ms an image | `reference`, images/s |\n|---|---|---|---|")
        for point in points:
            fast = point["fast_images_per_second"]
            print(f"| {point[name]} | {fast:,.0f} | {1000 / fast:.3f} | {point['reference_images_per_second']:,.1f} |")
    print("\n| file | |\n|---|---|")
    for key, value in result["file"].items():
        print(f"| {key.replace('_', ' ')} | {value:,.2f} |")


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--figure", type=Path, help="an .svg or .png file to draw")
    arguments = parser.parse_args()
    scaling = {name: sweep(name, values, arguments.repeat) for name, values in SWEEPS.items()}
    result = {"scaling": scaling, "file": measure_file(), **environment()}
    print_tables(result)
    if arguments.figure:
        from _scaling_figure import draw

        draw(scaling, arguments.figure)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
