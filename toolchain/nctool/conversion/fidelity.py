"""Fidelity: how far the integers spike and answer like the float network that they come from.

Both run on the same images, each layer behind the layers of its own network, so that errors of the input, of the
weights and of all layers before add up as they do on the chip. The neurons of the float network are those of training
(`nctool.activation.surrogate`), with the same replicas, on the pixels as they are, or on the same spike trains.

In: a Conversion, pixels. Out: a Fidelity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.activation.surrogate import Reset, integrate_and_fire
from nctool.conversion.float_network import FloatArray, FloatNetwork, FloatPopulation
from nctool.conversion.input_encoding import EncodedInput
from nctool.conversion.maximum_values import maximum_values
from nctool.conversion.pipeline import Conversion
from nctool.conversion.quantise.accumulator import finer_weights
from nctool.conversion.quantise.rounding_error import relative_error
from nctool.conversion.replicas import MAX_REPLICAS
from nctool.fast.engine import FastEngine, exact_arithmetic
from nctool.fast.kernel import Kernel, kernel_of_weights
from nctool.fast.layer import weighted_sum
from nctool.ir.change import Change
from nctool.ir.inputs import RateEncoding
from nctool.ir.network import INPUT_NAME, IntArray, IntNetwork

WORK = 2 * 10**9
"""Connections that may be computed, over all images and steps: about a second on one core of a CPU."""

ENOUGH_FOR_CLASSES = 20
"""Images from which on one class for all of them is worth a word."""

FEWEST_IMAGES = 8
"""Measured however large the network is."""

LARGEST_SPIKE_ERROR = 0.8
"""A layer that sends nothing has 1. Errors grow with the depth and with fewer steps: networks that keep 95 % of their
answers reach 0.6, with 2 bits or in one step."""

LEAST_SAME_ANSWERS = 0.8
"""Networks of 8 bits keep more than 90 %, residual ones of 2 bits 86 %."""

CHANCE = 0.05
"""Largest probability that a network which keeps just so many answers is noted, for the images that were picked."""

Pixels = NDArray[np.uint8]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class SpikeError:
    """How the spikes of one layer differ from those of the float network.

    A count is that of one activation in one window, all its replicas together; times θ / (replicas · T) it is the
    value that the activation sends, so that errors of counts are errors of values.

    Args:
        error: root mean square difference of the counts, relative to the root mean square count of the float network;
            1 where only the integers fire.
        differing: share of the counts that differ, 0..1.
    """

    error: float
    differing: float


@dataclass(frozen=True)
class Accuracy:
    """The share of the labels that a network answers, 0..1.

    Args:
        snn: of the integers, after the whole window.
        ann: of the noise-free ANN.
    """

    snn: float
    ann: float


@dataclass(frozen=True)
class Fidelity:
    """How far an integer network spikes and answers like what it comes from.

    Args:
        images: calibration images that were measured.
        layers: by name, those that spike.
        same_as_snn, same_as_ann: share of the images, 0..1, whose answer is that of the float spiking network of the
            same window and reset, and of the noise-free ANN.
        what: is compared, layer by layer, and when it counts as differing.
        accuracy: on the same images; None where they have no labels.
        overflows: accumulated inputs on them that leave the accumulator (rules O1 and O3).
        one_class: the ANN answers all images with one class, and they are enough to tell.
    """

    images: int
    layers: dict[str, SpikeError]
    same_as_snn: float
    same_as_ann: float
    what: str = "spike counts differ"
    accuracy: Accuracy | None = None
    overflows: int = 0
    one_class: bool = False

    @property
    def changes(self) -> tuple[Change, ...]:
        """Return the comparison as the last steps of a conversion."""
        beside = f"on {self.images} images"
        return (
            *(
                Change(
                    f"compare `{name}`",
                    f"{spikes.differing:.1%} of {self.what} from the float network's, {beside}",
                    False,
                    output_error=spikes.error,
                )
                for name, spikes in self.layers.items()
            ),
            Change(
                "compare answers",
                f"{self.same_as_snn:.1%} are the float network's, {self.same_as_ann:.1%} the ANN's, {beside}",
                False,
            ),
        )

    def notes(self, conversion: Conversion) -> tuple[str, ...]:
        """Return a note for each limit that `conversion`, which was measured, is beyond, with the way out."""
        way_out = _way_out(conversion)
        off = [
            f"`{name}` {spikes.error:.0%}" for name, spikes in self.layers.items() if spikes.error > LARGEST_SPIKE_ERROR
        ]
        beyond = f"{self.overflows} accumulated inputs leave the accumulator on {self.images} images"
        notes = [f"{beyond} (rules O1 and O3): {way_out}"] if self.overflows else []
        notes += [f"spikes differ grossly from the float network's, by {', '.join(off)}: {way_out}"] if off else []
        if self.one_class:
            notes.append(
                f"the trained network gives one class for all {self.images} images, so that answers say little: is it "
                "trained, are mean and std those of its training, are the images of several classes?"
            )
        if _by_chance(round(self.same_as_snn * self.images), self.images) < CHANCE:
            notes.append(
                f"only {self.same_as_snn:.1%} of the answers to {self.images} calibration images are the float "
                f"network's: {way_out}"
            )
        if conversion.losses and _by_chance(round(self.same_as_ann * self.images), self.images) < CHANCE:
            worst = max(conversion.losses, key=conversion.losses.__getitem__)
            notes.append(
                f"only {self.same_as_ann:.1%} of the answers to {self.images} images are the trained "
                f"network's; `{worst}` loses most, {conversion.losses[worst]:.0%}: {_more_spikes(conversion)}"
            )
        return tuple(notes)


def _by_chance(same: int, images: int) -> float:
    """Return the probability that a network which keeps just enough answers keeps at most `same` of `images`."""
    kept = LEAST_SAME_ANSWERS
    return sum(math.comb(images, k) * kept**k * (1 - kept) ** (images - k) for k in range(same + 1))


def _way_out(conversion: Conversion) -> str:
    """Return what an export can change: finer weights, else more replicas, which lessen the error of the counts."""
    network, number_format = conversion.network, conversion.number_format
    more_replicas = "use more --replicas, or " if _may_have_more_replicas(conversion) else ""
    otherwise = _more_spikes(conversion) if conversion.losses else f"{more_replicas}train on with `nctool finetune`"
    return finer_weights(network.populations, number_format, network.n_steps, otherwise)


def _more_spikes(conversion: Conversion) -> str:
    """Return what brings neurons that were chosen for ReLUs nearer to them: more spikes an activation."""
    if conversion.number_format.is_graded:
        return "use more --activation-bits or --weight-bits, or more images"
    return f"convert with more {'--replicas' if _may_have_more_replicas(conversion) else '--steps'}"


def _may_have_more_replicas(conversion: Conversion) -> bool:
    if conversion.number_format.is_graded:
        return False
    fewest = min(conversion.replicas.values(), default=MAX_REPLICAS)
    return conversion.number_format.reset == "subtract" and fewest < MAX_REPLICAS


def n_images(network: IntNetwork, available: int, work: int = WORK) -> int:
    """Return how many images can be measured at a bounded cost: at least `FEWEST_IMAGES`, at most `available`."""
    connections = sum(network.synapse_count(population) for population in network.populations)
    return min(available, max(FEWEST_IMAGES, work // (connections * network.n_steps)))


def measure_fidelity(
    conversion: Conversion,
    pixels: NDArray[np.uint8],
    ann: Callable[[Pixels], FloatArray],
    work: int = WORK,
    labels: IntArray | None = None,
) -> Fidelity:
    """Run the integers, and what they come from, on the same images.

    Args:
        pixels: uint8 (samples, *input shape), at least one; as many are used as `n_images` allows.
        ann: gives the logits of the noise-free ANN, (samples, classes).
        work: connections that may be computed.
        labels: class numbers, int64 (samples,); only the accuracy is told by them.
    """
    pixels = pixels[: n_images(conversion.network, len(pixels), work)]
    engine = FastEngine(conversion.network)
    real = FloatSpikes.prepare(conversion.real, conversion.encoded, conversion.number_format.reset, engine.n_steps)
    layers = {name: np.zeros(4) for name in conversion.replicas}
    same, right, overflows = np.zeros(2), np.zeros(2), 0
    classes: set[int] = set()
    apart = 1 if conversion.network.is_graded else 0
    for start in range(0, len(pixels), engine.batch):
        batch = pixels[start : start + engine.batch]
        (trace,) = engine.traces(batch)
        overflows += sum(trace.overflows.values())
        counts, logits = real.run(batch)
        answers = _answers(trace.logits[:, -1])
        of_ann = _answers(ann(batch))
        classes.update(of_ann.tolist())
        same += [(answers == _answers(logits)).sum(), (answers == of_ann).sum()]
        if labels is not None:
            wanted = labels[start : start + len(batch)]
            right += [(found == wanted).sum() for found in (answers, of_ann)]
        for name, replicas in conversion.replicas.items():
            layers[name] += _sums(
                _per_activation(trace.spikes[name].sum(axis=1), replicas),
                _per_activation(counts[name], replicas),
                apart,
            )
    snn, ann_too = (same / len(pixels)).tolist()
    accuracy = None if labels is None else Accuracy(*(right / len(pixels)).tolist())
    of_layers = {name: _spike_error(*sums) for name, sums in layers.items()}
    what = "graded spikes differ by more than one unit" if conversion.network.is_graded else "spike counts differ"
    several = conversion.network.readout.n_neurons > 1
    one_class = several and len(classes) == 1 and len(pixels) >= ENOUGH_FOR_CLASSES
    return Fidelity(len(pixels), of_layers, snn, ann_too, what, accuracy, overflows, one_class)


def _answers(logits: IntArray | FloatArray) -> IntArray:
    answers: IntArray = logits.argmax(axis=1)
    return answers


def _per_activation(counts: IntArray, replicas: int) -> IntArray:
    """Add up the replicas of each activation, which lie side by side in (samples, channels · replicas, ...)."""
    samples, channels, *size = counts.shape
    summed: IntArray = counts.reshape(samples, channels // replicas, replicas, *size).sum(axis=2)
    return summed


def _sums(counts: IntArray, wanted: IntArray, apart: int) -> FloatArray:
    """Return the sum of squared differences, the sum of squares, the number of counts that differ, and of all.

    Args:
        apart: counts differ where they are farther apart.
    """
    difference = (counts - wanted).astype(np.float64)
    return np.array(
        [(difference**2).sum(), (wanted.astype(np.float64) ** 2).sum(), (np.abs(difference) > apart).sum(), wanted.size]
    )


def _spike_error(squares: float, power: float, differing: float, counts: float) -> SpikeError:
    return SpikeError(relative_error(squares, power), differing / counts)


@dataclass(frozen=True)
class FloatSpikes:
    """A float network made ready to run.

    Args:
        network: real numbers, spike values not absorbed.
        encoded: its input.
        reset: what a spike does to the membrane potential.
        n_steps: length of the window.
        kernels: of each population, one a synapse; the first adds the bias.
    """

    network: FloatNetwork
    encoded: EncodedInput
    reset: Reset
    n_steps: int
    kernels: dict[str, tuple[Kernel, ...]]

    @classmethod
    def prepare(cls, network: FloatNetwork, encoded: EncodedInput, reset: Reset, n_steps: int) -> FloatSpikes:
        """Bring the weights of `network` to torch."""
        return cls(network, encoded, reset, n_steps, {p.name: _kernels(p) for p in network.populations})

    def run(self, pixels: NDArray[np.uint8]) -> tuple[dict[str, IntArray], FloatArray]:
        """Run a batch for one window.

        Args:
            pixels: uint8 (samples, *input shape).

        Returns:
            how often each neuron fires, or what its graded spike carries, int64 (samples, *shape) by population, and
            mean logits (samples, classes).
        """
        signals, counts, logits = {INPUT_NAME: self._signal(pixels)}, {}, np.empty(0)
        last_reader = self.network.last_readers
        with exact_arithmetic():
            for population in self.network.populations:
                drive = self._drive(population, signals)
                signals = {name: sent for name, sent in signals.items() if last_reader.get(name) != population.name}
                if population.threshold is None:
                    logits = drive.mean(dim=0).flatten(1).numpy()
                    continue
                spikes = self._fire(population, population.threshold, drive)
                counts[population.name] = self._counts(population, spikes)
                if population.name in last_reader:
                    signals[population.name] = spikes / population.replicas
        return counts, logits

    def _drive(self, population: FloatPopulation, signals: Mapping[str, Tensor]) -> Tensor:
        if population.graded and population.maximum:
            return maximum_values(population, signals[population.synapses[0].source][0])[None]
        return weighted_sum(self.kernels[population.name], signals)

    def _counts(self, population: FloatPopulation, spikes: Tensor) -> IntArray:
        """Return how often each neuron fires, or the number nearest to what its graded spike is worth."""
        if population.graded and population.threshold is not None:
            spikes = spikes / _column(population.threshold, population)
            counts: IntArray = spikes[0].round().to(torch.int64).numpy()
        else:
            counts = spikes.count_nonzero(dim=0).numpy()
        return counts

    def _signal(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return the real input, float64 (n_steps or 1, samples, *shape)."""
        encoded, column = self.encoded, (-1, *[1] * (len(self.network.input_shape) - 1))
        if isinstance(encoded.encoding, RateEncoding):
            signal = encoded.encoding.signal(pixels, self.n_steps) * encoded.step.reshape(column)
        else:
            signal = encoded.real[np.arange(len(encoded.real)).reshape(column), pixels][:, np.newaxis]
        return torch.from_numpy(np.ascontiguousarray(signal.swapaxes(0, 1)))

    def _fire(self, population: FloatPopulation, threshold: FloatArray, drive: Tensor) -> Tensor:
        """Return the threshold where a neuron fires, else 0: (n_steps, samples, *shape)."""
        theta = _column(threshold.repeat(population.replicas), population)
        if population.graded:
            return drive if population.maximum else _saturated(population, drive)
        if population.maximum:
            return (drive > 0) * theta
        steps = drive.expand(self.n_steps, *drive.shape[1:]).clone()
        if self.reset == "subtract":  # a replica starts at its own potential, not in the middle (rule U1)
            steps[0] += _column(population.starts.flatten(), population) - theta / 2
        return integrate_and_fire(steps.flatten(0, 1), theta, self.n_steps, self.reset).view_as(steps)


def _saturated(population: FloatPopulation, drive: Tensor) -> Tensor:
    """Return what graded neurons make of a drive, (1, samples, *shape)."""
    most = population.saturation
    return drive.clamp(min=0.0) if most is None else drive.clamp(min=0.0).minimum(_column(most, population))


def _column(values: FloatArray, population: FloatPopulation) -> Tensor:
    """Return a value for each channel, all replicas counted, shaped to broadcast over the neurons."""
    return torch.from_numpy(values).reshape(-1, *[1] * (len(population.shape) - 1))


def _kernels(population: FloatPopulation) -> tuple[Kernel, ...]:
    first, *rest = (
        kernel_of_weights(s.source, s.weight, s.conv, s.source_shape, s.repeat, CPU, torch.float64)
        for s in population.synapses
    )
    return (replace(first, bias=torch.from_numpy(population.bias.repeat(population.replicas))), *rest)
