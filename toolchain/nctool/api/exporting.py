"""export: a checkpoint becomes a verified netx file.

In: a checkpoint and options. Out: the file and an ExportReport.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from nctool.arguments import public
from nctool.conversion import Change, Conversion, Units
from nctool.conversion.fidelity import Fidelity, measure_fidelity
from nctool.errors import UsageError
from nctool.exporting.convert import ann_logits, converted, default_realisation, design, notes_of
from nctool.exporting.unit_search import Budget, search_units
from nctool.exporting.utilisation import Utilisation, utilisation
from nctool.fast.engine import FastEngine
from nctool.ir.inputs import find_coding
from nctool.ir.network import IntNetwork
from nctool.progress import ProgressCallback, no_progress
from nctool.reference.trace import join
from nctool.running.checkpoints import OutputPath, RunPath, open_checkpoint
from nctool.running.outputs import NETX, require_outputs, run_files
from nctool.spelling import spoken
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool_deploy.backends.backend import find_realisation
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.netx import KnownAnswers, Provenance, write
from nctool_deploy.targets.target import find_target
from nctool_models import restore_model

N_KNOWN_ANSWERS = 16
KNOWN_SPIKES = 2**27
"""Spike values that known answers may hold together, 16 MiB in the file; over a long window there are fewer of them."""
AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Args:
        path: the file.
        target, realisation, steps, input: as chosen.
        units: neurons that share an activation, by layer.
        per_layer: True when a layer has one threshold, not one for each channel.
        layers: number of populations, the readout included.
        neurons, synapses: totals; a shared kernel counts each of its uses.
        cores, chips: that the mapping uses; 0 where the target does not limit a core.
        utilisation: of every core.
        head_room_bits: of the population with the least: how often its bound could double.
        tightest_layer: that population.
        bounds: `proved` or `calibrated` per population.
        data_dir: the folder of data sets that the network's is in, where one was named in training.
        fidelity: how far spikes and answers are those of the float network, on calibration images.
        notes: what is likely to cost accuracy, and what to do about it.
        changes: what the conversion did, step by step, and what the comparison with the float network found.
    """

    path: Path
    target: str
    realisation: str
    steps: int
    input: str
    units: dict[str, int]
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

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self) | {"path": str(self.path)}


