"""Choose neurons for the ReLUs of a trained network, on what the integer populations before them really send.

For each population in turn: the weights and the bias are corrected; each channel gets the threshold and the start with
which its neurons send what the ReLU gives, for the window and the replicas of the deployed network; and all thresholds
are stretched for what reads them.

In: a FloatNetwork, what its activations give, what the settled populations send. Out: populations with thresholds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.folding import absorb
from nctool.conversion.graded.units import with_units
from nctool.conversion.post_training.activations import Activations, activated, kernels_of, rows
from nctool.conversion.post_training.correction import correct
from nctool.conversion.post_training.simulation import Window
from nctool.conversion.post_training.stretching import Images, stretch
from nctool.conversion.post_training.thresholds import Chosen, choose_thresholds
from nctool.conversion.quantise.calibration import Calibration
from nctool.conversion.quantise.covariance import Float32
from nctool.conversion.quantise.patches import (
    AT_ONCE,
    Neurons,
    Rates,
    View,
    all_neurons,
    choose_neurons,
    choose_windows,
    column,
    extract,
    most_neurons,
    views,
)
from nctool.conversion.quantise.rounding_error import relative_error
from nctool.fast.engine import exact_arithmetic
from nctool.fast.layer import weighted_sum
from nctool.ir.number_format import IntegerFormat

Values = Mapping[str, FloatArray]
"""What a spike of one replica, or a unit of the input, is worth: float64 (channels,) by source."""


WHOLE = 2**14
"""Neurons of each channel that are looked at on whole images, at most."""

ENOUGH = 2**19
"""Neurons of all channels on whole images that are enough, if there are MANY images."""

MANY = 8
"""Images that are enough, if there are ENOUGH neurons on them: all factors are compared on the same."""

WORTH_WHOLE_IMAGES = 0.5
"""Images are weighed as a whole where this part of their neurons is looked at: that takes no patches."""

MOST_THRESHOLDS = 32
"""Thresholds that one signal may drive a neuron by: with weights of 8 bits, a threshold is then four units or more.
Weights of few bits allow as many as their largest integer."""


class Choosing:
    """The populations of one network, in order.

    Args:
        activations: the trained network on the calibration images.
        calibration: what the populations before the next one send on them.
        maxima: that which alone reads a population, by the name of that.
        number_format: of the deployed network.
        fixed: names of modules whose weights stay.
    """

    def __init__(
        self,
        activations: Activations,
        calibration: Calibration,
        maxima: Mapping[str, FloatPopulation],
        number_format: IntegerFormat,
        fixed: Collection[str] = (),
    ) -> None:
        self._fixed = fixed
        self._activations, self._calibration, self._format = activations, calibration, number_format
        self._maxima = maxima
        self._thresholds: dict[str, FloatArray] = {}

    def choose(self, deployed: FloatPopulation, values: Values) -> FloatPopulation:
        """Return a population with other weights, and with thresholds where it spikes.

        Args:
            deployed: with its replicas; its sources are settled.
            values: of its sources.
        """
        if deployed.maximum:
            self._activations.run(deployed.name)
            self._thresholds[deployed.name] = self._thresholds[deployed.synapses[0].source]
            return replace(deployed, threshold=self._thresholds[deployed.name], graded=self._format.is_graded)
        drive = self._activations.run(deployed.name)
        neurons = choose_neurons(deployed.synapses, len(drive))
        means = tuple(_view(s, self._calibration.rates(s.source), neurons, values) for s in deployed.synapses)
        corrected = correct(deployed, means, rows(drive, neurons), neurons.sample, self._fixed)
        if corrected.threshold is None:
            return replace(corrected, graded=self._format.is_graded)
        if self._format.is_graded:
            return self._graded(corrected, rows(activated(drive, corrected.ceiling), neurons), values)
        chosen = self._chosen(corrected, drive, neurons, values)
        threshold, shift = (numbers.numpy().astype(np.float64) for numbers in (chosen.threshold, chosen.shift))
        threshold = self._held(threshold, corrected, values)
        self._thresholds[deployed.name] = threshold
        return replace(corrected, threshold=threshold, shift=shift if shift.any() else None)

    def _graded(self, population: FloatPopulation, activations: Float32, values: Values) -> FloatPopulation:
        """Return a corrected population with its units."""
        absorbed = absorb(population, values)
        chosen = with_units(population, absorbed, views(absorbed, self._calibration.rates), activations, self._format)
        self._thresholds[chosen.name] = np.asarray(chosen.threshold)
        return chosen

    def _held(self, threshold: FloatArray, population: FloatPopulation, values: Values) -> FloatArray:
        """Return thresholds that integers hold beside the weights, and that send no more than the ReLU gives.

        A channel that is hardly ever positive would get a lower one: it sends next to nothing.
        """
        largest = np.maximum.reduce([_largest_step(synapse, values) for synapse in population.synapses])
        wanted = np.minimum(largest / MOST_THRESHOLDS, population.ceiling)
        lowest = np.maximum(wanted, largest / self._format.weight_max)
        held: FloatArray = np.maximum(np.minimum(threshold, population.ceiling), lowest)
        return np.full_like(held, held.max()) if self._format.one_threshold else held

    def _chosen(self, population: FloatPopulation, drive: Tensor, neurons: Neurons, values: Values) -> Chosen:
        """Choose thresholds and starts, by what a maximum behind the population makes of its spikes, if there is one.

        Args:
            population: corrected.
            drive: of the trained network, on all images.
            neurons: that are looked at where no maximum is behind them.
            values: of the sources.
        """
        maximum, together = self._maxima.get(population.name), 1
        padding: NDArray[np.bool_] = np.zeros((len(neurons.sample), 1), np.bool_)
        if maximum is not None:
            neurons, padding = choose_windows(maximum.synapses[0], len(drive), len(neurons.sample))
            together = padding.shape[1]
        window = Window(self._calibration.n_steps, population.replicas, self._format.reset, together)
        none = torch.from_numpy(padding.reshape(-1, 1))
        steps = self._steps(population, neurons, values).masked_fill(none, -torch.inf)
        should = activated(torch.from_numpy(rows(drive, neurons)).masked_fill(none, 0.0), population.ceiling)
        chosen = choose_thresholds(steps, window.largest(should), window, self._format.one_threshold)
        whole = self._whole(population, maximum, values)
        readers = self._activations.readers(population.name if maximum is None else maximum.name)
        return chosen if whole is None else stretch(chosen, window, whole, readers)

    def _whole(self, population: FloatPopulation, maximum: FloatPopulation | None, values: Values) -> Images | None:
        """Return what all neurons get on the first images, by windows where a maximum is behind; None if too many."""
        sent = self._activations.sent(population.name)
        if maximum is None:
            read, each = sent, sent[0, 0].numel()
        else:
            read = self._activations.maximum(maximum.name, sent)
            each = read[0, 0].numel() * np.count_nonzero(maximum.synapses[0].weight[0, 0])
        few = min(len(sent), WHOLE // each, max(MANY, ENOUGH // (each * sent.shape[1])))
        if few == 0:
            return None
        padding: NDArray[np.bool_] = np.zeros((few * each, 1), np.bool_)
        if maximum is None:
            neurons = all_neurons(population.synapses, few)
        else:
            neurons, padding = choose_windows(maximum.synapses[0], few, WHOLE)
        steps = self._steps(population, neurons, values)
        return Images(steps.masked_fill(torch.from_numpy(padding.reshape(-1, 1)), -torch.inf), read[:few])

    def _steps(self, population: FloatPopulation, neurons: Neurons, values: Values) -> Tensor:
        """Return the drive of the neurons at every step, float32 (n_steps, patches, channels)."""
        images = int(neurons.sample.max()) + 1
        places = images * int(np.prod(population.shape[1:]))
        looked_at, held = len(neurons.sample), most_neurons(population.synapses)
        if looked_at >= places * WORTH_WHOLE_IMAGES or looked_at > held:
            return self._of_images(population, images, neurons, values)
        sources = [self._calibration.rates(synapse.source) for synapse in population.synapses]
        differing = 1 if all(source.is_constant for source in sources) else self._calibration.n_steps
        steps = []
        for step in range(differing):
            pairs = zip(population.synapses, sources, strict=True)
            views = [_view(synapse, source.at(step), neurons, values) for synapse, source in pairs]
            weighed = sum(view.output(view.synapse.weight) for view in views) + population.bias.astype(np.float32)
            steps.append(torch.from_numpy(np.ascontiguousarray(weighed)))
        return torch.stack(steps).expand(self._calibration.n_steps, -1, -1)

    def _of_images(self, population: FloatPopulation, images: int, neurons: Neurons, values: Values) -> Tensor:
        """Return the same from the first images as a whole: what a neuron sees is not looked at one by one."""
        kernels = kernels_of(_without_replicas(absorb(population, values)))
        sources = {synapse.source: self._calibration.rates(synapse.source) for synapse in population.synapses}
        size = max(1, AT_ONCE // (self._calibration.n_steps * int(np.prod(population.shape))))
        parts = []
        for start in range(0, images, size):
            here = slice(start, min(start + size, images))
            with exact_arithmetic():
                parts.append(weighted_sum(kernels, {name: source.steps(here) for name, source in sources.items()}))
        steps = [torch.from_numpy(rows(step, neurons)) for step in torch.cat(parts, 1)]
        return torch.stack(steps).expand(self._calibration.n_steps, -1, -1)

    def loss(self, population: FloatPopulation) -> float:
        """Return the root mean square error of what a settled population sends, relative to what its ReLUs give."""
        wanted, rates = self._activations.sent(population.name), self._calibration.rates(population.name)
        worth = np.asarray(population.threshold) / population.replicas
        squares = power = 0.0
        size = max(1, AT_ONCE // (rates[:1].size))
        for start in range(0, len(rates), size):
            here = slice(start, start + size)
            counts = rates[here].reshape(-1, len(worth), population.replicas, *population.shape[1:]).sum(axis=2)
            sent = counts * column(worth, counts[0])
            should = wanted[here].numpy()
            squares += float(np.square(sent - should).sum())
            power += float(np.square(should).sum(dtype=np.float64))
        return relative_error(squares, power)


def _without_replicas(population: FloatPopulation) -> FloatPopulation:
    """Return a population of one neuron for each activation."""
    synapses = (replace(synapse, repeat=replace(synapse.repeat, copies_out=1)) for synapse in population.synapses)
    return replace(population, synapses=tuple(synapses))


def _largest_step(synapse: FloatSynapse, values: Values) -> FloatArray:
    """Return the most that one signal can add to the potential of each channel, float64 (channels,)."""
    steps = np.abs(synapse.weight * synapse.per_weight(values[synapse.source]))
    largest: FloatArray = steps.reshape(len(steps), -1).max(axis=1)
    return largest


def _view(synapse: FloatSynapse, rates: Rates, neurons: Neurons, values: Values) -> View:
    """Return what a synapse sees, in real units."""
    worth = values[synapse.source].reshape(synapse.groups, -1).astype(np.float32)
    seen = extract(synapse, rates, neurons)
    per_signal = worth.repeat(seen.shape[2] // worth.shape[1], axis=1)
    return View(synapse, seen * per_signal[:, np.newaxis])
