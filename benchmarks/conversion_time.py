"""How long an export or a conversion takes, stage by stage, and the memory that it needs.

    python benchmarks/conversion_time.py [--networks NAME,...] [--ways export,convert] [--replicas K] [--steps T]

Networks of the zoo with random weights, their batch norms run on the same random images that calibration gets, 256 of
them; and `mlp-96` and `mlp-224`, two dense layers on 96x96x3 and 224x224x3 images, whose first has 27,648 and 150,528
inputs. `export` takes them with the activations that nctool trains; `convert` with ReLUs in their place, on 320 images,
of which 64 are held out. Stages are those of `nctool export`: conversion, placing on the cores of a Loihi 2, comparison
with the float network, known answers, writing the file. Of the conversion, the slowest layers are told too.

Each network is measured in a process of its own. Memory is what the process holds at most during the conversion and
the stages behind it, less what it held before: the network of torch and the images.

The last line of stdout is one JSON object. `core_seconds` holds a number for each stage of each network and way, as
`NAME export` or `NAME convert`, and their `total`: of all cores together, which other programs lengthen little;
`seconds` those on the clock. `layers` holds the seconds on the clock of each layer of a conversion, `peak_mb` and
`conversion_peak_mb` the memory of all stages and of the conversion, `weights_mb` the weights in float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _common import environment, random_pixels, zoo_model
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import Conversion
from nctool.conversion.fidelity import measure_fidelity
from nctool.exporting.calibration_images import calibration_images
from nctool.exporting.convert import Design, Source, converted
from nctool.exporting.own_network import of_module
from nctool.exporting.writing import n_known_answers
from nctool.fast.engine import FastEngine
from nctool.recipe.schema import LenetSettings, ResnetSettings, SmallVggSettings, VggSettings
from nctool.reference.trace import join
from nctool.training.images.data import CALIBRATION_IMAGES
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target

Shape = tuple[int, int, int]

CONVERT_IMAGES = CALIBRATION_IMAGES * 5 // 4
"""One in five is held out."""

MEAN, STD = 0.5, 0.25

MB = 2**20

SLOWEST = 3
"""Layers that are told."""


def _zoo(settings: Any, shape: Shape) -> Callable[[], nn.Sequential]:
    return lambda: zoo_model(settings, shape)


def _mlp(side: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 256), NoisyQuantReLU(4, 1.0), nn.Linear(256, 10))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Sequential], Shape, str]] = {
    "lenet": (_zoo(LenetSettings(architecture="lenet"), (1, 28, 28)), (1, 28, 28), "loihi2"),
    "small-vgg": (_zoo(SmallVggSettings(architecture="small-vgg"), (3, 32, 32)), (3, 32, 32), "loihi2"),
    "resnet18": (_zoo(ResnetSettings(architecture="resnet", depth=18), (3, 32, 32)), (3, 32, 32), "loihi2"),
    "vgg16": (_zoo(VggSettings(architecture="vgg", depth=16), (3, 32, 32)), (3, 32, 32), "loihi2"),
    "mlp-96": (lambda: _mlp(96), (3, 96, 96), "lava"),
    "mlp-224": (lambda: _mlp(224), (3, 224, 224), "lava"),
}
"""The network, the shape of its images, and a target that can hold it."""

WAYS = ("export", "convert")


@dataclass
class Stopwatch:
    """Seconds of named stages: on the clock, and those of all cores together, which other programs lengthen less."""

    seconds: dict[str, float] = field(default_factory=dict)
    core_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        start, core_start = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.core_seconds[name] = time.process_time() - core_start


@dataclass(frozen=True)
class Measured:
    """What was measured of one network in one way.

    Args:
        watch: seconds of each stage.
        layers: seconds of each layer of the conversion.
        conversion_peak, peak: bytes that were held at most in the conversion, and in all stages.
        weights: bytes of the weights in float32.
    """

    watch: Stopwatch
    layers: dict[str, float]
    conversion_peak: int
    peak: int
    weights: int


def run_batch_norms(model: nn.Module, pixels: np.ndarray) -> nn.Module:
    """Give batch norms the statistics of the images, so that the layers behind them spike."""
    with torch.no_grad():
        for part in torch.from_numpy(pixels).split(64):
            model.train()(_normalised(part.numpy()))
    return model.eval()


def _normalised(pixels: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(pixels) / 255 - MEAN) / STD


def with_relus(module: nn.Module) -> nn.Module:
    """Put a ReLU in place of each activation that nctool trains."""
    for name, child in module.named_children():
        setattr(module, name, nn.ReLU() if isinstance(child, NoisyQuantReLU) else with_relus(child))
    return module


def prepared(name: str, way: str) -> Source:
    """Return a network that is ready to be converted, with its images."""
    make, shape, _ = NETWORKS[name]
    pixels = random_pixels(CONVERT_IMAGES if way == "convert" else CALIBRATION_IMAGES, shape)
    model, channels = make(), shape[0]
    if way == "convert":
        model = run_batch_norms(with_relus(model), pixels)
        return of_module(model, calibration_images(pixels, (MEAN,) * channels, (STD,) * channels))
    model = run_batch_norms(model, pixels)
    logits = torch.no_grad()(lambda part: model(_normalised(part)).numpy())
    return Source(model, shape, (MEAN,) * channels, (STD,) * channels, pixels, pixels, logits)


def timed_conversion(source: Source, replicas: int, steps: int) -> tuple[Conversion, dict[str, float]]:
    """Convert a network; return also the seconds of each layer."""
    told = [("", time.perf_counter())]

    def progress(done: int, total: int, message: str = "") -> None:  # noqa: ARG001 - as the protocol
        layer = message.partition(",")[0]
        if layer != told[-1][0]:
            told.append((layer, time.perf_counter()))

    design = Design(find_backend("autapse"), steps, replicas, weight_bits=8, encoding="graded")
    conversion = converted(source, design, progress)
    told.append(("end", time.perf_counter()))
    return conversion, {layer or "tracing": after - start for (layer, start), (_, after) in pairwise(told)}


def measure(name: str, way: str, replicas: int, steps: int) -> Measured:
    """Measure one network, in a process that does nothing else."""
    source, watch = prepared(name, way), Stopwatch()
    Path("/proc/self/clear_refs").write_text("5")  # the most that is held is now what is held
    before = _bytes("VmHWM")
    with watch.stage("convert"):
        conversion, layers = timed_conversion(source, replicas, steps)
    conversion_peak = _bytes("VmHWM") - before
    with watch.stage("place"):
        lowered = lower(conversion.network, find_target(NETWORKS[name][2]), chips=None)
    with watch.stage("compare"):
        measure_fidelity(conversion, source.compared, source.logits, source.work)
    known = source.pixels[: n_known_answers(lowered.network)]
    with watch.stage("known answers"):
        answers = KnownAnswers(known, join(FastEngine(lowered.network).traces(known)))
    with watch.stage("write"), tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "model.net", lowered, answers)
    weights = 4 * sum(parameter.numel() for parameter in source.model.parameters())
    return Measured(watch, layers, conversion_peak, _bytes("VmHWM") - before, weights)


def _bytes(key: str) -> int:
    """Return the memory of this process by a key of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def with_total(seconds: Mapping[str, float]) -> dict[str, float]:
    """Add up the stages."""
    return {**seconds, "total": sum(seconds.values())}


