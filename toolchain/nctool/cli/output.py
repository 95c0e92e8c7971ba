"""Print reports: one JSON object, or tables for people.

In: a report. Out: text on stdout. Must not import torch or Lava.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nctool.cli.tables import counted, print_line, print_rows, print_whole

if TYPE_CHECKING:
    from nctool.api import BranchReport, ExportReport, InspectReport, RunReport, TrainReport
    from nctool.exporting.utilisation import Utilisation
    from nctool_deploy.backends.number_formats import NumberFormat
    from nctool_deploy.targets.target import Limit, Target

SHOWN_ANSWERS = 20
"""Answers to samples of your own that are shown."""


def print_json(content: Mapping[str, Any]) -> None:
    """Write one JSON object as one line on stdout."""
    sys.stdout.write(json.dumps(content) + "\n")


def print_error(message: str, hint: str | None) -> None:
    """Write an error, and the way out, on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False)
    if hint is not None:
        console.print("hint:", style="bold", end=" ")
        console.print(hint, markup=False)


def print_train(report: TrainReport) -> None:
    """Show accuracies by time steps and where the checkpoint lies."""
    steps = list(report.accuracy_snn)
    row = ["float", _percent(report.accuracy_ann), *(_percent(report.accuracy_snn[step]) for step in steps)]
    title = f"{report.recipe}, seed {report.seed}: test accuracy"
    print_rows(title, ["", "ANN", *(f"T={step}" for step in steps)], [row])
    print_line(
        f"epoch {report.best_epoch} chosen on held-out training data, {report.seconds_per_epoch:.2f} s per epoch"
    )
    if report.ideal_epochs:
        print_line(f"noise of {report.ideal_epochs} epochs is that of the float network: no integers fitted")
    path, model = quote(str(report.path)), quote(str(report.path / "model.net"))
    print_whole(f"next: nctool export {path} --target loihi -o {model}")


def print_export(report: ExportReport) -> None:
    """Show what the conversion changed and how big the network is."""
    title = f"conversion for {report.target}, {report.realisation}, {report.input} input, T={report.steps}"
    print_changes(title, [asdict(change) for change in report.changes])
    sizes = ((report.layers, "layer"), (report.neurons, "neuron"), (report.synapses, "synapse"))
    print_line(", ".join(counted(*size) for size in sizes))
    if report.cores:
        print_line(_cores(report.cores, report.chips, report.utilisation))
    print_line(_head_room(report))
    for note in report.notes:
        print_line(f"note: {note}")
    print_whole(f"wrote {report.path}")
    data = "" if report.data_dir is None else f" --data-dir {quote(report.data_dir)}"
    print_whole(f"next: nctool run-sim {quote(str(report.path))}{data}")


def _head_room(report: ExportReport) -> str:
    """Return a line about the layer whose sums come nearest to the accumulator's limit, and which sums are proved."""
    calibrated = [name for name, kind in report.bounds.items() if kind == "calibrated"]
    proof = f"measured on training images for {', '.join(calibrated)}" if calibrated else "proved for every input"
    return f"least head-room {report.head_room_bits:.2f} bits, in {report.tightest_layer}; bounds: {proof}"


def print_changes(title: str, changes: Sequence[Mapping[str, Any]]) -> None:
    """Show what each step of a conversion did; `largest` is the worst error of a number, `output` that of a layer."""
    rows = []
    for change in changes:
        largest = "exact" if change["exact"] else _error(change["worst_error"])
        rows.append([change["step"], change["detail"], largest, _error(change["output_error"])])
    print_rows(title, ["step", "what", "largest", "output"], rows)
    print_line("largest: of the errors of single numbers")
    print_line("output: root mean square error of the layer's input sum; in rows `compare …`, of its spikes")


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2%}"


def print_run(report: RunReport) -> None:
    """Show accuracy by time step, speed and spikes."""
    sizes = f"{counted(report.samples, 'sample')} of {counted(report.steps, 'time step')}"
    title = f"{report.dataset}, {sizes}, engine {report.engine}"
    rows = [[step, _percent(accuracy)] for step, accuracy in report.accuracy.items()]
    print_rows(title, ["time steps", "accuracy"], rows) if rows else print_line(title)
    if report.answers:
        more = f", … ({len(report.answers):,} in --json)" if len(report.answers) > SHOWN_ANSWERS else ""
        print_line(f"answers, a class for each sample: {', '.join(_answers(report)[:SHOWN_ANSWERS])}{more}")
    spikes = ", ".join(f"{_named(name)} {count:,.1f}" for name, count in report.spikes_per_layer.items())
    print_line(f"{report.images_per_second:,.1f} images/s; spikes per image: {spikes or 'no spiking layer'}")
    for note in report.notes:
        print_line(f"NOTE: {note}")
    if report.overflows:
        print_line(f"WARNING: {report.overflows} sums left their register: see rules O1 and O2 in docs/SEMANTICS.md")


