"""Convert a trained ReLU network by SpikingJelly and by sinabs, and measure it; runs in their environment.

    python _conversion_peers.py NAME WEIGHTS.pt IMAGES.npz RESULT.json

In: the network's name and state dict, and float32 images (N, C, H, W) as the network takes them, with labels.
Out: for each way to convert, the setting that was best on training images, top-1 on test images for each window, and
the CPU seconds that the conversion took. Only the best way of a library at a window counts.

Every way keeps float weights, fires at most one spike a step, and sees the constant image at every step. Each may
leave out the first quarter or half of the steps in the readout (SpikingJelly documents that as a delayed readout);
that is chosen on training images for each window.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sinabs
import torch
from sinabs.activation import SingleSpike
from sinabs.from_torch import from_model
from sinabs.layers import IAFSqueeze
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import Tensor, nn

from _relu_networks import NETWORKS

STEPS = (1, 2, 4, 8, 16)
_BATCH = 16
Run = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to the logits of each step (steps, N, classes)."""


@dataclass(frozen=True)
class Way:
    """A way to convert.

    Attributes:
        library: whose it is.
        title: what distinguishes it from others of the same library.
        settings: those that are tried, by name; each converts a network with calibration images.
    """

    library: str
    title: str
    settings: dict[str, Callable[[nn.Module, Tensor], Run]]


def _ways() -> list[Way]:
    """Return the ways to convert, in the order of the table."""
    modes = ("Max", "99.9%", "99%", "97%", "95%", "90%")
    balancing = {f"batches of {size}": partial(_balanced, batch=size) for size in (64, 8)}
    return [
        Way("spikingjelly", "rate coding", {mode: partial(_rate_coded, mode=mode) for mode in modes}),
        Way(
            "spikingjelly",
            "rate coding, from θ/2 (by hand)",
            {mode: partial(_rate_coded, mode=mode, neuron_factory=_half) for mode in modes},
        ),
        Way(
            "spikingjelly",
            "rate coding by channel, from θ/2",
            {mode: partial(_rate_coded, mode=mode, **_BY_CHANNEL) for mode in modes},
        ),
        Way("spikingjelly", "local threshold balancing", balancing),
        *(
            Way(
                "sinabs",
                title,
                {f"{each}%": partial(_sinabs, percentile=each, start=start) for each in (100, 99.9, 99, 97, 95, 90)},
            )
            for title, start in (("normalised", 0.0), ("normalised, from θ/2 (by hand)", 0.5))
        ),
    ]


_BY_CHANNEL = {"channel_wise": True, "pre_spike_maxpool": True, "half_threshold": True}
"""As SpikingJelly's example `imagenet_resnet18_ltb` calls its recipe `robust`."""


def _rate_coded(network: nn.Module, images: Tensor, **options: Any) -> Run:
    return _jelly(network, ann2snn.RateCodingRecipe(images.split(64), **options))


def _balanced(network: nn.Module, images: Tensor, batch: int) -> Run:
    """Balance thresholds, which grow from 0 with every batch: smaller batches are more of them."""
    return _jelly(network, ann2snn.LocalThresholdBalancingRecipe(images.split(batch)))


def _half(_scale: float) -> nn.Module:
    return neuron.HalfThresholdIFNode()


def _jelly(network: nn.Module, recipe: ann2snn.FXConversionRecipe) -> Run:
    converted = ann2snn.Converter(recipe).convert(network).eval()

    def run(images: Tensor) -> Tensor:
        functional.reset_net(converted)
        return torch.stack([converted(images) for _ in range(STEPS[-1])])

    return run


