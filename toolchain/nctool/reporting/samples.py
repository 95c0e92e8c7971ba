"""What a page shows of samples: one through all layers, the confusion of classes, the most confident mistakes.

In: a network with samples, its answers and traces. Out: elements. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.ir.inputs import IntegerInput
from nctool.ir.network import IntNetwork, Readout
from nctool.reference.trace import Trace
from nctool.reporting.elements import (
    WHOLE,
    Columns,
    Element,
    Figure,
    Gallery,
    GridLine,
    LeftOut,
    Picture,
    Table,
    Variant,
)
from nctool.reporting.measuring import Answers, Data, Labels
from nctool.reporting.pictures import picture_of
from nctool.reporting.texts import counted, percent

MOST_CELLS = 6000
"""Cells of the raster of a sample."""

MOST_LINES = 32
"""Time steps of a layer that a raster shows; of more, several share a line."""

FEWEST_COLUMNS, MOST_COLUMNS = 8, 160
"""Groups of neurons in a line of a raster."""

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""How dark a cell is; see `GridLine`."""

MOST_CURVES = 5
"""Classes whose logits are drawn: those that are largest in the end."""

MOST_POINTS = 64
"""Time steps of a curve."""

MOST_CLASSES = 40
"""Classes of a confusion matrix; of more, the commonest mistakes are listed."""

MOST_COUNTED = 12
"""Classes of a matrix that has room for its counts."""

SHORT_NAME = 3
"""Letters of a name that fits below its column."""

MISTAKES = 12


@dataclass(frozen=True, eq=False)
class Shown:
    """Some samples, one by one.

    Args:
        numbers: of the samples.
        traces: of each.
    """

    numbers: Sequence[int]
    traces: Sequence[Trace]


def class_names(data: Data) -> Sequence[str]:
    """Return a name for each class; its number where the file knows none."""
    provenance, n = data.content.provenance, data.network.readout.n_neurons
    known = () if provenance is None else provenance.classes
    return known if len(known) == n else [str(number) for number in range(n)]


def confidences(data: Data, answers: Answers) -> NDArray[np.float64]:
    """Return the softmax of the largest logit of each sample, float64 (samples,)."""
    neuron = data.network.readout.neuron
    real = answers.logits * (neuron.scale if isinstance(neuron, Readout) else 1.0)
    below = np.exp(real - real.max(axis=1, keepdims=True))
    share: NDArray[np.float64] = 1 / below.sum(axis=1)
    return share


def mistakes_of(data: Data, answers: Answers) -> Labels:
    """Return the numbers of the samples that are answered wrongly, the most confident first."""
    if data.labels is None:
        return np.empty(0, np.int64)
    wrong = np.flatnonzero(answers.answers != data.labels)
    return wrong[np.argsort(-confidences(data, answers)[wrong], kind="stable")]


