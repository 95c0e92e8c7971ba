"""Time and memory of a training step with noise, over those of the same network with ReLU, side by side in one run.

    python benchmarks/train_step.py [--device cpu|cuda] [--repeat R] [--batch N]

The zoo's small VGG on 32x32x3, random pixels, batch 128: forward with σ > 0, cross-entropy, backward, SGD with
momentum. The other network has `nn.ReLU` wherever this one has `NoisyQuantReLU`. Both are measured in float32, in the
memory format that training takes on a CPU (`channels_last`) and in torch's own (`contiguous`), which it takes on a GPU;
and in bfloat16 with channels_last, where the device has it. All take turns. Ratios are of the processor time on a CPU,
which a busy machine disturbs less, and of the wall time on a GPU.

Memory is what torch has allocated at most during a step, above what it held before: on CUDA `max_memory_allocated`, on
the CPU the running sum of the profiler's memory events. Neither counts what oneDNN and cuDNN take elsewhere.

The last line of stdout is one JSON object: `time_ratio` and `memory_ratio` of the format that training takes in
float32, `bfloat16` (the time ratio in that type), `bfloat16_speedup` (the step with noise in float32 over the same in
bfloat16), `device`, and in `formats` for each case the milliseconds and
megabytes behind them.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from _common import environment, times_side_by_side, zoo_model
from nctool.activation.noisy_quant import NoisyQuantReLU, activations
from nctool.recipe.schema import SmallVggSettings, TrainingSettings
from nctool.training.execution import computes_in_bfloat16

SHAPE = (3, 32, 32)
CASES = {
    "contiguous": (torch.contiguous_format, False),
    "channels_last": (torch.channels_last, False),
    "bfloat16": (torch.channels_last, True),
}
"""Memory format, and whether linear layers compute in bfloat16."""


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


def training_step(model: nn.Module, images: Tensor, labels: Tensor, in_bfloat16: bool) -> Callable[[], None]:
    """Return one step of SGD, with the gradients of the last one freed before it."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        sgd.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=in_bfloat16):
            logits = model(images)
        functional.cross_entropy(logits.float(), labels).backward()
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


def steps_of(case: str, device: str, batch: int) -> dict[str, Callable[[], None]]:
    """Return a step of both networks in one case."""
    memory_format, in_bfloat16 = CASES[case]
    images = torch.randn(batch, *SHAPE, device=device).contiguous(memory_format=memory_format)
    labels = torch.randint(10, (batch,), device=device)
    model = noisy_network()
    networks = {"noisy": model, "relu": with_relu(model)}
    return {
        name: training_step(network.to(device, memory_format=memory_format), images, labels, in_bfloat16)
        for name, network in networks.items()
    }


def measure(cases: Sequence[str], device: str, batch: int, repeat: int) -> dict[str, dict[str, float]]:
    """Measure both networks in all cases, in turns."""
    steps = {(case, name): step for case in cases for name, step in steps_of(case, device, batch).items()}
    times = times_side_by_side(steps, repeat)
    taken = {key: each.wall if device == "cuda" else each.cpu for key, each in times.items()}
    peaks = {key: peak_bytes(step, device) for key, step in steps.items()}
    return {
        case: {
            "time_ratio": taken[case, "noisy"] / taken[case, "relu"],
            "memory_ratio": peaks[case, "noisy"] / peaks[case, "relu"],
            **{f"{name}_ms": 1000 * taken[case, name] for name in ("noisy", "relu")},
            **{f"{name}_peak_mb": peaks[case, name] / 2**20 for name in ("noisy", "relu")},
        }
        for case in cases
    }


def main() -> None:
    """Measure the step and print one line for each case and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    auto = TrainingSettings(epochs=1, precision="auto")
    cases = [n for n in CASES if n != "bfloat16" or computes_in_bfloat16(auto, torch.device(arguments.device))]
    rows = measure(cases, arguments.device, arguments.batch, arguments.repeat)
    for name, row in rows.items():
        print(name, "  ".join(f"{key} {value:,.2f}" for key, value in row.items()))
    taken = rows["channels_last" if arguments.device == "cpu" else "contiguous"]
    found: dict[str, float] = {key: taken[key] for key in ("time_ratio", "memory_ratio")}
    if "bfloat16" in rows:
        found["bfloat16"] = rows["bfloat16"]["time_ratio"]
        found["bfloat16_speedup"] = taken["noisy_ms"] / rows["bfloat16"]["noisy_ms"]
    print(json.dumps({**found, "device": arguments.device, "formats": rows, **environment()}))


if __name__ == "__main__":
    main()
