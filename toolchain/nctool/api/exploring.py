"""explore: what a checkpoint can be exported as, and what each choice gives and costs.

In: a checkpoint and settings to try. Out: an ExploreReport with a row for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nctool.api.pareto import best
from nctool.arguments import public, split_names
from nctool.errors import RangeError, UnsupportedError, UsageError
from nctool.exporting.convert import converted, design
from nctool.exporting.settings import Setting, settings
from nctool.fast.engine import FastEngine, find_device
from nctool.figures.file import OPTION
from nctool.ir.inputs import Coding, find_coding
from nctool.progress import ProgressCallback, no_progress
from nctool.running.checkpoints import RunPath, open_checkpoint, remembered
from nctool.running.outputs import FIGURE, require_outputs, run_files
from nctool.running.samples import dataset_path, dataset_samples, require_here
from nctool.spelling import spoken
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool_deploy.backends.backend import REALISATIONS, find_realisation
from nctool_deploy.cost.operations import OperationCounter
from nctool_deploy.cost.report import CostMeter, CostReport
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.targets.target import Target, find_target
from nctool_models import restore_model

ALL = tuple(realisation.name for realisation in REALISATIONS)
WEIGHT_BITS = (8, 4)


@dataclass(frozen=True)
class Measured:
    """What a setting gives, and what it costs; counts are means over the samples.

    Args:
        accuracy: fraction of correct answers after the whole window.
        neurons: of all layers.
        cores, chips: that the mapping uses; 0 where the target does not limit a core.
        cost: of a sample.
    """

    accuracy: float
    neurons: int
    cores: int
    chips: int
    cost: CostReport

    @property
    def objectives(self) -> tuple[float, ...]:
        """Return what a user wants little of: errors, latency in steps, neurons, synaptic operations."""
        return (1 - self.accuracy, self.cost.latency_steps, self.neurons, self.cost.total.synaptic_operations)


@dataclass(frozen=True)
class ExploreRow:
    """One setting and what came of it.

    Args:
        setting: the options of `nctool export` that give this network.
        measured: None where it cannot be exported.
        refusal: why it cannot, all reasons; None where it can.
        pareto: no other row is at least as good in every objective and better in one.
    """

    setting: Setting
    measured: Measured | None
    refusal: str | None
    pareto: bool = False


@dataclass(frozen=True)
class ExploreReport:
    """What a checkpoint can be exported as.

    Args:
        checkpoint: as given.
        target: whose limits were checked.
        dataset: data set and split that the rows were measured on.
        samples: number of samples.
        rows: in the order of the settings.
    """

    checkpoint: Path
    target: str
    dataset: str
    samples: int
    rows: tuple[ExploreRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self) | {"checkpoint": str(self.checkpoint)}


@public
def explore(
    checkpoint: RunPath,
    *,
    realisations: Sequence[str] | str = ALL,
    steps: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    weight_bits: Sequence[int] = WEIGHT_BITS,
    input: str | None = None,  # noqa: A002  # the option's name is a contract
    target: Path | str = "loihi",
    chips: int = 1,
    dataset: Path | str | None = None,
    split: str = "test",
    samples: int | None = None,
    data_dir: Path | str | None = None,
    device: str = "cpu",
    plot: Path | str | None = None,
    model: nn.Module | None = None,
    progress: ProgressCallback = no_progress,
) -> ExploreReport:
    """Convert a checkpoint in many ways, run each on data and say what it gives and costs (docs/EXPLORE.md).

    Args:
        checkpoint: folder of a training run, or its checkpoint.safetensors.
        realisations: names, a list or a text with commas; `population` is tried with its one step and the levels of the
            network only.
        steps: windows of the others; by default 1, 2, 4, 8, of `zero-reset` 4, 8.
        units: neurons for each activation, of `autapse`; by default 1, 2, 4.
        weight_bits: 2..8 each.
        input, target, chips: as for `export`.
        dataset, split, samples, data_dir: as for `run_sim`; the folder by default where the training found its data.
        device: `cpu` or `cuda`, for the fast engine.
        plot: .png, .svg or .pdf file of the trade-offs; needs matplotlib.
        model: the network of the checkpoint, where it is your own; it gets the trained weights.
        progress: called with the samples done and to do, and the setting.

    Raises:
        UsageError: a path or an option is wrong.
        FormatError: the checkpoint or the data is bad.
        RangeError: the data does not fit the network.
    """
    chip, figure = find_target(target), _figure(plot)
    find_device(device)
    if chips < 1:
        raise UsageError(f"chips: {chips} is out of range, allowed >= 1", hint="give 1 or more chips with --chips")
    coding = None if input is None else find_coding(input)
    loaded = open_checkpoint(checkpoint)
    name = loaded.dataset_name if dataset is None else str(dataset)
    if dataset is None:
        require_here(name)
    require_outputs({"the data set": dataset_path(name), **run_files(checkpoint)}, {OPTION: (FIGURE, plot)})
    tried = settings(split_names(realisations), steps, units, weight_bits, loaded.recipe.activation.levels)
    n_classes = len(loaded.classes)
    folder = remembered(data_dir, loaded, name)
    pixels, labels = dataset_samples(name, split, samples, folder, loaded.input_shape, n_classes, loaded.classes)
    model = restore_model(loaded, model)
    trial = _Trial(loaded, model, coding, chip, chips, pixels, labels, device, progress, len(tried))
    rows = _marked([trial.row(number, setting) for number, setting in enumerate(tried)])
    report = ExploreReport(Path(checkpoint), chip.name, f"{name}/{split}", len(pixels), rows)
    if figure is not None:
        figure(report)
    return report


def _figure(path: Path | str | None) -> Callable[[ExploreReport], None] | None:
    """Return what draws the plot, having checked that it can."""
    if path is None:
        return None
    from nctool.api.exploring_figure import prepare

    return prepare(Path(path))


@dataclass(frozen=True, eq=False)
class _Trial:
    """What all settings share."""

    loaded: Checkpoint
    model: nn.Module
    coding: Coding | None
    target: Target
    chips: int
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    device: str
    progress: ProgressCallback
    n_settings: int

    def row(self, number: int, setting: Setting) -> ExploreRow:
        """Export and run one setting; what does not fit is a row with the reason."""
        self._report(number, 0, setting)
        try:
            return ExploreRow(setting, self._measure(number, setting, self._lower(setting)), None)
        except (RangeError, UnsupportedError) as error:
            return ExploreRow(setting, None, spoken(error.message))

    def _lower(self, setting: Setting) -> Lowered:
        """Convert anew: scales depend on the window, so that of a longer one does not serve."""
        realisation = find_realisation(setting.realisation)
        chosen = design(self.loaded, realisation, setting.steps, setting.units, setting.weight_bits, self.coding)
        conversion = converted(self.loaded, self.model, chosen)
        return lower(conversion.network, self.target, setting.realisation, self.chips)

    def _measure(self, number: int, setting: Setting, lowered: Lowered) -> Measured:
        network, realisation = lowered.network, find_realisation(setting.realisation)
        meter = CostMeter(OperationCounter(network, realisation), self.target, realisation.name)
        done = correct = overflows = 0
        for trace in meter.watch(FastEngine(network, device=self.device).traces(self.pixels), self.pixels):
            answers = trace.logits[:, -1].argmax(axis=1)
            correct += int((answers == self.labels[done : done + trace.n_samples]).sum())
            overflows += sum(trace.overflows.values())
            done += trace.n_samples
            self._report(number, done, setting)
        if overflows:
            raise RangeError(f"network: {overflows} accumulated inputs left the accumulator (rule O1), allowed 0")
        return Measured(
            accuracy=correct / done,
            neurons=sum(population.n_neurons for population in network.populations),
            cores=lowered.cores,
            chips=lowered.mapping.chips,
            cost=meter.report(),
        )

    def _report(self, number: int, done: int, setting: Setting) -> None:
        n_samples = len(self.pixels)
        self.progress(number * n_samples + done, self.n_settings * n_samples, str(setting))


def _marked(rows: Sequence[ExploreRow]) -> tuple[ExploreRow, ...]:
    """Mark the rows that no other row beats."""
    found = iter(best([row.measured.objectives for row in rows if row.measured is not None]))
    return tuple(row if row.measured is None else replace(row, pareto=next(found)) for row in rows)
