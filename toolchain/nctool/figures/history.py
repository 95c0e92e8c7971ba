"""Draw a training run over its epochs: loss, accuracies, and threshold and gap of every layer.

In: the numbers of the epochs. Out: a chart, or a .png, .svg or .pdf file. Altair is imported here only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from nctool.figures.file import require_figure, save_figure
from nctool.training.metrics import EpochMetrics

Epochs = Sequence[EpochMetrics]
Curves = Mapping[str, Mapping[int, float]]
"""By name, what is drawn at an epoch; an epoch that lacks it is left out."""

MOST_MARKED = 40
"""Epochs that get a mark each; of more, only the lines are drawn."""
MOST_NAMED = 12
"""Curves of a panel that are all named; of more, only the first and the last are."""
FEW = 8
"""Epochs that the axis all names: of its own, Vega writes a half between two as the next one."""
WIDTH, HEIGHT = 380, 220


def prepare(path: Path) -> Callable[[Epochs], None]:
    """Return what draws epochs to `path`.

    Raises:
        UsageError: the suffix is unknown, or the file cannot be written.
    """
    require_figure(path)
    return partial(_draw, path)


def _draw(path: Path, epochs: Epochs) -> None:
    save_figure(chart(epochs), path)


def chart(epochs: Epochs) -> Any:
    """Return the Altair chart of epochs."""
    import altair as alt

    layers = list(dict.fromkeys(name for epoch in epochs for name in epoch.theta))
    thetas = {name: {e.epoch: e.theta[name] for e in epochs if name in e.theta} for name in layers}
    gaps = {name: {e.epoch: e.gap[name] for e in epochs if name in e.gap} for name in layers}
    loss = _panel(epochs, "training loss, nats", {"loss": {epoch.epoch: epoch.loss for epoch in epochs}})
    accuracy = _panel(epochs, "accuracy, %", accuracies(epochs))
    theta = _panel(epochs, "threshold θ", thetas)
    gap = _panel(epochs, "gap to the spiking network: the σ of the noise", gaps)
    rows = ((left | right).resolve_scale(color="independent") for left, right in ((loss, accuracy), (theta, gap)))
    return alt.vconcat(*rows).resolve_scale(color="independent")


def accuracies(epochs: Epochs) -> Curves:
    """Return the curves of accuracy in percent; an epoch that does not have a window is not in its curve."""
    windows = sorted({steps for epoch in epochs for steps in epoch.validation_accuracy_snn}, key=int)
    curves = {
        "training": {epoch.epoch: 100 * epoch.training_accuracy for epoch in epochs},
        "held out, ANN": {epoch.epoch: 100 * epoch.validation_accuracy_ann for epoch in epochs},
    }
    for steps in windows:
        measured = [epoch for epoch in epochs if steps in epoch.validation_accuracy_snn]
        curves[f"held out, SNN T={steps}"] = {e.epoch: 100 * e.validation_accuracy_snn[steps] for e in measured}
    return curves


def _panel(epochs: Epochs, title: str, curves: Curves) -> Any:
    """Return curves over the epochs; where fine-tuning begins, there is a line."""
    import altair as alt

    names = list(curves)
    shown = names if len(names) <= MOST_NAMED else [names[0], names[-1]]
    legend = alt.Legend(title=None, values=shown, orient="bottom", columns=4) if len(names) > 1 else None
    rows = [{"curve": name, "epoch": epoch, "value": v} for name, at in curves.items() for epoch, v in at.items()]
    few = [epoch.epoch for epoch in epochs] if len(epochs) <= FEW else alt.Undefined
    whole = alt.Axis(format="d", grid=False, tickMinStep=1, values=few)
    lines = (
        alt.Chart(alt.InlineData(rows))
        .mark_line(point=len(epochs) <= MOST_MARKED)
        .encode(
            alt.X("epoch:Q", axis=whole, scale=alt.Scale(zero=False, nice=False)),
            alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            alt.Color("curve:N", sort=names, legend=legend),
        )
    )
    begins = [{"epoch": before + 0.5} for before in _stages_end(epochs)]
    rules = alt.Chart(alt.InlineData(begins)).mark_rule(style="reference").encode(x="epoch:Q")
    return (lines + rules if begins else lines).properties(title=title, width=WIDTH, height=HEIGHT)


def _stages_end(epochs: Epochs) -> Iterable[int]:
    """Return the last epoch of each stage but the last."""
    return [before.epoch for before, after in pairwise(epochs) if before.stage != after.stage]
