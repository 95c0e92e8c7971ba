"""Speed on a netx file of another tool: the PilotNet that the lava-dl wheel ships, 66x200x3, 10 layers, T = 16.

    python benchmarks/foreign.py [--repeat R] [--batch N]

Prints seconds per image of the stock Lava network, of `reference` and of `fast`, alone and in a batch, all with the
shipped input. The time of Lava is that of a run of 3 T steps less that of a run of T steps, so that starting its
processes does not count. The last line of stdout is one JSON object; `fast_over_lava` is for a batch.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from _common import environment, seconds, side_by_side
from nctool.fast.engine import FastEngine
from nctool.reference import simulate as reference
from nctool_deploy.foreign import ForeignOptions, read_foreign
from nctool_deploy.lava import engine as lava

STEPS = 16


def shipped(name: str) -> Path:
    """Return a file of the tests that the lava-dl wheel installs beside the package."""
    spec = find_spec("lava")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("lava is not installed: docs/LAVA.md has the commands")
    return Path(spec.submodule_search_locations[0]).parent / "tests/lava/lib/dl/netx/gts/pilotnet_lif" / name


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    path = shipped("network.net")
    content = read_foreign(path, ForeignOptions(reset_interval=STEPS))
    network = replace(content.network, n_steps=STEPS)
    image = np.load(shipped("image.npy"), allow_pickle=False).T[np.newaxis]
    images = np.repeat(image, arguments.batch, axis=0)
    engine = FastEngine(network)
    expected = reference.simulate(network, image)
    (found,) = engine.traces(image)
    if found != expected:
        raise SystemExit("fast and reference differ")
    times = side_by_side(
        {
            "reference": lambda: reference.simulate(network, image),
            "fast": lambda: list(engine.summaries(image)),
            "batch": lambda: list(engine.summaries(images)),
        },
        arguments.repeat,
    )

    def run(n_steps: int) -> float:
        options = content.foreign_options
        return seconds(lambda: list(lava.stream(path, network, image, foreign_options=options, n_steps=n_steps)))

    lava_s = (run(3 * STEPS) - run(STEPS)) / 2
    rows = {
        "lava_seconds_per_image": lava_s,
        "reference_seconds_per_image": times["reference"],
        "fast_seconds_per_image": times["fast"],
        "fast_seconds_per_image_in_a_batch": times["batch"] / arguments.batch,
    }
    for key, value in rows.items():
        print(f"{key:36} {value:10.4f}")
    print(json.dumps(rows | {"fast_over_lava": lava_s * arguments.batch / times["batch"]} | environment()))


if __name__ == "__main__":
    main()
