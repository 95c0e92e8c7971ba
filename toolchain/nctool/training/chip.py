"""Convert a model in training for the chip, and run it there.

In: a model, its recipe, the integers that the chip can hold. Out: an IntNetwork, and θ·r of each activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nctool.activation.noisy_quant import activations
from nctool.conversion import IntegerFormat, convert
from nctool.errors import RangeError, UnsupportedError
from nctool.fast.engine import FastEngine
from nctool.ir.network import IntNetwork
from nctool.recipe.schema import ChipSettings, Recipe
from nctool.reference.trace import Spikes
from nctool.training.images.data import TrainingData


@dataclass(frozen=True)
class Chip:
    """The chip that a model in training is converted for.

    Attributes:
        settings: `[chip]` of the recipe.
        number_format: the integers that its backend can hold.
    """

    settings: ChipSettings
    number_format: IntegerFormat

    def network(self, model: nn.Module, data: TrainingData, recipe: Recipe) -> IntNetwork | None:
        """Convert `model` as `export` would by default; None where its numbers do not fit, as early in training.

        Raises:
            UnsupportedError: the model holds something that cannot be converted.
        """
        try:
            return convert(
                model,
                input_shape=data.input_shape,
                mean=data.normalisation.mean,
                std=data.normalisation.std,
                number_format=self.number_format,
                n_steps=recipe.noise.steps,
                calibration=data.calibration(recipe.seed).images.numpy(),
                replicas=self.settings.replicas,
                input=recipe.input.encoding,
            ).network
        except RangeError:
            return None


@dataclass(frozen=True)
class ChipRun:
    """An integer network made ready to be compared with the model that it came from.

    Attributes:
        engine: the fast engine, on the model's device.
        thresholds: θ of each activation by name.
        layers: the populations of activations, in order of execution: all that spike, but for maxima.
    """

    engine: FastEngine
    thresholds: Mapping[str, Tensor]
    layers: tuple[str, ...]

    @classmethod
    def prepare(cls, network: IntNetwork, model: nn.Module) -> ChipRun:
        """Prepare `network`, converted from `model`."""
        thresholds = {name: layer.threshold.detach() for name, layer in activations(model).items()}
        device = next(iter(thresholds.values())).device
        layers = tuple(population.name for population in network.populations[:-1] if not population.is_maximum)
        with _chosen(device):
            return cls(FastEngine(network, device=device.type), thresholds, layers)

    def run(self, images: Tensor, activated: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a batch for one window.

        Args:
            images: uint8 (N, C, H, W).
            activated: what each activation of the model says of them, in order of execution: that of the populations.

        Returns:
            logits, int64 (N, classes), and θ·r by name, float32 of the activation's shape, r from 0 to 1: spikes
            divided by replicas and time steps.

        Raises:
            UnsupportedError: there are more populations that spike than activations, or fewer.
        """
        _require_one_each(self.layers, activated)
        logits, rates = [], []
        with _chosen(images.device):
            for trace in self.engine.traces(images.cpu().numpy()):
                logits.append(torch.from_numpy(trace.logits[:, -1]))
                pairs = zip(self.layers, activated.values(), strict=True)
                rates.append([_rate(trace.spikes[name], values.shape[1:]) for name, values in pairs])
        whole = [torch.cat(parts).to(images.device) for parts in zip(*rates, strict=True)]
        spiked = {name: self.thresholds[name] * rate for name, rate in zip(activated, whole, strict=True)}
        return torch.cat(logits).to(images.device), spiked


def _chosen(device: torch.device) -> AbstractContextManager[None]:
    """Let `cuda` mean `device` while the block runs: there the engine works."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _require_one_each(layers: Sequence[str], activated: Mapping[str, Tensor]) -> None:
    if len(layers) != len(activated):
        raise UnsupportedError(
            f"model: activations {len(activated)}, populations that spike {len(layers)}, allowed one for each",
            hint="give every layer a NoisyQuantReLU of its own",
        )


def _rate(spikes: Spikes, shape: torch.Size) -> Tensor:
    """Return the mean over steps and replicas of (N, T, channels · K, ...): replicas of a channel lie side by side."""
    samples, n_steps, channels = spikes.shape[:3]
    replicas = channels // shape[0]
    counts = spikes.reshape(samples, n_steps, shape[0], replicas, *shape[1:]).sum(axis=(1, 3), dtype=np.int64)
    return torch.from_numpy((counts / (n_steps * replicas)).astype(np.float32))