def told(measured: Measured) -> Iterator[str]:
    """Yield lines for people."""
    for what, seconds in (("", measured.watch.seconds), (", all cores together", measured.watch.core_seconds)):
        yield ", ".join(f"{stage} {each:.2f}" for stage, each in with_total(seconds).items()) + f" s{what}"
    slowest = sorted(measured.layers.items(), key=lambda layer: -layer[1])[:SLOWEST]
    yield "slowest: " + ", ".join(f"{layer} {seconds:.2f} s" for layer, seconds in slowest)
    yield (
        f"{measured.conversion_peak / MB:.0f} MB in the conversion, {measured.peak / MB:.0f} MB in all, the weights "
        f"in float32 {measured.weights / MB:.0f} MB"
    )


def main() -> None:
    """Measure the networks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="lenet,small-vgg,resnet18", help="of " + ", ".join(NETWORKS))
    parser.add_argument("--ways", default="export", help="of " + ", ".join(WAYS))
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in options.networks.split(","):
        for way in options.ways.split(","):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                measured = alone.submit(measure, name, way, options.replicas, options.steps).result()
            for line in told(measured):
                print(f"{name} {way}: {line}", flush=True)
            found[f"{name} {way}"] = {
                "seconds": with_total(measured.watch.seconds),
                "core_seconds": with_total(measured.watch.core_seconds),
                "layers": measured.layers,
                "conversion_peak_mb": measured.conversion_peak / MB,
                "peak_mb": measured.peak / MB,
                "weights_mb": measured.weights / MB,
            }
    by_key = {key: {name: each[key] for name, each in found.items()} for key in next(iter(found.values()))}
    print(json.dumps({"replicas": options.replicas, "steps": options.steps} | by_key | environment()))


if __name__ == "__main__":
    main()
