"""Draw a training run over its epochs: loss, accuracies, and threshold and gap of every layer.

In: the numbers of the epochs. Out: a .png, .svg or .pdf file. matplotlib is imported here only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from nctool.figures.file import LOOKS, require_figure, save_figure
from nctool.training.metrics import EpochMetrics

Epochs = Sequence[EpochMetrics]
MOST_MARKED = 40
"""Epochs that get a mark each; of more, only the lines are drawn."""
MOST_NAMED = 12
"""Curves of a panel that are all named; of more, only the first and the last are."""


def prepare(path: Path) -> Callable[[Epochs], None]:
    """Return what draws epochs to `path`.

    Raises:
        UsageError: the suffix is unknown, the file cannot be written, or matplotlib is not installed.
    """
    require_figure(path)
    return partial(_draw, path)


def _draw(path: Path, epochs: Epochs) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(LOOKS):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        loss, accuracy, theta, gap = figure.subplots(2, 2, sharex=True).flat
        _curves(loss, "training loss, nats", epochs, {"loss": [epoch.loss for epoch in epochs]})
        _curves(accuracy, "accuracy, %", epochs, accuracies(epochs))
        layers = dict.fromkeys(name for epoch in epochs for name in epoch.theta)
        thetas = {name: [epoch.theta.get(name) for epoch in epochs] for name in layers}
        _curves(theta, "threshold θ", epochs, thetas)
        gaps = {name: [epoch.gap.get(name) for epoch in epochs] for name in layers}
        _curves(gap, "gap to the spiking network: the σ of the noise", epochs, gaps)
        for axes in (theta, gap):
            axes.set_xlabel("epoch")
        accuracy.legend(frameon=False)
        figure.legend(*theta.get_legend_handles_labels(), loc="outside right lower", frameon=False)
        save_figure(figure, path)


def accuracies(epochs: Epochs) -> dict[str, list[float | None]]:
    """Return the curves of accuracy in percent; None where an epoch does not have that window."""
    windows = sorted({steps for epoch in epochs for steps in epoch.validation_accuracy_snn}, key=int)
    curves: dict[str, list[float | None]] = {
        "training": [100 * epoch.training_accuracy for epoch in epochs],
        "held out, ANN": [100 * epoch.validation_accuracy_ann for epoch in epochs],
    }
    for steps in windows:
        values = [epoch.validation_accuracy_snn.get(steps) for epoch in epochs]
        curves[f"held out, SNN T={steps}"] = [None if value is None else 100 * value for value in values]
    return curves


def _curves(axes: Any, label: str, epochs: Epochs, curves: dict[str, Any]) -> None:
    """Draw curves over the epochs; where fine-tuning begins, there is a line."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    across, marker = [epoch.epoch for epoch in epochs], "o" if len(epochs) <= MOST_MARKED else ""
    for number, (name, values) in enumerate(curves.items()):
        colour = colormaps["viridis"](0.9 * number / max(1, len(curves) - 1))
        points = [float("nan") if value is None else value for value in values]
        is_named = len(curves) <= MOST_NAMED or number in (0, len(curves) - 1)
        axes.plot(across, points, label=name if is_named else f"_{name}", color=colour, marker=marker)
    for before, after in pairwise(epochs):
        if before.stage != after.stage:
            axes.axvline(before.epoch + 0.5, color="#999999", linestyle=":")
    axes.set_title(label, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
