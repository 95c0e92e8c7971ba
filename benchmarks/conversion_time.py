"""How long an export takes, stage by stage, and the memory that it needs.

    python benchmarks/conversion_time.py [--networks NAME,...] [--replicas K] [--steps T]

Networks of the zoo with random weights, their batch norms run on the same random images that calibration gets, 256 of
them; and `mlp-96`, a network of two dense layers on 96x96x3 images, whose first has 27,648 inputs. Stages are those of
`nctool export`: conversion, placing on the cores of a Loihi 2, comparison with the float network, known answers,
writing the file. Of the conversion, the slowest layer is told too. Memory is the most that the process has held, so
name one network to know its own.

The last line of stdout is one JSON object; `seconds` holds a number for each stage of each network, and their `total`;
`core_seconds` the same of all cores together: on a busy machine, read those.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _common import environment, random_pixels, zoo_model
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import Conversion, convert
from nctool.conversion.fidelity import measure_fidelity
from nctool.exporting.writing import n_known_answers
from nctool.fast.engine import FastEngine
from nctool.recipe.schema import LenetSettings, ResnetSettings, SmallVggSettings
from nctool.reference.trace import join
from nctool.training.images.data import CALIBRATION_IMAGES
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target

Shape = tuple[int, int, int]


def _zoo(settings: Any, shape: Shape) -> Callable[[], nn.Sequential]:
    return lambda: zoo_model(settings, shape)


def _mlp(side: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 256), NoisyQuantReLU(4, 1.0), nn.Linear(256, 10))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Sequential], Shape, str]] = {
    "lenet": (_zoo(LenetSettings(architecture="lenet"), (1, 28, 28)), (1, 28, 28), "loihi2"),
    "small-vgg": (_zoo(SmallVggSettings(architecture="small-vgg"), (3, 32, 32)), (3, 32, 32), "loihi2"),
    "resnet18": (_zoo(ResnetSettings(architecture="resnet", depth=18), (3, 32, 32)), (3, 32, 32), "loihi2"),
    "mlp-96": (lambda: _mlp(96), (3, 96, 96), "lava"),
}
"""The network, the shape of its images, and a target that can hold it."""


class Stopwatch:
    """Seconds of named stages: on the clock, and those of all cores together, which other programs lengthen less."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.core_seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        start, core_start = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.core_seconds[name] = time.process_time() - core_start


def run_batch_norms(model: nn.Module, pixels: np.ndarray) -> nn.Module:
    """Give batch norms the statistics of the images, so that the layers behind them spike."""
    with torch.no_grad():
        for part in torch.from_numpy(pixels).split(64):
            model.train()(_normalised(part.numpy()))
    return model.eval()


def _normalised(pixels: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(pixels) / 255 - 0.5) / 0.25


def converted(model: nn.Module, pixels: np.ndarray, replicas: int, steps: int) -> tuple[Conversion, dict[str, float]]:
    """Convert a model; return also the seconds of each layer."""
    told = [("", time.perf_counter())]

    def progress(done: int, total: int, message: str = "") -> None:  # noqa: ARG001 - as the protocol
        layer = message.partition(",")[0]
        if layer != told[-1][0]:
            told.append((layer, time.perf_counter()))

    channels = pixels.shape[1]
    conversion = convert(
        model,
        input_shape=pixels.shape[1:],
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        number_format=AUTAPSE_FORMAT,
        n_steps=steps,
        calibration=pixels,
        replicas=replicas,
        progress=progress,
    )
    told.append(("end", time.perf_counter()))
    return conversion, {layer or "tracing": after - start for (layer, start), (_, after) in pairwise(told)}


def measure(name: str, replicas: int, steps: int) -> tuple[Stopwatch, dict[str, float]]:
    """Return the seconds of each stage of an export, and of each layer of its conversion."""
    make, shape, target = NETWORKS[name]
    pixels = random_pixels(CALIBRATION_IMAGES, shape)
    model, watch = run_batch_norms(make(), pixels), Stopwatch()
    with watch.stage("convert"):
        conversion, layers = converted(model, pixels, replicas, steps)
    with watch.stage("place"):
        lowered = lower(conversion.network, find_target(target), chips=None)
    with watch.stage("compare"):
        measure_fidelity(conversion, pixels, torch.no_grad()(lambda part: model(_normalised(part)).numpy()))
    known = pixels[: n_known_answers(lowered.network)]
    with watch.stage("known answers"):
        answers = KnownAnswers(known, join(FastEngine(lowered.network).traces(known)))
    with watch.stage("write"), tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "model.net", lowered, answers)
    return watch, layers


def with_total(seconds: Mapping[str, float]) -> dict[str, float]:
    """Add up the stages."""
    return {**seconds, "total": sum(seconds.values())}


def told(seconds: Mapping[str, float]) -> str:
    """Return the seconds of each stage as a text for people."""
    return ", ".join(f"{stage} {each:.2f}" for stage, each in with_total(seconds).items())


def main() -> None:
    """Measure the networks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="lenet,small-vgg,resnet18", help="of " + ", ".join(NETWORKS))
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {"seconds": {}, "core_seconds": {}}
    for name in options.networks.split(","):
        watch, layers = measure(name, options.replicas, options.steps)
        found["seconds"][name] = with_total(watch.seconds)
        found["core_seconds"][name] = with_total(watch.core_seconds)
        slowest = max(layers, key=lambda layer: layers[layer])
        print(f"{name}: {told(watch.seconds)} s; slowest: {slowest}, {layers[slowest]:.2f} s", flush=True)
        print(f"{name}, all cores together: {told(watch.core_seconds)} s", flush=True)
    print(json.dumps({"replicas": options.replicas, "steps": options.steps} | found | environment()))


if __name__ == "__main__":
    main()