def _answers(report: RunReport) -> list[str]:
    """Return the class of each sample, by number, and by name where that says more."""
    numbers = [str(answer) for answer in report.answers]
    names = report.answer_names or numbers
    return [number if name == number else f"{number} {name}" for number, name in zip(numbers, names, strict=True)]


def _named(layer: str) -> str:
    """Return the name of a layer; one of an unnamed `nn.Sequential` is a number."""
    return f"layer {layer}:" if layer.isdecimal() else layer


def print_inspect(report: InspectReport) -> None:
    """Show the layers of a file and where it came from."""
    columns = ["layer", "kind", "shape", "neurons", "synapses", "weights", "thresholds", "head-room", "bound", "cores"]
    shape = "x".join(map(str, report.input_shape))
    rows = [["input", report.input_coding or "integers", shape, "", "", _span(report.input_range), "", "", "", ""]]
    for layer in report.layers:
        room = "" if layer.head_room_bits is None else f"{layer.head_room_bits:.2f} bits"
        rows.append(
            [
                layer.name,
                layer.kind,
                "x".join(map(str, layer.shape)),
                f"{layer.neurons:,}",
                f"{layer.synapses:,}",
                _span(layer.weight_range),
                _span(layer.threshold_range),
                room,
                layer.bound or "",
                str(layer.cores or ""),
            ]
        )
        rows += [_branch_row(branch) for branch in layer.branches if len(layer.branches) > 1]
    print_rows(str(report.path), columns, rows)
    if report.changes:
        print_changes("conversion", report.changes)
    for note in report.notes:
        print_line(f"NOTE: {note}")
    if report.target is None:
        print_line(f"netx file of another tool, T={report.steps}; CUBA decays are current/voltage, in parts of 4096")
        return
    if report.cores and report.chips and report.utilisation:
        if sum(layer.cores or 0 for layer in report.layers) > report.cores:
            print_line("cores: of a layer, those that hold some of it; small layers share one")
        print_line(_cores(report.cores, report.chips, report.utilisation))
    print_line(
        f"target {report.target}, realisation {report.realisation}, T={report.steps}, "
        f"{report.weight_bits}-bit weights, {report.known_answers} known answers, nctool {report.tool_version}"
    )
    for key, value in (report.provenance or {}).items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print_line(f"{key}: {shown}")


def print_targets(targets: Sequence[Target], numbers: Sequence[NumberFormat]) -> None:
    """Show what each target can hold, and the ranges of numbers that hold for all of them."""
    limits = [dict(target.limits) for target in targets]
    rows = [[name.replace("_", " "), *(_limit(each[name]) for each in limits)] for name in limits[0]]
    features = [dict(target.features) for target in targets]
    rows += [[name.replace("_", " "), *("yes" if f[name].value else "no" for f in features)] for name in features[0]]
    figures = [_figures(target) for target in targets]
    rows += [[name, *(each.get(name, "not known") for each in figures)] for name in max(figures, key=len)]
    print_rows("targets", ["", *(target.name for target in targets)], rows)
    for target in targets:
        print_line(f"{target.name}: {target.description}")
    print_line("")
    print_rows("numbers, for every target", ["", "range"], [[n.name, _span((n.low, n.high))] for n in numbers])
    print_line("the sources are in `nctool targets --json`")


def _branch_row(branch: BranchReport) -> list[str]:
    """Return what `print_inspect` shows of a branch."""
    kind = f"{branch.kind}, delay {branch.delay}" if branch.delay else branch.kind
    times = f" x {2**branch.exponent}" if branch.exponent else ""
    weights = _span(branch.weight_range) + times
    return [f"+ {branch.source}", kind, "", "", f"{branch.synapses:,}", weights, "", "", "", ""]


def _cores(cores: int, chips: int, utilisation: Utilisation) -> str:
    """Return a line about how many cores are used, and how full the fullest is of each resource."""
    full = ", ".join(f"{name.replace('_', ' ')} {part:.0%}" for name, part in utilisation.fullest.items())
    return f"{counted(cores, 'core')} on {counted(chips, 'chip')}; the most that a core uses: {full}"


def _limit(limit: Limit | None) -> str:
    return "no limit" if limit is None else f"{limit.value:,}"


def _figures(target: Target) -> dict[str, str]:
    """Return the energies and the times that a target states, with their units."""
    energy, step = target.energy, target.step_time
    found = {} if energy is None else {name: each.pj for name, each in energy if name != "basis"}
    shown = {f"energy: {name.replace('_', ' ')}": f"{pj:g} pJ" for name, pj in found.items()}
    return shown if step is None else {**shown, "time of a step, at least": f"{step.low_ns:g}..{step.high_ns:g} ns"}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _span(interval: tuple[int, int] | None) -> str:
    return "" if interval is None else f"{interval[0]}..{interval[1]}"
