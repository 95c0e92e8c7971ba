"""Draw what scaling.py measured: images per second of both engines against each quantity, on logarithmic axes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams.update({"font.size": 11, "svg.hashsalt": "nctool"})  # a salt of its own: the same bytes each time

from matplotlib import pyplot as plt  # noqa: E402  # after the choice of the drawing engine
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402

LABELS = {
    "steps": "time steps T",
    "images": "images in one call",
    "channels": "channels of each convolution",
    "convolutions": "convolutions",
}
COLOURS = {"fast": "#0b6e99", "reference": "#b3541e"}
SLOPE = {"steps": -1, "images": 0, "channels": -2, "convolutions": -1}
"""Slopes of the dotted lines: multiplications an image are proportional to T, depth and the square of the width."""


def draw(scaling: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Write the figure; the suffix of `path` chooses the format."""
    figure, axes = plt.subplots(1, len(scaling), figsize=(13, 3.9), sharey=True, layout="constrained")
    for panel, (name, points) in zip(axes, scaling.items(), strict=True):
        _panel(panel, name, points)
    axes[0].set_ylabel("images per second")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    plt.close(figure)


def _panel(axes: Axes, name: str, points: list[dict[str, float]]) -> None:
    values = [point[name] for point in points]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for engine, colour in COLOURS.items():
        speeds = [point[f"{engine}_images_per_second"] for point in points]
        axes.plot(values, speeds, "o-", color=colour, markersize=4.5, linewidth=1.8)
        middle = (values[len(values) // 2], speeds[len(values) // 2])
        axes.annotate(engine, middle, (4, 8), textcoords="offset points", color=colour, fontweight="bold")
        guide = [0.5 * speeds[-1] * (value / values[-1]) ** SLOPE[name] for value in values]
        axes.plot(values, guide, ":", color="#777777", linewidth=1.1, zorder=0)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xlabel(LABELS[name])
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
