"""Times on a device: images a second of the fast engine, and a training step with noise over that of ReLU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from _common import random_pixels, seconds, to_integers, zoo_model
from _progress import Record
from nctool.activation.noisy_quant import activations
from nctool.fast.engine import FastEngine
from nctool.recipe.schema import ResnetSettings, SmallVggSettings, TrainingSettings
from nctool.training.execution import computes_in_bfloat16
from train_step import training_step

SHAPE = (3, 32, 32)
BATCHES = (1, 64, 256, 1024, 4096)
WINDOW = 4
WARM_UP = 3
MOST_REPEATS = 30


def throughput(device: str, tiny: bool) -> Iterator[tuple[int, float]]:
    """Yield images a second of small VGG, T = 4, by the images of a batch."""
    network = to_integers(
        zoo_model(SmallVggSettings(architecture="small-vgg"), SHAPE), random_pixels(64, SHAPE), WINDOW
    )
    engine = FastEngine(network, device=device)
    for batch in BATCHES[:2] if tiny else BATCHES:
        engine.batch = engine.part = batch
        pixels = random_pixels(batch, SHAPE)
        run = lambda pixels=pixels: list(engine.summaries(pixels))  # noqa: E731 - of this batch
        yield batch, batch / _median(run, 5)


def step_times(device: str, tiny: bool, batch: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the milliseconds of a step of both networks, and their ratio, by network and precision."""
    depth = 8 if tiny else 18
    networks: dict[str, Any] = {f"resnet{depth}": ResnetSettings(architecture="resnet", depth=depth)}
    networks["small-vgg"] = SmallVggSettings(architecture="small-vgg")
    auto = TrainingSettings(epochs=1, precision="auto")
    precisions = {"bfloat16": True, "float32": False}
    if not computes_in_bfloat16(auto, torch.device(device)):
        del precisions["bfloat16"]
    for name, settings in networks.items():
        for precision, in_bfloat16 in precisions.items():
            steps = {kind: _step(settings, kind, device, batch, in_bfloat16) for kind in ("noisy", "relu")}
            times = {f"{kind}_ms": 1000 * _median(step, MOST_REPEATS) for kind, step in steps.items()}
            yield f"{name}, {precision}", {**times, "time_ratio": times["noisy_ms"] / times["relu_ms"]}


def _step(settings: Any, kind: str, device: str, batch: int, in_bfloat16: bool) -> Callable[[], None]:
    """Return a step of a network, whose activations are noisy ones or ReLUs."""
    model: nn.Module = zoo_model(settings, SHAPE).train()
    for layer in activations(model).values():
        layer.sigma.fill_(0.1)
        layer.mode = "quantised" if kind == "noisy" else "rectified"
    last = torch.channels_last if device == "cpu" or in_bfloat16 else torch.contiguous_format  # as in training
    images = torch.randn(batch, *SHAPE, device=device).contiguous(memory_format=last)
    labels = torch.randint(10, (batch,), device=device)
    return training_step(model.to(device, memory_format=last), images, labels, in_bfloat16)


def _median(action: Callable[[], object], most: int) -> float:
    """Return the median seconds of an action, after a warm-up; of a slow one, fewer runs."""
    warm = [seconds(action) for _ in range(WARM_UP)]
    repeats = max(3, min(most, int(2.0 / max(warm[-1], 1e-6))))
    return statistics.median(seconds(action) for _ in range(repeats))


def measure(device: str, tiny: bool, record: Record) -> None:
    """Measure while there is time; the network and precision that is trained comes first."""
    found: dict[str, Any] = {"fast_images_per_second": {}, "step": {}, "window": WINDOW}
    started, most = time.perf_counter(), record.budget.left("speed")

    def is_over() -> bool:
        record.note("speed", found)
        over = time.perf_counter() - started > most
        if over:
            record.say("speed: its time is over; rows that would follow in this table are left out")
        return over

    for name, times in step_times(device, tiny, batch=32 if tiny else 256):
        found["step"][name] = times
        record.say(f"speed: step of {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in times.items()))
        if is_over():
            break
    for batch, rate in throughput(device, tiny):
        found["fast_images_per_second"][str(batch)] = rate
        record.say(f"speed: fast, small VGG, T={WINDOW}, {batch} at a time: {rate:,.0f} images/s")
        if is_over():
            break
