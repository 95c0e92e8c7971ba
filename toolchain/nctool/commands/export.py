"""export: a checkpoint becomes a verified netx file.

In: a checkpoint and options. Out: the file and an ExportReport.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import (
    ActivationBits,
    Checkpoint,
    Chips,
    InputOption,
    Module,
    Progress,
    Replicas,
    Target,
    backend_names,
    parse_replicas,
    require_chips,
)
from nctool.commands.tables import counted, print_changes, print_cores, print_line, print_whole
from nctool.errors import UsageError
from nctool.ir.number_format import LONGEST_WINDOW
from nctool.reports import Report
from nctool.signature import Hint, Option
from nctool.spelling import spoken

if TYPE_CHECKING:
    from nctool import training
    from nctool.conversion import Change
    from nctool.conversion.fidelity import Fidelity
    from nctool.exporting.convert import Exported
    from nctool.exporting.utilisation import Utilisation
    from nctool_deploy.netx import Provenance

AUTO = "auto"


@dataclass(frozen=True)
class ExportReport(Report):
    """What was exported.

    Args:
        path: the file.
        target, backend, steps, input: as chosen.
        replicas: neurons that share an activation, by layer.
        per_layer: True when a layer has one threshold, not one for each channel.
        layers: number of populations, the readout included.
        neurons, synapses: totals; a shared kernel counts each of its uses.
        cores, chips: how many the mapping uses; 0 where the target does not limit a core.
        utilisation: how full each core is.
        head_room_bits: how often the bound of the tightest layer could double.
        tightest_layer: the population with the least head-room.
        bounds: `proved` or `calibrated` per population.
        data_dir: the folder of data sets that the training was given; None where it was given none.
        fidelity: how far spikes and answers are those of the float network, on calibration images.
        notes: what is likely to cost accuracy, and what to do about it.
        changes: what the conversion did, step by step, and what the comparison with the float network found.
    """

    path: Path
    target: str
    backend: str
    steps: int
    input: str
    replicas: dict[str, int]
    per_layer: bool
    layers: int
    neurons: int
    synapses: int
    cores: int
    chips: int
    utilisation: Utilisation
    head_room_bits: float
    tightest_layer: str
    bounds: dict[str, str]
    data_dir: str | None
    fidelity: Fidelity
    notes: tuple[str, ...]
    changes: tuple[Change, ...]


@public
def export(
    checkpoint: Checkpoint,
    output: Annotated[
        Path | str,
        Option("File to write.", flags=("-o", "--output"), metavar="MODEL.net"),
        Hint("give the network as model=net"),
    ],
    *,
    target: Target = "loihi",
    steps: Annotated[
        int | None, Option(f"Time steps T of the window, 1..{LONGEST_WINDOW}.", default="that of the training")
    ] = None,
    backend: Annotated[
        str | None,
        Option(
            "autapse, graded, or in stock netx population or zero-reset.",
            default="as trained",
            aliases=("realisation",),
            names=backend_names,
        ),
    ] = None,
    replicas: Annotated[
        Replicas | None,
        Option(
            "Neurons an activation: K, LAYER=K,... or auto.",
            default="as trained; population: its levels",
            parse=parse_replicas,
            aliases=("units",),
        ),
    ] = None,
    weight_bits: Annotated[int | None, Option("2..8.", default="as trained, else 8")] = None,
    activation_bits: ActivationBits = None,
    per_layer: Annotated[bool, Option("One threshold a layer, not one a channel.")] = False,
    input: InputOption = None,  # noqa: A002  # the option's name is a contract
    chips: Chips = 1,
    max_neurons: Annotated[int | None, Option("Budget of --replicas auto.")] = None,
    max_cores: Annotated[int | None, Option("Budget of --replicas auto.")] = None,
    model: Module | None = None,
    progress: Progress = True,
) -> ExportReport:
    """Convert a trained network to integers and write it as netx HDF5.

    Every limit of the target is checked.

    Args:
        checkpoint: folder of a training run, or its checkpoint.safetensors.
        output: the file to write; replaced only when everything went well.
        target: `loihi` (Loihi 2), `loihi1`, `lava` (simulator only), or the path of a target file (docs/TARGETS.md).
        steps: window in time steps; by default 1 for `population`, else the longest of the recipe's `[finetune]`, else
            the recipe's `noise.steps`.
        backend: how neurons are built: `autapse` (reset by subtraction), `graded` (spikes carry numbers, one step), or
            in stock netx `population` (the quantised ANN in one step) or `zero-reset`; by default that of the recipe's
            `[chip]`, else `autapse` or `zero-reset`, whichever has the reset of the training.
        replicas: copies of a neuron that share an activation, for all layers or by name; by default those of the
            recipe's `[chip]` where it has this backend, else for `population` the levels of the trained activation,
            else 1. `auto` measures which layers need them most, within a budget.
        weight_bits: 2..8; by default those of the recipe's `[finetune]`, else of its `[chip]`, else 8.
        activation_bits: of `graded`, the bits that most of the numbers fit, 2..16; by default 8.
        per_layer: one threshold, and so one scale of the weights, for each layer instead of one for each channel.
        input: `graded` (signed 8-bit integers) or `rate` (spike trains of one bit); by default that of the recipe.
        chips: how many chips the network may take.
        max_neurons, max_cores: what `replicas="auto"` may use; at least one of them is needed.
        model: the network of the checkpoint, where it is your own; it gets the trained weights.
        progress: called with what `auto` has spent of its budget, then with the populations done and to do; True is a
            bar, False nothing.

    Returns:
        sizes, bounds, fidelity and changes of the network in the file.

    Raises:
        UsageError: a path or an option is wrong.
        FormatError: the checkpoint is bad.
        UnsupportedError: the network holds something that cannot be converted.
        RangeError: a number does not fit the target.
    """
    from nctool.ir.inputs import find_encoding
    from nctool.running.checkpoints import open_checkpoint, require_checkpoint
    from nctool.running.outputs import NETX, require_outputs, run_files
    from nctool_deploy.backends.backend import find_backend
    from nctool_deploy.targets.target import find_target

    output, chip = Path(output), find_target(target)
    encoding = None if input is None else find_encoding(input)
    require_chips(chips)
    if replicas != AUTO and not (max_neurons is None and max_cores is None):
        raise UsageError("--max-neurons and --max-cores: allowed with --replicas auto only")
    require_checkpoint(checkpoint)
    own_target = target if str(target).endswith(".toml") else None
    require_outputs({**run_files(checkpoint), "the target": own_target}, {"-o": (NETX, output)})

    from nctool.exporting.convert import default_backend, design, exported, of_checkpoint
    from nctool.exporting.replica_search import Budget, search_replicas
    from nctool.exporting.writing import write_network
    from nctool_models import restore_model

    loaded = open_checkpoint(checkpoint)
    network = restore_model(loaded, model)
    budget = Budget(max_neurons, max_cores) if replicas == AUTO else None
    built_by = find_backend(backend or default_backend(loaded))
    first = 1 if isinstance(replicas, str) else replicas
    chosen = design(loaded, built_by, steps, first, weight_bits, encoding, per_layer, activation_bits)
    if budget is not None:
        chosen = replace(chosen, replicas=search_replicas(loaded, network, chosen, chip, budget, progress).replicas)
    source = of_checkpoint(loaded, network, built_by)
    result = exported(source, chosen, chip, chips, progress)
    layers = len(result.lowered.network.populations)
    progress(layers, layers, "running known inputs, and writing")
    write_network(output, result, source.pixels, _provenance(loaded), chosen.weight_bits)
    return ExportReport(path=output, data_dir=loaded.data_dir, **sizes(result))


def _provenance(loaded: training.Checkpoint) -> Provenance:
    """Return where the network of a checkpoint came from."""
    from nctool_deploy.netx import Provenance

    return Provenance(
        recipe=loaded.recipe.name,
        seed=loaded.recipe.seed,
        dataset=loaded.dataset_name,
        checkpoint_sha256=loaded.sha256,
        input_mean=loaded.mean,
        input_std=loaded.std,
        classes=loaded.classes,
    )


def sizes(result: Exported) -> dict[str, Any]:
    """Return what a report of an exported network says of it, by field."""
    from nctool.exporting.utilisation import tightest, utilisation

    conversion, lowered = result.conversion, result.lowered
    network = lowered.network
    head_room_bits, tightest_layer = tightest(network)
    return {
        "target": lowered.target.name,
        "backend": lowered.backend,
        "steps": network.n_steps,
        "input": network.pixel_input.encoding,
        "replicas": conversion.replicas,
        "per_layer": conversion.number_format.one_threshold,
        "layers": len(network.populations),
        "neurons": sum(population.n_neurons for population in network.populations),
        "synapses": sum(network.synapse_count(population) for population in network.populations),
        "cores": lowered.cores,
        "chips": lowered.mapping.chips,
        "utilisation": utilisation(lowered.mapping),
        "head_room_bits": head_room_bits,
        "tightest_layer": tightest_layer,
        "bounds": {p.name: p.bound.kind for p in network.populations if p.bound is not None},
        "fidelity": result.fidelity,
        "notes": tuple(map(spoken, conversion.notes)),
        "changes": conversion.changes,
    }


# --- for people -------------------------------------------------------------------------------------------------------


def print_export(report: ExportReport) -> None:
    """Show what the conversion changed and how big the network is."""
    print_network(report)
    print_whole(f"wrote {report.path}")
    data = "" if report.data_dir is None else f" --data-dir {quote(report.data_dir)}"
    print_whole(f"next: nctool run-sim {quote(str(report.path))}{data}")


def print_network(report: ExportReport) -> None:
    """Show what the conversion changed and how big the network is."""
    title = f"conversion for {report.target}, {report.backend}, {report.input} input, T={report.steps}"
    print_changes(title, [asdict(change) for change in report.changes])
    sizes = ((report.layers, "layer"), (report.neurons, "neuron"), (report.synapses, "synapse"))
    print_line(", ".join(counted(*size) for size in sizes))
    if report.cores:
        print_cores(report.cores, report.chips, report.utilisation)
    print_line(_head_room(report))
    for note in report.notes:
        print_line(f"note: {note}")


def _head_room(report: ExportReport) -> str:
    """Return a line about the layer whose sums come nearest to the accumulator's limit, and which sums are proved."""
    calibrated = [name for name, kind in report.bounds.items() if kind == "calibrated"]
    proof = f"measured on calibration images for {', '.join(calibrated)}" if calibrated else "proved for every input"
    return f"least head-room {report.head_room_bits:.2f} bits, in {report.tightest_layer}; bounds: {proof}"


COMMAND = Command(export, print_export, title="exporting")
