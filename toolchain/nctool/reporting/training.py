"""What a page shows of a training run: accuracy against time steps, and the epochs.

In: a Subject, what was measured. Out: elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nctool.reporting.elements import WHOLE, Columns, Element, Figure, LeftOut, Variant
from nctool.reporting.measuring import Answers, Data
from nctool.reporting.published import PUBLISHED, SOURCE
from nctool.reporting.subjects import Subject
from nctool.reporting.texts import counted, percent
from nctool.training import EpochMetrics

MOST_EPOCHS = 200
"""Epochs that a chart shows; of more, some in even distances."""

MOST_CURVES = 12
"""Layers whose θ and gap a chart shows; of more, some in even distances."""

INTEGERS, FLOAT_SNN, ANN = "integers, exported", "float SNN, after training", "ANN"
REFERENCE, CURVE = "reference", "curve"

Curves = Mapping[str, tuple[str, Mapping[int, float]]]
"""By name: `reference` for a dashed line, and values by step or epoch."""


def accuracy(subject: Subject, data: Data | None, answers: Answers | None, no_data: str) -> Iterator[Element]:
    """Yield accuracy against time steps: integers, float SNN, ANN, and what was published."""
    curves = _curves_of(subject, answers)
    if _has_steps(curves):
        variant = Variant(_accuracy_text(subject, data, answers), _columns(curves))
        table = {"curve": "curve", "at": "time steps", "percent": "accuracy"}
        yield Figure("accuracy", "Accuracy against time steps", table, {WHOLE: variant}, is_wide=True)
    if subject.content is None:
        yield LeftOut("The integer network", f"nothing was exported of this run: `{subject.how_to_export}` does it")
    elif answers is None:
        yield LeftOut("Accuracy of the integers", no_data)
    elif answers.accuracy is None:
        yield LeftOut("Accuracy of the integers", no_data if data is None else data.why_no_labels)


def accuracies_together(
    networks: Sequence[tuple[Subject, Answers | None, str]],
) -> Iterator[Element]:
    """Yield accuracy against time steps, a curve for each network and a dashed one for the ANN of each run.

    Args:
        networks: with the reason where one has no answers.
    """
    curves: dict[str, tuple[str, Mapping[int, float]]] = {}
    for subject, answers, why_not in networks:
        if answers is not None and answers.accuracy is not None:
            curves[subject.name] = (CURVE, dict(enumerate(answers.accuracy.tolist(), start=1)))
        else:
            yield LeftOut(f"Accuracy of `{subject.name}`", why_not)
    runs = {str(subject.run): subject.accuracy_ann for subject, _, _ in networks if subject.accuracy_ann is not None}
    steps = {step for _, values in curves.values() for step in values}
    for run, accuracy in runs.items():
        if steps:
            name = ANN if len(runs) == 1 else f"{ANN} of {run}"
            curves[name] = (REFERENCE, dict.fromkeys((min(steps), max(steps)), accuracy))
    if _has_steps(curves):
        text = (
            "The integers of each network, on the samples named above. ANN: all test images, when the training ended."
        )
        table = {"curve": "network", "at": "time steps", "percent": "accuracy"}
        figure = Figure("accuracy", "Accuracy against time steps", table, {WHOLE: Variant(text, _columns(curves))})
        yield replace(figure, is_wide=True)


def _has_steps(curves: Curves) -> bool:
    """Return whether there is more than one step to be drawn."""
    return len({step for _, values in curves.values() for step in values}) > 1


def _curves_of(subject: Subject, answers: Answers | None) -> Curves:
    """Return the curves of accuracy by time steps, 0..1."""
    curves: dict[str, tuple[str, Mapping[int, float]]] = {}
    if answers is not None and answers.accuracy is not None:
        curves[INTEGERS] = (CURVE, dict(enumerate(answers.accuracy.tolist(), start=1)))
    if subject.accuracy_snn:
        curves[FLOAT_SNN] = (CURVE, subject.accuracy_snn)
    if subject.checkpoint is not None and subject.checkpoint.recipe.name in PUBLISHED:
        curves["published, float SNN"] = (REFERENCE, PUBLISHED[subject.checkpoint.recipe.name])
    steps = {step for _, values in curves.values() for step in values}
    if subject.accuracy_ann is not None and steps:
        curves[ANN] = (REFERENCE, dict.fromkeys((min(steps), max(steps)), subject.accuracy_ann))
    return curves


def _accuracy_text(subject: Subject, data: Data | None, answers: Answers | None) -> str:
    texts = []
    if data is not None and answers is not None and answers.accuracy is not None:
        n = "all" if len(data.samples) == data.available else f"the first {len(data.samples):,} of {data.available:,}"
        last = answers.accuracy[-1]
        steps = counted(len(answers.accuracy), "step")
        texts.append(f"The integers answer {percent(last)} of {data.name} after {steps}, measured on {n} samples.")
    if subject.checkpoint is not None:
        texts.append("ANN and float SNN: measured on the test images when the training ended.")
        if subject.checkpoint.recipe.name in PUBLISHED:
            texts.append(f"Published: {SOURCE}.")
    return " ".join(texts)


def epochs(subject: Subject) -> Iterator[Element]:
    """Yield loss, accuracies, θ and gap over the epochs."""
    shown = _some(subject.epochs, MOST_EPOCHS)
    if not shown:
        yield LeftOut("Training history", subject.no_run or "the run has not finished an epoch")
        return
    first, last = shown[0], shown[-1]
    n = counted(len(subject.epochs), "epoch")
    yield _figure(
        "loss",
        "Training loss, nats",
        {"loss": {e.epoch: e.loss for e in shown}},
        f"From {first.loss:.3g} to {last.loss:.3g} over {n}.",
    )
    yield _figure("accuracies", "Accuracy over the epochs", _accuracies(shown), f"Last epoch: {last.held_out()}.", True)
    for chart, title, of in (
        ("theta", "Threshold θ by layer", lambda epoch: epoch.theta),
        ("gap", "Gap between ANN and SNN by layer: the σ of the noise", lambda epoch: epoch.gap),
    ):
        by_layer = _by_layer(shown, of)
        if by_layer:
            ends = [(name, list(values.values())[-1]) for name, values in by_layer.items()]
            low, high = min(ends, key=lambda end: end[1]), max(ends, key=lambda end: end[1])
            text = f"In the end {low[1]:.3g} (`{low[0]}`) to {high[1]:.3g} (`{high[0]}`)."
            yield _figure(chart, title, by_layer, text)
        else:
            yield LeftOut(title, "this training did not measure it")


def _figure(
    chart: str, title: str, curves: Mapping[str, Mapping[int, float]], text: str, is_percent: bool = False
) -> Figure:
    columns = _columns({name: (CURVE, values) for name, values in curves.items()})
    table = {"curve": "curve", "at": "epoch", "percent" if is_percent else "value": "value"}
    return Figure(chart, title, table, {WHOLE: Variant(text, columns)})


def _accuracies(shown: Sequence[EpochMetrics]) -> dict[str, dict[int, float]]:
    windows = sorted({steps for epoch in shown for steps in epoch.validation_accuracy_snn}, key=int)
    curves = {
        "training": {e.epoch: e.training_accuracy for e in shown},
        "held out, ANN": {e.epoch: e.validation_accuracy_ann for e in shown},
    }
    for steps in windows:
        values = {e.epoch: e.validation_accuracy_snn[steps] for e in shown if steps in e.validation_accuracy_snn}
        curves[f"held out, SNN T={steps}"] = values
    return curves


def _by_layer(shown: Sequence[EpochMetrics], of: Any) -> dict[str, dict[int, float]]:
    layers = list(dict.fromkeys(name for epoch in shown for name in of(epoch)))
    return {
        name: {epoch.epoch: of(epoch)[name] for epoch in shown if name in of(epoch)}
        for name in _some(layers, MOST_CURVES)
    }


def _some(values: Sequence[Any], most: int) -> list[Any]:
    """Return values in even distances, the first and the last among them; all where they are few."""
    if len(values) <= most:
        return list(values)
    return [values[round(k)] for k in np.linspace(0, len(values) - 1, most)]


def _columns(curves: Curves) -> Columns:
    rows = [(name, kind, at, value) for name, (kind, values) in curves.items() for at, value in sorted(values.items())]
    names, kinds, ats, values = zip(*rows, strict=True)
    return {"curve": names, "kind": kinds, "at": ats, "value": values, "percent": [percent(v) for v in values]}
