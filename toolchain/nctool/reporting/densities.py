"""The activation of the ANN against the rate of the SNN, neuron by neuron, as a density for each layer.

In: a checkpoint, its exported network, samples. Out: a variant of a figure for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nctool.conversion.float_network import FloatNetwork, FloatPopulation
from nctool.conversion.trace.compare_runs import given
from nctool.conversion.trace.tracing import trace
from nctool.fast.engine import FastEngine
from nctool.ir.network import IntNetwork
from nctool.reference.trace import Spikes
from nctool.reporting.elements import Columns, Variant
from nctool.reporting.measuring import FEWEST, SPIKE_WORK, Data, n_within
from nctool.reporting.texts import counted
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool.training.images.encoding import Normalisation, image_encoding

MOST_IMAGES = 64

MOST_CELLS = 32
"""Cells along an axis."""

AT_ONCE = 8
"""Images that are computed at a time."""

Pairs = Mapping[str, "Pairing"]


class Pairing:
    """The activations of a layer with the rates of its neurons, counted in cells.

    Args:
        real: the layer as it was trained.
        replicas: neurons of an activation.
        n_steps: length of the window.
    """

    def __init__(self, real: FloatPopulation, replicas: int, n_steps: int) -> None:
        self.real, self.replicas, self.n_steps = real, replicas, n_steps
        self.shape = (min(real.levels or MOST_CELLS, MOST_CELLS), min(n_steps * replicas, MOST_CELLS))
        self.counts = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int64)
        self.squares, self.number = 0.0, 0

    def add(self, activation: NDArray[np.float32], spikes: Spikes) -> None:
        """Count a batch.

        Args:
            activation: of the ANN, (samples, channels, ...).
            spikes: of the integers, bool (samples, steps, channels · replicas, ...).
        """
        threshold = np.asarray(self.real.threshold).reshape(-1, *[1] * (activation.ndim - 2))
        ann = np.clip(activation / threshold, 0.0, 1.0)
        samples, _, channels, *size = spikes.shape
        sent = spikes.sum(axis=1).reshape(samples, channels // self.replicas, self.replicas, *size).sum(axis=2)
        snn = sent / (self.n_steps * self.replicas)
        cells = [np.rint(values * cells).astype(int) for values, cells in zip((ann, snn), self.shape, strict=True)]
        np.add.at(self.counts, (cells[0].ravel(), cells[1].ravel()), 1)
        self.squares += float(((ann - snn) ** 2).sum())
        self.number += ann.size

    def variant(self, images: int) -> Variant:
        """Return the density as a figure shows it."""
        off = float(np.sqrt(self.squares / max(self.number, 1)))
        counted_here = f"{counted(self.number, 'activation')} of `{self.real.name}` on {counted(images, 'image')}"
        text = (
            f"{counted_here}; the stronger the colour, the more, on a logarithmic scale. On the dashed line both are "
            f"equal; root mean square distance {off:.3f}."
        )
        return Variant(text, self._columns())

    def _columns(self) -> Columns:
        across, up = np.nonzero(self.counts)
        numbers = self.counts[across, up]
        shade = np.log1p(numbers) / np.log1p(numbers.max(initial=1))
        return {
            "ann": (across / self.shape[0]).tolist(),
            "snn": (up / self.shape[1]).tolist(),
            "width": [1 / self.shape[0]] * len(across),
            "height": [1 / self.shape[1]] * len(across),
            "count": numbers.tolist(),
            "shade": np.maximum(shade, 0.08).tolist(),
        }


def densities(
    checkpoint: Checkpoint, model: nn.Module, data: Data, device: str, told: Callable[[int, int], None]
) -> dict[str, Variant]:
    """Return the density of each layer whose activations the ANN has too.

    Args:
        model: the network of the checkpoint, with its weights.
        data: pixels.
        told: called with the images done and to do.
    """
    real = trace(model, checkpoint.input_shape)
    pairs = _pairs(real, data.network)
    images = data.samples[: n_within(SPIKE_WORK, data.network, FEWEST, MOST_IMAGES)]
    encoding = image_encoding(Normalisation(checkpoint.mean, checkpoint.std), checkpoint.recipe)
    engine = FastEngine(data.network, device=device)
    for start in range(0, len(images), AT_ONCE):
        batch = images[start : start + AT_ONCE]
        activations = given(model, real, encoding(torch.from_numpy(batch)))
        done = 0
        for part in engine.traces(batch):
            for name, pairing in pairs.items():
                pairing.add(activations[name][done : done + part.n_samples].numpy(), part.spikes[name])
            done += part.n_samples
        told(start + len(batch), len(images))
    found = {name: pairing.variant(len(images)) for name, pairing in pairs.items()}
    return {
        population.name: found.get(population.name, _none(population.name)) for population in data.network.populations
    }


def _none(name: str) -> Variant:
    return Variant(f"`{name}` stands for no activation of the ANN: it is the readout, or takes maxima of spikes.")


def _pairs(real: FloatNetwork, network: IntNetwork) -> dict[str, Pairing]:
    """Return the layers that both networks have: those of activations."""
    channels = {population.name: population.shape[0] for population in network.populations}
    return {
        population.name: Pairing(population, channels[population.name] // population.shape[0], network.n_steps)
        for population in real.populations
        if population.threshold is not None and not population.maximum and population.name in channels
    }
