"""What a page shows of the layers: weights, thresholds, head-room, spike rates, errors of the conversion.

In: a network, how often its neurons fired. Out: elements. Must not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import CurrentBased, GradedReLU, IntegrateFire, IntNetwork, Population, Readout, Synapse
from nctool.reporting.elements import WHOLE, Columns, Element, Figure, LeftOut, Variant
from nctool.reporting.measuring import Activity
from nctool.reporting.subjects import Subject
from nctool.reporting.texts import counted, percent, shape_of
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.backends.number_formats import SYNAPSE_MANTISSA, THRESHOLD

BARS = 64
"""Bars of a histogram at most."""

OCTAVE = 4
"""Bars for each doubling of a threshold."""

BAR, ALLOWED = "bar", "allowed"
BINS = {"low": "from", "high": "to", "count": "count"}
_COMPARED, _CHOSEN = re.compile(r"^compare `(.+)`$"), re.compile(r"^choose neurons `(.+)`$")


def one_by_one(subject: Subject, activity: Activity | None) -> Iterator[Element]:
    """Yield the figures of the layer that is chosen: weights, thresholds, rates."""
    if subject.content is None:
        return
    network = subject.content.network
    weights = {p.name: _weights(subject, network, p) for p in network.populations}
    yield Figure("weights", "Weights", BINS, weights, "layer")
    yield Figure(
        "thresholds", "Thresholds", BINS, {p.name: _thresholds(subject, p) for p in network.populations}, "layer"
    )
    if activity is None:
        yield LeftOut("Spike rates", "the network was not run on this page")
        return
    rates = {p.name: _rates(p, activity, network.n_steps) for p in network.populations}
    yield Figure("rates", "Spike rates of its neurons", BINS, rates, "layer")


def _weights(subject: Subject, network: IntNetwork, population: Population) -> Variant:
    if not population.synapses:
        return Variant("The sample itself drives this layer: it has no synapses.")
    values = np.concatenate([synapse.weight.ravel() for synapse in population.synapses])
    low, high = _weight_limits(subject)
    reads = ", ".join(dict.fromkeys(f"`{synapse.source}`" for synapse in population.synapses))
    held = _kind(population)
    shifted = "".join(f"; {text}" for text in dict.fromkeys(map(_shift, population.synapses)) if text)
    text = (
        f"`{population.name}`: {held}, {shape_of(population.shape)}, {counted(population.n_neurons, 'neuron')}, "
        f"reads {reads} by {counted(network.synapse_count(population), 'synapse')}. {counted(len(values), 'weight')} "
        f"from {values.min()} to {values.max()}, {percent(float((values == 0).mean()))} are 0; "
        f"allowed {low}..{high}{shifted}."
    )
    return Variant(text, _histogram(values, low, high))


def _shift(synapse: Synapse) -> str:
    if synapse.exponent < 0:
        return f"sums shifted right by {counted(-synapse.exponent, 'bit')}"
    return f"sums times {2**synapse.exponent}" if synapse.exponent else ""


def _kind(population: Population) -> str:
    neuron = population.neuron
    first = "dense" if not population.synapses or population.synapses[0].conv is None else "convolution"
    if population.is_maximum:
        return f"{first}, a maximum: it fires where one of those that it reads does"
    kinds = {Readout: "readout", GradedReLU: "graded neurons", CurrentBased: "current-based neurons (CUBA)"}
    kind = next((name for cls, name in kinds.items() if isinstance(neuron, cls)), "integrate-and-fire neurons")
    return f"{first}, {kind}"


def _weight_limits(subject: Subject) -> tuple[int, int]:
    """Return the smallest and largest weight that could stand in the file."""
    metadata = subject.metadata
    if metadata is None:
        return SYNAPSE_MANTISSA.low, SYNAPSE_MANTISSA.high
    most = 2 ** (metadata.weight_bits - 1) - 1
    return -most, most


def _histogram(values: NDArray[Any], low: int, high: int) -> Columns:
    """Return bars of whole numbers, all equally wide, before the range that is allowed."""
    least, most = int(values.min()), int(values.max())
    width = -(-(most - least + 1) // BARS)
    n_bars = -(-(most - least + 1) // width)
    edges = least - 0.5 + width * np.arange(n_bars + 1)
    return _with_allowed(edges, np.histogram(values, edges)[0], (low - 0.5, high + 0.5))


def _with_allowed(edges: NDArray[Any], counts: NDArray[Any], allowed: tuple[float, float] | None) -> Columns:
    filled = [k for k, count in enumerate(counts) if count]
    rows: list[tuple[str, float, float, int | None]] = [] if allowed is None else [(ALLOWED, *allowed, None)]
    rows += [(BAR, float(edges[k]), float(edges[k + 1]), int(counts[k])) for k in filled]
    kinds, lows, highs, numbers = zip(*rows, strict=True)
    return {"kind": kinds, "low": lows, "high": highs, "count": numbers}


def _thresholds(subject: Subject, population: Population) -> Variant:
    neuron = population.neuron
    if isinstance(neuron, Readout):
        return Variant(f"`{population.name}` is the readout: it never fires, its potential is the logit.")
    if isinstance(neuron, GradedReLU):
        return Variant(
            f"`{population.name}` has graded neurons: a spike carries what is above 0, there is no threshold."
        )
    values = np.atleast_1d(np.asarray(neuron.threshold, np.float64))
    most = THRESHOLD.high
    if subject.metadata is not None and isinstance(neuron, IntegrateFire):
        number_format = find_backend(subject.metadata.backend).number_format
        most = number_format.threshold_mantissa_max << number_format.threshold_exponent_max
    first, last = (np.floor(np.log2(values.min()) * OCTAVE), np.floor(np.log2(values.max()) * OCTAVE) + 1)
    edges = 2 ** (np.arange(first, last + 1) / OCTAVE)
    least, largest = int(values.min()), int(values.max())
    are = f"from {least:,} to {largest:,}" if least < largest else f"of {least:,}"
    text = f"{counted(len(values), 'threshold')} {are} in weight units; allowed 1..{most:,}. The axis is logarithmic."
    return Variant(text, _with_allowed(edges, np.histogram(values, edges)[0], (1.0, float(most))))


def _rates(population: Population, activity: Activity, n_steps: int) -> Variant:
    if population.name not in activity.spikes:
        return Variant(f"`{population.name}` is the readout: it sends no spikes.")
    rates = activity.spikes[population.name] / (activity.samples * n_steps)
    edges = np.linspace(0, 1, 26)
    silent, always = (float(part.mean()) for part in (rates == 0, rates == 1))
    text = (
        f"Mean {rates.mean():.3f} spikes a time step, on {counted(activity.samples, 'sample')}: {percent(silent)} of "
        f"the neurons never fired, {percent(always)} at every step."
    )
    return Variant(text, _with_allowed(edges, np.histogram(rates, edges)[0], None))


# --- all layers -------------------------------------------------------------------------------------------------------


def together(subject: Subject, activity: Activity | None) -> Iterator[Element]:
    """Yield the figures of all layers: head-room, mean rates, errors of the conversion."""
    if subject.content is None:
        return
    network = subject.content.network
    yield _head_room(network)
    if activity is not None:
        yield _mean_rates(network, activity)
    yield from _errors(subject)


def _head_room(network: IntNetwork) -> Element:
    rooms = [
        (p.name, p.head_room_bits, p.bound.kind)
        for p in network.populations
        if p.bound and p.head_room_bits is not None
    ]
    title = "Head-room of the accumulator, bits"
    if not rooms:
        return LeftOut(title, "no bounds are known for neurons of another tool, whose registers may wrap (rule O2)")
    names, bits, kinds = zip(*rooms, strict=True)
    least = int(np.argmin(bits))
    text = (
        f"How often the largest accumulated input could double before it left its register. Least: {bits[least]:.2f} "
        f"bits in `{names[least]}`. Proved: for every input; calibrated: measured, and widened by a margin."
    )
    columns = {"layer": names, "part": kinds, "value": bits}
    return _by_layer("head_room", title, {"layer": "layer", "part": "bound", "value": "bits"}, text, columns)


def _mean_rates(network: IntNetwork, activity: Activity) -> Element:
    whole = activity.samples * network.n_steps
    rates = {name: float(spikes.mean()) / whole for name, spikes in activity.spikes.items()}
    spikes = sum(int(each.sum()) for each in activity.spikes.values()) / activity.samples
    run = f"{counted(activity.samples, 'sample')} of {counted(network.n_steps, 'step')}"
    text = f"{spikes:,.0f} spikes a sample in all, on {run}."
    columns = {"layer": tuple(rates), "value": tuple(rates.values())}
    table = {"layer": "layer", "value": "spikes a neuron and step"}
    return _by_layer("layer_rates", "Mean spike rate by layer", table, text, columns)


def _errors(subject: Subject) -> Iterator[Element]:
    """Yield what each layer lost, as the file itself says it: measured when it was exported."""
    title = "Error of the conversion by layer"
    changes = () if subject.metadata is None else subject.metadata.changes
    by_step = {pattern: _matching(changes, pattern) for pattern in (_COMPARED, _CHOSEN)}
    compared, chosen = by_step[_COMPARED], by_step[_CHOSEN]
    if not compared:
        yield LeftOut(title, "the file does not say what its network was before")
        return
    text = "Of the spikes, beside those of the float network of the same window, on calibration images at export."
    if chosen:
        worst = max(chosen, key=chosen.__getitem__)
        text += f" Against the ReLUs themselves, the most is {100 * chosen[worst]:.1f} %, in `{worst}`."
    columns = {"layer": tuple(compared), "value": tuple(100 * error for error in compared.values())}
    yield _by_layer("errors", title, {"layer": "layer", "value": "error, %"}, text, columns)


def _matching(changes: Sequence[Any], pattern: re.Pattern[str]) -> dict[str, float]:
    matched = [(pattern.match(change.step), change.output_error) for change in changes]
    return {match[1]: error for match, error in matched if match and error is not None}


def _by_layer(chart: str, title: str, table: Mapping[str, str], text: str, columns: Columns) -> Figure:
    return Figure(chart, title, table, {WHOLE: Variant(text, columns)})