@public
def export(
    checkpoint: RunPath,
    output: OutputPath,
    *,
    target: Path | str = "loihi",
    steps: int | None = None,
    realisation: str | None = None,
    units: Units | Literal["auto"] | None = None,
    weight_bits: int | None = None,
    per_layer: bool = False,
    input: str | None = None,  # noqa: A002  # the option's name is a contract
    chips: int = 1,
    max_neurons: int | None = None,
    max_cores: int | None = None,
    model: nn.Module | None = None,
    progress: ProgressCallback = no_progress,
) -> ExportReport:
    """Convert a checkpoint to integers, check every limit of the target and write netx HDF5.

    Args:
        checkpoint: folder of a training run, or its checkpoint.safetensors.
        output: the file to write; replaced only when everything went well.
        target: `loihi` (Loihi 2), `loihi1`, `lava` (simulator only), or the path of a target file (docs/TARGETS.md).
        steps: window in time steps; by default 1 for `population`, else the recipe's.
        realisation: `autapse` (reset by subtraction), or in stock netx `population` (the quantised ANN in one step) or
            `zero-reset`; by default that of the recipe's `[chip]`, or else of the reset that it trained for, `autapse`
            or `zero-reset`.
        units: neurons that share an activation, for all layers or by name; by default those of the recipe's `[chip]`
            for its realisation, or else the levels that the activation was trained with for `population`, else 1.
            `auto` measures which layers need them most, within a budget.
        weight_bits: 2..8; by default those of the recipe's `[chip]`, or else 8.
        per_layer: one threshold, and so one scale of the weights, for each layer instead of one for each channel.
        input: `graded` (signed 8-bit integers) or `rate` (spike trains of one bit); the recipe's coding by default.
        chips: how many chips the network may take.
        max_neurons, max_cores: budget of units `auto`.
        model: the network of the checkpoint, where it is your own; it gets the trained weights.
        progress: called with what `auto` has spent of its budget, then with the populations done and to do.

    Raises:
        UsageError: a path or an option is wrong.
        FormatError: the checkpoint is bad.
        UnsupportedError: the network holds something that cannot be converted.
        RangeError: a number does not fit the target.
    """
    output, chip = Path(output), find_target(target)
    coding = None if input is None else find_coding(input)
    if chips < 1:
        raise UsageError(f"chips: {chips} is out of range, allowed >= 1", hint="give 1 or more chips with --chips")
    if units != AUTO and not (max_neurons is None and max_cores is None):
        raise UsageError("--max-neurons and --max-cores: allowed with --units auto only")
    loaded = open_checkpoint(checkpoint)
    own_target = target if str(target).endswith(".toml") else None
    require_outputs({**run_files(checkpoint), "the target": own_target}, {"-o": (NETX, output)})
    model = restore_model(loaded, model)
    budget = Budget(max_neurons, max_cores) if units == AUTO else None
    built = find_realisation(realisation or default_realisation(loaded))
    chosen = design(loaded, built, steps, 1 if units == AUTO else units, weight_bits, coding, per_layer)
    if budget is not None:
        chosen = replace(chosen, units=search_units(loaded, model, chosen, chip, budget, progress).units)
    conversion = converted(loaded, model, chosen, progress)
    layers = len(conversion.network.populations)
    progress(layers, layers, "placing neurons on cores")
    lowered = lower(conversion.network, chip, chosen.realisation.name, chips)
    progress(layers, layers, "comparing with the float network")
    fidelity = measure_fidelity(conversion, loaded.calibration_images, partial(ann_logits, loaded, model))
    conversion = replace(
        conversion,
        changes=(*conversion.changes, *fidelity.changes),
        notes=tuple(
            map(spoken, (*notes_of(loaded, chosen.realisation), *conversion.notes, *fidelity.notes(conversion)))
        ),
    )
    progress(layers, layers, "running known inputs, and writing")
    pixels = loaded.calibration_images[: n_known_answers(lowered.network)]
    write(
        output,
        lowered,
        KnownAnswers(pixels, join(FastEngine(lowered.network).traces(pixels))),
        provenance=_provenance(loaded),
        changes=conversion.changes,
        weight_bits=chosen.weight_bits,
    )
    return _report(output, lowered, conversion, fidelity, loaded.data_dir)


def n_known_answers(network: IntNetwork) -> int:
    """Return how many samples get known answers, at least one."""
    values = network.n_steps * sum(population.n_neurons for population in network.populations)
    return max(1, min(N_KNOWN_ANSWERS, KNOWN_SPIKES // values))


def _provenance(checkpoint: Checkpoint) -> Provenance:
    return Provenance(
        recipe=checkpoint.recipe.name,
        seed=checkpoint.recipe.seed,
        dataset=checkpoint.dataset_name,
        checkpoint_sha256=checkpoint.sha256,
        input_mean=checkpoint.mean,
        input_std=checkpoint.std,
        classes=checkpoint.classes,
    )


def _report(
    path: Path, lowered: Lowered, conversion: Conversion, fidelity: Fidelity, data_dir: str | None
) -> ExportReport:
    network = lowered.network
    return ExportReport(
        path=path,
        target=lowered.target.name,
        realisation=lowered.realisation,
        steps=network.n_steps,
        input=network.pixel_input.coding,
        units=conversion.units,
        per_layer=conversion.form.one_threshold,
        layers=len(network.populations),
        neurons=sum(population.n_neurons for population in network.populations),
        synapses=sum(network.synapse_count(population) for population in network.populations),
        cores=lowered.cores,
        chips=lowered.mapping.chips,
        utilisation=utilisation(lowered.mapping),
        head_room_bits=head_room_bits(network),
        tightest_layer=min((p.bound.head_room_bits, p.name) for p in network.populations if p.bound is not None)[1],
        bounds={p.name: p.bound.kind for p in network.populations if p.bound is not None},
        data_dir=data_dir,
        fidelity=fidelity,
        notes=conversion.notes,
        changes=conversion.changes,
    )


def head_room_bits(network: IntNetwork) -> float:
    """Return the least head-room of any population, in bits."""
    return min(population.bound.head_room_bits for population in network.populations if population.bound is not None)
