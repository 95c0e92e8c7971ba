"""Print what `verify` found: the verdict, the first divergence with what drove the neuron, and how much differs.

In: a VerifyReport. Out: text on stdout. Must not import torch or Lava.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nctool.cli.tables import counted, print_line, print_rows
from nctool.verification.counts import Histogram, LogitCounts, PairCounts, SpikeCounts

if TYPE_CHECKING:
    from nctool.api import VerifyReport
    from nctool.verification.divergence import Divergence
    from nctool.verification.explain import Neighbourhood, Side

NOT_KEPT = "not kept"


def print_verify(report: VerifyReport) -> None:
    """Show the verdict, what was compared, and what differs."""
    print_line(_verdict(report))
    print_line(
        f"{counted(report.samples, 'sample')}, {report.compared_spikes:,} spike values and "
        f"{report.compared_logits:,} logits compared; {counted(report.known_answers, 'known answer')}"
    )
    for check in report.checks:
        if check.outcome == "failed" and check.group in ("file", "overflow"):
            print_line(check.text)
    not_run = dict.fromkeys(f"{check.group}: {check.text}" for check in report.checks if check.outcome == "not run")
    for line in not_run:
        print_line(f"not run: {line}")
    if report.first_divergence is not None and report.first_divergence.sample is not None:
        _print_divergence(report.first_divergence)
    for pair in report.statistics:
        if not pair.equal:
            _print_differences(pair)


def _verdict(report: VerifyReport) -> str:
    if report.equal:
        file = ["file"] if report.known_answers else []
        return f"EQUAL, bit for bit: {' = '.join([*file, *report.engines])}"
    pairs = [f"{pair.expected_by} ≠ {pair.actual_by}" for pair in report.statistics if not pair.equal]
    other = "overflow" if report.first_divergence is None else "the file is not what was exported"
    return f"DIFFERENT: {', '.join(pairs) or other}"


def _print_divergence(divergence: Divergence) -> None:
    print_line(f"first divergence: {divergence}")
    found = divergence.neighbourhood
    if found is None:
        return
    parameters = "".join(f", {name} {value}" for name, value in found.parameters.items())
    print_line(f"the neuron: {found.kind}{parameters}, bias {found.bias}")
    _print_steps(found, divergence.quantity)
    print_line(_by_rules(found))
    _print_inputs(found, divergence.step)


def _print_steps(found: Neighbourhood, quantity: str) -> None:
    """Show the window up to the divergence; the potential by the rules only where no side keeps its own."""
    sides = [found.expected, found.actual]
    if found.rules is not None and all(side.potentials is None for side in sides):
        sides.append(found.rules)
    columns = ["step", "drive", *(column for side in sides for column in _columns(side, quantity))]
    rows = [
        [str(number + 1), str(drive), *(cell for side in sides for cell in _cells(side, number, quantity))]
        for number, drive in enumerate(found.drive)
    ]
    print_rows("its window, potentials before fire:", columns, rows)


def _columns(side: Side, quantity: str) -> list[str]:
    return [quantity + f" {side.name}"] if quantity == "logit" else [f"potential {side.name}", f"spike {side.name}"]


def _cells(side: Side, number: int, quantity: str) -> list[str]:
    value = str(side.values[number])
    if quantity == "logit":
        return [value]
    return [NOT_KEPT if side.potentials is None else str(side.potentials[number]), value]


def _by_rules(found: Neighbourhood) -> str:
    """Say what the rules make of the inputs, and who agrees."""
    if found.rules is None:
        return f"what the rules make of a neuron `{found.kind}` is not known here"
    value = found.rules.values[-1]
    right = [f"`{side.name}`" for side in (found.expected, found.actual) if side.values[-1] == value]
    return f"by the rules it is {value}, as in {right[0]}" if right else f"by the rules it is {value}, as in neither"


def _print_inputs(found: Neighbourhood, step: int | None) -> None:
    n_inputs = len(found.inputs) + found.more_inputs
    agree = "both sides agree on all of them" if found.inputs_agree else "the sides do not agree on all of them"
    if not n_inputs:
        print_line(f"no input was active at step {step}; {agree}")
        return
    columns = ["source", "neuron", "value", "weight", "adds to the drive", "both sides agree"]
    rows = []
    for each in found.inputs:
        numbers = [str(each.neuron), str(each.value), str(each.weight), f"{each.contribution:+}"]
        rows.append([each.source, *numbers, "yes" if each.agreed else "NO"])
    if found.more_inputs:
        rows.append([f"{found.more_inputs} more", "", "", "", f"{found.more_contribution:+}", ""])
    print_rows(f"{n_inputs} inputs were active at step {step}, largest first; {agree}:", columns, rows, n_keys=2)


def _print_differences(pair: PairCounts) -> None:
    columns = ["layer", "differing", "compared", "samples", "first step", "how far apart"]
    rows = []
    for layer in pair.layers:
        first = "" if layer.first_step is None else str(layer.first_step)
        numbers = [f"{layer.differing:,}", f"{layer.compared:,}", f"{layer.samples:,}", first]
        rows.append([layer.title, *numbers, _apart(layer) if layer.differing else ""])
    print_rows(f"`{pair.expected_by}` ≠ `{pair.actual_by}` on {pair.samples} samples:", columns, rows)


def _apart(layer: SpikeCounts | LogitCounts) -> str:
    if isinstance(layer, LogitCounts):
        bins = {low if low == "1" else f"{low}..{2 * int(low) - 1}": n for low, n in layer.magnitudes.items()}
        return f"by {_bins(bins)}; {layer.changed_predictions} predictions change"
    return f"spike counts off by {_bins(layer.count_differences)}"


def _bins(histogram: Histogram) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in histogram.items() if count)
