"""Time and memory of a training step with noise, over those of the same network with ReLU, side by side in one run.

    python benchmarks/train_step.py [--device cpu|cuda] [--repeat R] [--batch N]

The zoo's small VGG on 32x32x3, random pixels, batch 128: forward with σ > 0, cross-entropy, backward, SGD with
momentum. The other network has `nn.ReLU` wherever this one has `NoisyQuantReLU`. Both are measured in the memory format
that training takes on a CPU (`channels_last`) and in torch's own (`contiguous`), which it takes on a GPU in float32.

Memory is what torch has allocated at most during a step, above what it held before: on CUDA `max_memory_allocated`, on
the CPU the running sum of the profiler's memory events. Neither counts what oneDNN and cuDNN take elsewhere.

The last line of stdout is one JSON object: `time_ratio` and `memory_ratio` of the format that training takes, `device`,
and for each format the milliseconds and megabytes behind them.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from _common import environment, side_by_side, zoo_model
from nctool.activation.noisy_quant import NoisyQuantReLU, activations
from nctool.recipe.schema import SmallVggSettings

SHAPE = (3, 32, 32)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def noisy_network() -> nn.Sequential:
    """Return the small VGG ready to train, with noise in every activation."""
    model = zoo_model(SmallVggSettings(architecture="small-vgg"), SHAPE)
    for layer in activations(model).values():
        layer.sigma.fill_(0.1)
    return model.train()


def with_relu(model: nn.Sequential) -> nn.Sequential:
    """Return a copy with ReLU in place of each activation."""
    pairs = copy.deepcopy(model).named_children()
    return nn.Sequential(*(nn.ReLU() if isinstance(layer, NoisyQuantReLU) else layer for _, layer in pairs))


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return one step of SGD, with the gradients of the last one freed before it."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        sgd.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), labels).backward()
        sgd.step()
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """Return the most that torch allocated during a step, above what it held before."""
    step()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    memory = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    # Newer releases of torch count in nanoseconds.
    for event in sorted(memory, key=lambda event: event.start_ns() if hasattr(event, "start_ns") else event.start_us()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure(memory_format: torch.memory_format, device: str, batch: int, repeat: int) -> dict[str, float]:
    """Measure both networks in one memory format."""
    images = torch.randn(batch, *SHAPE, device=device).contiguous(memory_format=memory_format)
    labels = torch.randint(10, (batch,), device=device)
    model = noisy_network()
    networks = {"noisy": model, "relu": with_relu(model)}
    steps = {
        name: training_step(network.to(device, memory_format=memory_format), images, labels)
        for name, network in networks.items()
    }
    times = side_by_side(steps, repeat)
    peaks = {name: peak_bytes(step, device) for name, step in steps.items()}
    return {
        "time_ratio": times["noisy"] / times["relu"],
        "memory_ratio": peaks["noisy"] / peaks["relu"],
        **{f"{name}_ms": 1000 * value for name, value in times.items()},
        **{f"{name}_peak_mb": value / 2**20 for name, value in peaks.items()},
    }


def main() -> None:
    """Measure the step and print one line for each format and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = {
        n: measure(memory_format, arguments.device, arguments.batch, arguments.repeat)
        for n, memory_format in FORMATS.items()
    }
    for name, row in rows.items():
        print(name, "  ".join(f"{key} {value:,.2f}" for key, value in row.items()))
    taken = rows["channels_last" if arguments.device == "cpu" else "contiguous"]
    ratios = {key: taken[key] for key in ("time_ratio", "memory_ratio")}
    print(json.dumps({**ratios, "device": arguments.device, "formats": rows, **environment()}))


if __name__ == "__main__":
    main()
