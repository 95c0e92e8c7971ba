"""Exported networks on the whole test split, and the table of what they achieve."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nctool
from _exact import difference
from _progress import Record
from nctool.errors import NctoolError
from nctool.running.model_file import open_model
from nctool_deploy.foreign import ForeignOptions

MOST_COMPARED = 100
"""Test images that are compared with the reference engine, if there is time."""

RUNS = ("trained", "tuned-124", "tuned-1", "tuned-2")
SHOWN = (1, 2, 4, 8)
LONGEST = max(SHOWN)
CHIPS = 1000
"""More than any of these networks takes: how many it takes is told."""


@dataclass(frozen=True)
class Export:
    """An integer network of a run.

    Attributes:
        run: name of the run.
        steps: window that it is exported for; it is read after every shorter one too.
        backend: `graded`, or None for the one that the run is exported for by default.
    """

    run: str
    steps: int
    backend: str | None = None

    @property
    def name(self) -> str:
        """Return what it is called."""
        return f"{self.run}-{self.backend or f'T{self.steps}'}"


EXPORTS = (
    Export("tuned-124", LONGEST),
    Export("trained", LONGEST),
    Export("tuned-1", 1),
    Export("tuned-2", 2),
    Export("trained", 1, "graded"),
    Export("tuned-124", 4),
    Export("tuned-124", 1),
    Export("tuned-124", 2),
    Export("trained", 4),
)
"""The most important ones first."""


def evaluate(runs: Path, networks: Path, data: Path, device: str, record: Record) -> None:
    """Export and run while there is time, then compare the first network with the reference engine."""
    with np.load(data) as file:
        pixels = file["x_test"].transpose(0, 3, 1, 2)
    rows: list[dict[str, Any]] = []
    longest = 0.0
    for export in EXPORTS:
        if export.run not in record.found:
            continue
        if rows and record.budget.left("integers") < 1.5 * longest:
            record.say(f"integers: no time for {export.name}")
            continue
        started = time.perf_counter()
        try:
            rows.append(_row(export, runs, networks, data, device))
        except NctoolError as error:
            rows.append({"run": export.run, "exported_for": export.steps, "reason": str(error)})
        longest = max(longest, time.perf_counter() - started)
        record.note("integers", {"exports": rows})
        record.say(f"integers: {export.name}: {rows[-1].get('accuracy', rows[-1].get('reason'))}")
    exported = sorted(networks.glob("*.net"), key=lambda path: path.stat().st_mtime)
    if not exported:
        raise RuntimeError("no network could be exported")
    record.note("same", _compared(exported[0], pixels, device, record))


def _row(export: Export, runs: Path, networks: Path, data: Path, device: str) -> dict[str, Any]:
    """Export a run for Loihi 2, and run it on the whole test split."""
    path = networks / f"{export.name}.net"
    exported = nctool.export(
        runs / export.run, path, target="loihi", steps=export.steps, backend=export.backend, chips=CHIPS, progress=False
    )
    report = nctool.run_sim(path, dataset=data, device=device, progress=False)
    return {
        "run": export.run,
        "exported_for": export.steps,
        "backend": exported.backend,
        "neurons": exported.neurons,
        "cores": exported.cores,
        "chips": exported.chips,
        "images": report.samples,
        "overflows": report.overflows,
        "accuracy": {step: report.accuracy[step] for step in map(str, SHOWN) if step in report.accuracy},
        "images_per_second": report.images_per_second,
        "kernels": sorted(set(report.kernels.values())),
    }


def _compared(path: Path, pixels: np.ndarray, device: str, record: Record) -> dict[str, Any]:
    """Compare both engines, a few images at a time, while there is time."""
    network, found, n_images, longest, steps = open_model(path, ForeignOptions()).network, None, 0, 0.0, 2
    at_once = len(os.sched_getaffinity(0))
    while found is None and n_images < MOST_COMPARED and (n_images == 0 or record.budget.left("integers") > longest):
        started = time.perf_counter()
        some = pixels[n_images : n_images + at_once]
        found = difference(network, some, steps, device)
        n_images += len(some)
        longest = max(longest, time.perf_counter() - started)
    text = "equal" if found is None else str(found)
    record.say(f"integers: {path.name}, T={steps}, {n_images} test images, reference and fast: {text}")
    return {"network": path.name, "images": n_images, "steps": steps, "equal": found is None, "difference": text}


# --- the table --------------------------------------------------------------------------------------------------------

HEAD = f"| network | ANN | {' | '.join(f'T={step}' for step in SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}"


def table(found: Mapping[str, Any]) -> str:
    """Return a Markdown table of the test accuracies in per cent, with what is to be said of them."""
    machine = found.get("machine", {})
    trained = {run: found[run] for run in RUNS if run in found}
    lines = [
        f"{'**A rehearsal, on a part of the images.** ' if machine.get('rehearsal') else ''}"
        f"CIFAR-10 (JPEG copy), test accuracy in per cent, one seed; {machine.get('gpu') or 'CPU'}, "
        f"torch {machine.get('torch')}, commit {machine.get('commit')}.",
        "",
        HEAD,
        *_rows(found),
        "",
        *(f"* {name}: {_told(run)}" for name, run in trained.items()),
    ]
    if "same" in found:
        same = found["same"]
        lines.append(
            f"* reference and fast on {same['network']}, T={same['steps']}, {same['images']} test images: "
            f"{'equal, bit for bit' if same['equal'] else same['difference']}"
        )
    return "\n".join([*lines, *_speed(found.get("speed"))]) + "\n"


def _speed(speed: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the lines of two tables: training steps, and the fast engine."""
    if not speed:
        return
    yield from ("", "| training step | with noise, ms | ReLU, ms | with noise / ReLU |", "|---|---|---|---|")
    for name, times in speed["step"].items():
        yield f"| {name} | {times['noisy_ms']:.2f} | {times['relu_ms']:.2f} | {times['time_ratio']:.2f} |"
    rates = speed["fast_images_per_second"]
    if rates:
        yield from ("", f"| `fast`, small VGG, T={speed['window']}, images at a time | images/s |", "|---|---|")
        yield from (f"| {batch} | {rate:,.0f} |" for batch, rate in rates.items())


def _told(run: Mapping[str, Any]) -> str:
    epochs = f"{run['recipe']}, seed {run['seed']}, {run['epochs']} epochs of {run['seconds_per_epoch']:.2f} s"
    chosen = "its start was kept" if run["kept_start"] else f"that of epoch {run['best_epoch']} was kept"
    return f"{epochs}; {chosen}; checkpoint SHA-256 {run['checkpoint_sha256']}"


def _rows(found: Mapping[str, Any]) -> Iterator[str]:
    for run in RUNS:
        if run in found:
            yield _line(f"{run}, float", found[run]["snn_float"], found[run]["ann"])
        for row in found.get("integers", {}).get("exports", ()):
            if row["run"] == run and "accuracy" in row:
                size = f"{row['cores']} cores, {row['chips']} chips"
                of = f"{row['backend']}, exported for T={row['exported_for']}, {size}"
                yield _line(f"{run}, integers, {of}", row["accuracy"])


def _line(name: str, accuracy: Mapping[str, float], ann: float | None = None) -> str:
    cells = [ann, *(accuracy.get(str(step)) for step in SHOWN)]
    return f"| {name} | {' | '.join('' if value is None else f'{100 * value:.2f}' for value in cells)} |"