def chosen_samples(data: Data, answers: Answers, n_samples: int) -> list[int]:
    """Return the numbers of samples to be shown: the first of each class, and the most confident mistakes."""
    classes = answers.answers if data.labels is None else data.labels
    _, firsts = np.unique(classes, return_index=True)
    wrong = mistakes_of(data, answers)[: n_samples // 3].tolist()
    right = [number for number in np.sort(firsts).tolist() if number not in wrong]
    others = [number for number in range(len(data.samples)) if number not in {*wrong, *right}]
    return sorted([*wrong, *[*right, *others][: n_samples - len(wrong)]])


# --- one sample -------------------------------------------------------------------------------------------------------


def one_by_one(data: Data, answers: Answers, shown: Shown) -> Iterator[Element]:
    """Yield the raster and the logits of the sample that is chosen."""
    rasters, logits = {}, {}
    for number, trace in zip(shown.numbers, shown.traces, strict=True):
        key, text = str(number), _described(data, answers, number)
        image = picture_of(_first_step(data, number), *_picture_range(data))
        rasters[key] = Variant(f"{text} {_raster_text(data.network)}", grid=_raster(trace), image=image)
        logits[key] = Variant(text, _logits(data, trace))
    table = {"line": "layer, step", "neurons": "neurons", "share": "sent"}
    yield Figure("raster", "Spikes of one sample through all layers", table, rasters, "sample", is_wide=True)
    if data.network.n_steps == 1:
        yield Figure("final_logits", "Largest logits", {"layer": "class", "value": "logit"}, logits, "sample")
    else:
        table = {"curve": "class", "at": "time step", "value": "logit"}
        yield Figure("logits", "Logits over the time steps", table, logits, "sample", is_wide=True)


def _described(data: Data, answers: Answers, number: int) -> str:
    names, answer = class_names(data), int(answers.answers[number])
    sure = f"with confidence {confidences(data, answers)[number]:.2f}" if data.content.is_classifier else ""
    said = f"Sample {number} of {data.name}: answer {names[answer]} {sure}".rstrip()
    if data.labels is None:
        return f"{said}; no label."
    label = int(data.labels[number])
    return f"{said}; label {names[label]}, {'right' if label == answer else 'WRONG'}."


def _first_step(data: Data, number: int) -> NDArray[Any]:
    """Return a sample without its time axis, of which the first step stands for all."""
    sample = np.asarray(data.samples[number])
    return sample[0] if sample.ndim > len(data.network.input.sample_shape) else sample


def _picture_range(data: Data) -> tuple[int, int]:
    if isinstance(data.network.input, IntegerInput):
        return int(data.samples.min()), int(data.samples.max())
    return 0, 255


def _raster_text(network: IntNetwork) -> str:
    if network.is_graded:
        return "Each line is a layer; the stronger the colour, the larger the numbers that its spikes carry."
    return "Each line is a time step of a layer, each cell some neurons; the stronger its colour, the more fire."


def _raster(trace: Trace) -> list[GridLine]:
    """Return a line for each time step of each layer."""
    lines = sum(min(spikes.shape[1], MOST_LINES) for spikes in trace.spikes.values())
    most = max(FEWEST_COLUMNS, min(MOST_COLUMNS, MOST_CELLS // max(lines, 1)))
    found: list[GridLine] = []
    for name, spikes in trace.spikes.items():
        found += _lines(name, spikes[0].reshape(spikes.shape[1], -1), most)
    return found


def _lines(name: str, sent: NDArray[Any], most: int) -> Iterator[GridLine]:
    """Yield the lines of a layer, each of at most so many groups of neurons.

    Args:
        sent: (steps, neurons).
    """
    n_steps, n_neurons = sent.shape
    n_groups = min(most, n_neurons)
    groups = np.arange(n_groups) * n_neurons // n_groups
    steps = np.arange(n := min(MOST_LINES, n_steps)) * n_steps // n
    ends = [*steps[1:], n_steps]
    sums = np.add.reduceat(np.add.reduceat(sent.astype(np.float64), groups, axis=1), steps, axis=0)
    sizes = np.diff([*groups, n_neurons])[np.newaxis] * np.diff([*steps, n_steps])[:, np.newaxis]
    means = sums / sizes
    shares = means if sent.dtype == np.bool_ else means / (means.max() or 1.0)
    for line, row in enumerate(shares):
        first, last = steps[line] + 1, ends[line]
        step = f"{first}" if first == last else f"{first}-{last}"
        digits = "".join(DIGITS[0 if share == 0 else max(1, round(share * (len(DIGITS) - 1)))] for share in row)
        yield name, step, n_neurons, digits


def _logits(data: Data, trace: Trace) -> Columns:
    """Return the logits of the classes that are largest in the end."""
    logits, names = trace.logits[0].reshape(trace.logits.shape[1], -1), class_names(data)
    largest = np.argsort(-logits[-1], kind="stable")[:MOST_CURVES]
    if len(logits) == 1:
        return {"layer": [names[k] for k in largest], "value": logits[0, largest].tolist()}
    steps = np.unique(np.linspace(0, len(logits) - 1, min(MOST_POINTS, len(logits))).round().astype(int))
    rows = [(names[k], int(step) + 1, int(logits[step, k])) for k in largest for step in steps]
    curves, ats, values = zip(*rows, strict=True)
    return {"curve": curves, "kind": ["curve"] * len(rows), "at": ats, "value": values}


# --- all samples ------------------------------------------------------------------------------------------------------


def answers_together(data: Data | None, answers: Answers | None, n_mistakes: int, why_not: str) -> Iterator[Element]:
    """Yield the confusion of classes and the most confident mistakes."""
    if data is None or answers is None:
        yield LeftOut("Confusion of classes", why_not)
        return
    if data.labels is None:
        yield LeftOut("Confusion of classes and mistakes", data.why_no_labels)
        return
    names, labels = class_names(data), data.labels
    if len(names) <= MOST_CLASSES:
        yield _confusion(names, labels, answers.answers)
    else:
        yield _commonest(names, labels, answers.answers)
    yield from _mistakes(data, answers, n_mistakes)


def _confusion(names: Sequence[str], labels: Labels, answers: Labels) -> Element:
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, answers), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = [(k, j) for k in range(len(names)) for j in range(len(names))]
    columns: dict[str, Sequence[Any]] = {
        "label": [names[k] for k, _ in cells],
        "answer": [names[j] for _, j in cells],
        "count": [int(counts[cell]) for cell in cells],
        "shade": [_shade(float(shares[cell])) for cell in cells],
        "right": ["right" if k == j else "wrong" for k, j in cells],
    }
    wrong = [cell for cell in cells if cell[0] != cell[1] and counts[cell]]
    text = f"{percent(float((labels == answers).mean()))} of {counted(len(labels), 'sample')} are answered rightly."
    if wrong:
        k, j = max(wrong, key=lambda cell: counts[cell])
        text += f" The commonest mistake: {names[k]} taken for {names[j]}, {counts[k, j]} times."
    table = {"label": "label", "answer": "answer", "count": "samples"}
    is_large = len(names) > MOST_COUNTED
    chart = "confusion" if max(map(len, names)) <= SHORT_NAME else "confusion_of_names"
    chart = "confusion_of_many" if is_large else chart
    return Figure(chart, "Confusion of classes", table, {WHOLE: Variant(text, columns)}, is_wide=is_large)


def _shade(share: float) -> float:
    """Return how dark a share of a class is: rare mistakes are to be seen beside the many right answers."""
    return 0.25 + 0.75 * float(np.sqrt(share)) if share else 0.0


def _commonest(names: Sequence[str], labels: Labels, answers: Labels) -> Element:
    wrong = labels != answers
    pairs, counts = np.unique(np.stack([labels[wrong], answers[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    rows = [[names[pairs[0, k]], names[pairs[1, k]], str(counts[k])] for k in order]
    return Table(f"The commonest mistakes of {len(names)} classes", ["label", "answer", "samples"], rows)


def _mistakes(data: Data, answers: Answers, n_mistakes: int) -> Iterator[Element]:
    numbers = mistakes_of(data, answers)
    if data.labels is None or not len(numbers):
        yield LeftOut("Mistakes", f"none of {counted(len(data.samples), 'sample')} is answered wrongly")
        return
    names, sure = class_names(data), confidences(data, answers)
    shown = [
        (picture_of(_first_step(data, number), *_picture_range(data)), f"{what}, {sure[number]:.2f}, sample {number}")
        for number in numbers[:n_mistakes].tolist()
        for what in [f"{names[data.labels[number]]} taken for {names[answers.answers[number]]}"]
    ]
    title, total = "The most confident mistakes", counted(len(numbers), "sample")
    if not shown[0][0]:
        yield Table(
            f"{title}: the samples are no images", ["mistake, confidence, sample"], [[text] for _, text in shown]
        )
        return
    text = f"{total} of {len(data.samples):,} answered wrongly. Confidence is the softmax of the logits."
    yield Gallery(title, text, [Picture(image, text) for image, text in shown])