def _sinabs(network: nn.Module, images: Tensor, percentile: float, start: float) -> Run:
    """Normalise by a percentile of every activation (Rueckauer et al. 2017) and replace each ReLU.

    `sinabs.utils.normalize_weights` is not called: it scales the bias of a layer by that layer's factor alone, which
    changes the function of a network with biases, and takes no residual network. Factors before and after each ReLU
    are the same normalisation for any network.
    """
    _normalise(network, images, percentile)
    steps = STEPS[-1]
    converted = from_model(network, spike_fn=SingleSpike, num_timesteps=steps).spiking_model.eval()
    neurons = [module for module in converted.modules() if isinstance(module, IAFSqueeze)]

    def run(images: Tensor) -> Tensor:
        repeated = images.repeat_interleave(steps, dim=0)
        if start and not all(each.is_state_initialised() and len(each.v_mem) == len(images) for each in neurons):
            converted(repeated)  # gives every state its shape
        sinabs.reset_states(converted)
        for each in neurons:
            if start:
                each.v_mem.fill_(start)
        return converted(repeated).unflatten(0, (-1, steps)).transpose(0, 1)

    return run


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def _normalise(network: nn.Module, images: Tensor, percentile: float) -> None:
    """Put a factor before and after each ReLU, so that `percentile` of its outputs are at most 1."""
    largest: dict[nn.Module, float] = {}

    def measure(relu: nn.Module, _inputs: object, output: Tensor) -> None:
        largest[relu] = float(np.percentile(output.numpy(), percentile))

    relus = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.ReLU)]
    hooks = [relu.register_forward_hook(measure) for _, relu in relus]
    network(images[:256])
    for hook in hooks:
        hook.remove()
    for name, relu in relus:
        scaled = nn.Sequential(_Scale(1 / largest[relu]), nn.ReLU(), _Scale(largest[relu]))
        network.set_submodule(name, scaled)


@dataclass(frozen=True)
class Images:
    """Images as the network takes them, float32 (N, C, H, W), and labels, int64 (N,).

    Attributes:
        calibration: training images that conversions look at; they need no labels.
        search, search_labels: training images that settings are chosen by.
        test, test_labels: those that count.
    """

    calibration: Tensor
    search: Tensor
    search_labels: Tensor
    test: Tensor
    test_labels: Tensor


def measure_way(way: Way, network: nn.Module, images: Images) -> dict[str, Any]:
    """Choose the setting and the delays of one way on training images, then measure it on test images."""
    runs, seconds, found = {}, {}, {}
    for name, convert in way.settings.items():
        start = time.process_time()
        runs[name] = convert(copy.deepcopy(network), images.calibration)
        seconds[name] = time.process_time() - start
        found[name] = _best_delays(_logits(runs[name], images.search), images.search_labels)
    best = max(found, key=lambda name: sum(accuracy for _, accuracy in found[name].values()))
    sums = _logits(runs[best], images.test)
    delays = {steps: delay for steps, (delay, _) in found[best].items()}
    return {
        "library": way.library,
        "way": way.title,
        "setting": best,
        "delay": delays,
        "seconds": seconds[best],
        "accuracy": {s: _accuracy(_window(sums, s, delays[s]), images.test_labels) for s in STEPS},
        "search": {name: {s: accuracy for s, (_, accuracy) in each.items()} for name, each in found.items()},
    }


def _logits(run: Run, images: Tensor) -> Tensor:
    """Return the logits summed up to each step: (steps, N, classes)."""
    return torch.cat([run(part) for part in images.split(_BATCH)], dim=1).double().cumsum(0)


def _window(sums: Tensor, steps: int, delay: int) -> Tensor:
    """Return the logits of a window without its first `delay` steps."""
    return sums[steps - 1] - (sums[delay - 1] if delay else 0)


def _best_delays(sums: Tensor, labels: Tensor) -> dict[int, tuple[int, float]]:
    """Return, for each window, the delay of the highest accuracy, the smallest of those, and that accuracy."""
    best = {}
    for steps in STEPS:
        scores = {delay: _accuracy(_window(sums, steps, delay), labels) for delay in (0, steps // 4, steps // 2)}
        delay = max(scores, key=scores.__getitem__)
        best[steps] = (delay, scores[delay])
    return best


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def main() -> None:
    """Measure every way on one network."""
    name, weights, exchange, result = sys.argv[1:]
    network = NETWORKS[name]()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval().to(memory_format=torch.channels_last)
    images = Images(**{key: torch.from_numpy(array) for key, array in np.load(exchange).items()})
    with torch.inference_mode():
        ways = []
        for way in _ways():
            ways.append(measure_way(way, network, images))
            print(f"{name}: {ways[-1]}", file=sys.stderr, flush=True)
    versions = {library: version(library) for library in ("spikingjelly", "sinabs", "torch")}
    Path(result).write_text(json.dumps({"ways": ways, "versions": versions}), encoding="utf-8")


if __name__ == "__main__":
    main()
