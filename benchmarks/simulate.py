"""Speed of the engines on one network, measured side by side in one run.

    python benchmarks/simulate.py [--lava-samples N] [--repeat R] [--without-lava] [--without-peers]

Two networks with random weights: the zoo's LeNet on 28x28 and its small VGG on 32x32x3, both at T = 4. Prints images
per second of `fast`, `reference` and `lava`, and of the *dense limit*: T forward passes of the same network as a plain
float32 torch ANN (convolution, ReLU, average pooling, batch norm folded away, channels-last), same batch, same
threads. Random weights: the dense kernels do not depend on how many spikes there are. The time of Lava is that of a
long run less that of a short one, so that starting its processes does not count. Other libraries: see peers.py.

The last line of stdout is one JSON object. Its keys `fast_over_lava` and `time_over_dense_limit` hold a number for
each network (how many times faster than Lava; time of `fast` by time of the limit), `fast_over_best_peer` one for
each network and batch, or null where the other libraries are not installed. `cpu_over_dense_limit` is the second by the
time of the processor, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import peers
from _common import environment, random_pixels, seconds, times_side_by_side, to_integers, zoo_model
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.fast.engine import FastEngine
from nctool.ir.network import IntNetwork
from nctool.recipe.schema import LenetSettings, SmallVggSettings
from nctool.reference import simulate as reference
from nctool.reference.trace import join
from nctool_deploy.lava import engine as lava
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target

STEPS = 4
NETWORKS: dict[str, tuple[Any, tuple[int, int, int], int]] = {
    "mnist-lenet": (LenetSettings(architecture="lenet"), (1, 28, 28), 4096),
    "small-vgg": (SmallVggSettings(architecture="small-vgg"), (3, 32, 32), 1024),
}


def make(name: str) -> tuple[nn.Sequential, IntNetwork, np.ndarray]:
    """Return a network with random weights, its conversion, and random pixels."""
    settings, shape, n_samples = NETWORKS[name]
    model, pixels = zoo_model(settings, shape), random_pixels(n_samples, shape)
    return model, to_integers(model, pixels[:16], STEPS), pixels


def plain_ann(model: nn.Sequential) -> nn.Sequential:
    """Return the same network with batch norm left out, which folding makes free, and ReLU as the activation."""
    layers = []
    for layer in model:
        if isinstance(layer, NoisyQuantReLU):
            layers.append(nn.ReLU(inplace=True))
        elif not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layers.append(layer)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last).eval()


def dense_limit(model: nn.Sequential, pixels: np.ndarray, batch: int) -> Callable[[], None]:
    """Return T forward passes of the plain ANN over all images, batch by batch."""
    ann = plain_ann(model)
    images = torch.from_numpy(pixels.astype(np.float32) / 64 - 2).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for part in images.split(batch):
                for _ in range(STEPS):
                    ann(part)

    return run


def lava_ms_per_step(network: IntNetwork, pixels: np.ndarray, n_samples: int) -> float:
    """Return the time of one Lava step, from the difference of a long and a short run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.net"
        known = KnownAnswers(pixels[:1], reference.simulate(network, pixels[:1]))
        write(path, lower(network, find_target("lava")), known)

        def run(count: int) -> float:
            return seconds(lambda: list(lava.stream(path, network, pixels[:count])))

        short = max(1, n_samples // 10)
        elapsed = run(n_samples) - run(short)
    return 1000 * elapsed / ((n_samples - short) * (STEPS + 1))


def measure(name: str, repeat: int, lava_samples: int) -> dict[str, float]:
    """Measure one network on every engine."""
    model, network, pixels = make(name)
    engine = FastEngine(network)
    limit = dense_limit(model, pixels, engine.batch)  # the same images at a time, on the same threads
    times = times_side_by_side({"fast": lambda: list(engine.summaries(pixels)), "limit": limit}, repeat)
    ratio = times["fast"].over(times["limit"])
    few = pixels[:16]
    expected = []
    reference_s = seconds(lambda: expected.append(reference.simulate(network, few)))
    trace = join(engine.traces(few))
    if [trace] != expected:
        raise SystemExit(f"{name}: fast and reference differ")
    row = {
        "batch": engine.batch,
        "fast_images_per_second": len(pixels) / times["fast"].wall,
        "dense_limit_images_per_second": len(pixels) / times["limit"].wall,
        "reference_images_per_second": len(few) / reference_s,
        "time_over_dense_limit": ratio["wall"],
        "cpu_over_dense_limit": ratio["cpu"],
        "spikes_per_neuron_and_step": float(np.mean([s.mean() for s in trace.spikes.values()])),
    }
    if lava_samples:
        row["lava_ms_per_step"] = lava_ms_per_step(network, pixels, lava_samples)
        row["lava_images_per_second"] = 1000 / (row["lava_ms_per_step"] * (STEPS + 1))
        row["fast_over_lava"] = row["fast_images_per_second"] / row["lava_images_per_second"]
    return row


def main() -> None:
    """Measure both networks and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lava-samples", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--without-lava", action="store_true")
    parser.add_argument("--without-peers", action="store_true")
    arguments = parser.parse_args()
    rows = {n: measure(n, arguments.repeat, 0 if arguments.without_lava else arguments.lava_samples) for n in NETWORKS}
    for name, row in rows.items():
        print(name)
        for key, value in row.items():
            print(f"  {key:32} {value:12,.3f}")
    other = {"fast_over_best_peer": None} if arguments.without_peers else peers.measure(peers.ENVIRONMENT, [])
    result = {
        "fast_over_lava": {name: row.get("fast_over_lava") for name, row in rows.items()},
        "time_over_dense_limit": {name: row["time_over_dense_limit"] for name, row in rows.items()},
        "cpu_over_dense_limit": {name: row["cpu_over_dense_limit"] for name, row in rows.items()},
        "fast_over_best_peer": other["fast_over_best_peer"],
        "networks": rows,
        "peers": other,
        **environment(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
