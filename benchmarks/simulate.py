"""Speed of the engines on one network, measured side by side in one run.

    python benchmarks/simulate.py [--lava-samples N] [--repeat R] [--without-lava]

Two networks with random weights: the zoo's LeNet on 28x28 and its small VGG on 32x32x3, both at T = 4. Prints images
per second of `fast`, `reference` and `lava`, and of the *dense limit*: T forward passes of the same network as a plain
float32 torch ANN (convolution, ReLU, average pooling, batch norm folded away, channels-last), same batch, same
threads. Random weights: the dense kernels do not depend on how many spikes there are. The time of Lava is that of a
long run less that of a short one, so that starting its processes does not count. The last line of stdout is one JSON
object; `time_over_dense_limit` is time of `fast` by time of the limit.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nctool.conversion import convert
from nctool.network import IntNetwork
from nctool.nq import NoisyQuantReLU
from nctool.recipe import ActivationSettings, LenetSettings, SmallVggSettings
from nctool.sim import reference
from nctool.sim.fast import FastEngine
from nctool_deploy import engine as lava
from nctool_deploy.autapse import AUTAPSE_FORMAT
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets import find_target
from nctool_models import build_model

STEPS = 4
NETWORKS: dict[str, tuple[Any, tuple[int, int, int], int]] = {
    "mnist-lenet": (LenetSettings(architecture="lenet"), (1, 28, 28), 4096),
    "small-vgg": (SmallVggSettings(architecture="small-vgg"), (3, 32, 32), 1024),
}


def seconds(action: Callable[[], object], repeat: int) -> float:
    """Return the median wall time of `action` after one warm-up."""
    action()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def make(name: str) -> tuple[nn.Sequential, IntNetwork, np.ndarray]:
    """Return a network with random weights, its conversion, and random pixels."""
    settings, shape, n_samples = NETWORKS[name]
    model = build_model(settings, shape, 10, ActivationSettings(threshold_init=1.0), seed=0).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (n_samples, *shape), np.uint8)
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    network = convert(
        model,
        input_shape=shape,
        mean=mean,
        std=std,
        form=AUTAPSE_FORMAT,
        n_steps=STEPS,
        calibration=pixels[:16],
    ).network
    return model, network, pixels


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
            start = time.perf_counter()
            list(lava.stream(path, network, pixels[:count]))
            return time.perf_counter() - start

        short = max(1, n_samples // 10)
        elapsed = run(n_samples) - run(short)
    return 1000 * elapsed / ((n_samples - short) * (STEPS + 1))


def measure(name: str, repeat: int, lava_samples: int) -> dict[str, float]:
    """Measure one network on every engine."""
    model, network, pixels = make(name)
    engine = FastEngine(network)
    fast_s = seconds(lambda: list(engine.summaries(pixels)), repeat)
    limit_s = seconds(dense_limit(model, pixels, engine.batch), repeat)
    few = pixels[:16]
    start = time.perf_counter()
    expected = reference.simulate(network, few)
    reference_s = time.perf_counter() - start
    (trace,) = FastEngine(network).traces(few)
    if trace != expected:
        raise SystemExit(f"{name}: fast and reference differ")
    row = {
        "batch": engine.batch,
        "fast_images_per_second": len(pixels) / fast_s,
        "dense_limit_images_per_second": len(pixels) / limit_s,
        "reference_images_per_second": len(few) / reference_s,
        "time_over_dense_limit": fast_s / limit_s,
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
    arguments = parser.parse_args()
    rows = {n: measure(n, arguments.repeat, 0 if arguments.without_lava else arguments.lava_samples) for n in NETWORKS}
    for name, row in rows.items():
        print(name)
        for key, value in row.items():
            print(f"  {key:32} {value:12,.3f}")
    result: dict[str, Any] = {"networks": rows, "time_over_dense_limit": {}, "fast_over_lava": {}}
    for name, row in rows.items():
        result["time_over_dense_limit"][name] = row["time_over_dense_limit"]
        if "fast_over_lava" in row:
            result["fast_over_lava"][name] = row["fast_over_lava"]
    result["threads"], result["torch"], result["python"] = (
        torch.get_num_threads(),
        torch.__version__,
        platform.python_version(),
    )
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
