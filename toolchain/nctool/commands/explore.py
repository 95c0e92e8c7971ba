"""explore: what a checkpoint can be exported as, and what each choice gives and costs.

In: a checkpoint and settings to try. Out: an ExploreReport with a row for each, and a figure where one is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nctool.arguments import public, split_names
from nctool.commands.command import Command
from nctool.commands.options import (
    Checkpoint,
    Chips,
    DataDir,
    Dataset,
    Device,
    InputOption,
    Module,
    Progress,
    Samples,
    Split,
    Target,
    backend_names,
    parse_numbers,
    require_chips,
)
from nctool.commands.tables import counted, percent, print_line, print_rows
from nctool.reports import Report
from nctool.signature import Option
from nctool_deploy.backends.backend import BACKENDS

if TYPE_CHECKING:
    from nctool.exporting.exploring import ExploreRow, Measured
    from nctool_deploy.cost.report import SplitEnergy

ALL = tuple(backend.name for backend in BACKENDS)
WEIGHT_BITS = (8, 4)

COLUMNS = [
    *("", "backend", "K", "T", "bits", "accuracy", "latency", "every", "neurons", "cores", "spikes"),
    *("operations", "active", "idle"),
]
OPTIONAL = ("backend", "cores")
"""Columns that are left out where they say the same in every row; the title says it once."""
GRADED_CAUSE = "graded operations"
CAUSES = ["energy in nJ", "synaptic operations", GRADED_CAUSE, "active updates", "idle updates", "spikes", "together"]
LEGEND = (
    "* no other is at least as good in accuracy, latency, neurons and operations, and better in one",
    "K replicas, T steps; latency: steps until the answer stands; every: steps between samples",
    "of a sample, in the mean: spikes, synaptic operations, active and idle neuron updates",
)


@dataclass(frozen=True)
class ExploreReport(Report):
    """Every setting that was tried, with what it gives and costs.

    Args:
        checkpoint: as given.
        target: the chip whose limits were checked.
        dataset: data set and split that the rows were measured on.
        samples: number of samples.
        rows: in the order of the settings.
    """

    checkpoint: Path
    target: str
    dataset: str
    samples: int
    rows: tuple[ExploreRow, ...]

    @property
    def title(self) -> str:
        """Return what was tried on which data, for which target."""
        return f"{self.checkpoint.name}: {self.dataset}, {self.samples} samples, {self.target}"

    def plot(self) -> Any:
        """Return the Altair chart that `--plot` draws, for a notebook."""
        from nctool.figures import exploration as figure
        from nctool.figures.file import for_notebook

        return for_notebook(figure.chart(self.title, self.rows))


@public
def explore(
    checkpoint: Checkpoint,
    *,
    backends: Annotated[
        Sequence[str] | str,
        Option("Comma-separated.", aliases=("realisations",), names=backend_names, takes_several=True),
    ] = ALL,
    steps: Annotated[
        Sequence[int] | None,
        Option("Windows T, comma-separated.", default="1,2,4,8; zero-reset 4,8", parse=parse_numbers),
    ] = None,
    replicas: Annotated[
        Sequence[int] | None,
        Option("Replicas K of autapse, comma-separated.", default="1,2,4", parse=parse_numbers, aliases=("units",)),
    ] = None,
    weight_bits: Annotated[Sequence[int], Option("2..8 each, comma-separated.", parse=parse_numbers)] = WEIGHT_BITS,
    input: InputOption = None,  # noqa: A002  # the option's name is a contract
    target: Target = "loihi",
    chips: Chips = 1,
    dataset: Dataset = None,
    split: Split = "test",
    samples: Samples = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    plot: Annotated[
        Path | str | None, Option("Draw the trade-offs.", metavar="FILE.png|svg|pdf", is_written=True)
    ] = None,
    model: Module | None = None,
    progress: Progress = True,
) -> ExploreReport:
    """Try many ways to export a checkpoint: what each gives, and what it costs.

    Each is converted, and run on data (docs/EXPLORE.md).

    Args:
        checkpoint: folder of a training run, or its checkpoint.safetensors.
        backends: names, a list or a text with commas; `population` is tried with its one step and the levels of the
            network only.
        steps: windows of the other backends; by default 1, 2, 4, 8, for `zero-reset` 4, 8.
        replicas: neurons for each activation with `autapse`; by default 1, 2, 4.
        weight_bits: 2..8 each.
        input, target, chips: as for `export`.
        dataset, split, samples, data_dir: as for `run_sim`; `data_dir` is by default where the training found its data.
        device: `cpu` or `cuda`, for the fast engine.
        plot: .png, .svg or .pdf file of the trade-offs.
        model: the network of the checkpoint, where it is your own; it gets the trained weights.
        progress: called with the samples done and to do, and the setting; True is a bar, False nothing.

    Raises:
        UsageError: a path or an option is wrong.
        FormatError: the checkpoint or the data is bad.
        RangeError: the data does not fit the network.
    """
    from nctool.ir.inputs import find_encoding
    from nctool.running.checkpoints import open_checkpoint, remembered, require_checkpoint
    from nctool.running.outputs import FIGURE, require_outputs, run_files
    from nctool.running.samples import dataset_path, dataset_samples, require_here
    from nctool_deploy.targets.target import find_target
    from nctool_models.datasets.load import require_dataset

    chip = find_target(target)
    require_chips(chips)
    encoding = None if input is None else find_encoding(input)
    require_checkpoint(checkpoint)
    if dataset is not None:
        require_dataset(str(dataset))

    from nctool.exporting.exploring import Trial, settings
    from nctool.fast.engine import find_device
    from nctool.figures import exploration as figure
    from nctool.figures.file import OPTION
    from nctool_models import restore_model

    draw = None if plot is None else figure.prepare(Path(plot))
    find_device(device)
    loaded = open_checkpoint(checkpoint)
    name = loaded.dataset_name if dataset is None else str(dataset)
    if dataset is None:
        require_here(name)
    require_outputs({"the data set": dataset_path(name), **run_files(checkpoint)}, {OPTION: (FIGURE, plot)})
    tried = settings(split_names(backends), steps, replicas, weight_bits, loaded.recipe.activation.levels)
    folder = remembered(data_dir, loaded, name)
    pixels, labels = dataset_samples(
        name, split, samples, folder, loaded.input_shape, len(loaded.classes), loaded.classes
    )
    trial = Trial(loaded, restore_model(loaded, model), encoding, chip, chips, pixels, labels, device, progress)
    report = ExploreReport(Path(checkpoint), chip.name, f"{name}/{split}", len(pixels), trial.rows(tried))
    if draw is not None:
        draw(report.title, report.rows)
    return report


def print_explore(report: ExploreReport) -> None:
    """Show the rows, the reasons, what the columns mean, and energies where the target has figures."""
    measured_rows = [(row, row.measured) for row in report.rows if row.measured is not None]
    title = f"{report.checkpoint}: {report.dataset}, {counted(report.samples, 'sample')}, target {report.target}"
    rows = [dict(zip(COLUMNS, _cells(row, measured), strict=True)) for row, measured in measured_rows]
    columns = [name for name in COLUMNS if name not in OPTIONAL or len({row[name] for row in rows}) > 1]
    for name in OPTIONAL:
        if name not in columns and rows and rows[0][name]:
            title += f", {name} {rows[0][name]}"
    n_keys = columns.index("accuracy")
    print_rows(title, columns, [[row[name] for name in columns] for row in rows], n_keys)
    for row in report.rows:
        if row.refusal is not None:
            print_line(f"not possible: {row.setting}: {row.refusal}")
    for line in LEGEND:
        print_line(line)
    energies = [(row, measured.cost.energy) for row, measured in measured_rows if measured.cost.energy is not None]
    if energies:
        title = f"energy of a sample, by cause; {energies[0][1].basis}"
        has_graded = any(energy.graded_operations_pj for _, energy in energies)
        columns = [name for name in CAUSES if has_graded or name != GRADED_CAUSE]
        rows = [dict(zip(CAUSES, _energy_cells(row, energy), strict=True)) for row, energy in energies]
        print_rows(title, columns, [[row[name] for name in columns] for row in rows])


def _cells(row: ExploreRow, measured: Measured) -> list[str]:
    setting, cost = row.setting, measured.cost
    return [
        "*" if row.pareto else "",
        setting.backend,
        str(setting.replicas),
        str(setting.steps),
        str(setting.weight_bits),
        percent(measured.accuracy),
        str(cost.latency_steps),
        str(cost.period_steps),
        f"{measured.neurons:,}",
        f"{measured.cores:,}" if measured.cores else "",
        f"{cost.total.spikes + cost.total.bias_spikes:,.0f}",
        f"{cost.total.synaptic_operations:,.0f}",
        f"{cost.total.active_updates:,.0f}",
        f"{cost.total.idle_updates:,.0f}",
    ]


def _energy_cells(row: ExploreRow, energy: SplitEnergy) -> list[str]:
    causes = (
        energy.synaptic_operations_pj,
        energy.graded_operations_pj,
        energy.active_updates_pj,
        energy.idle_updates_pj,
        energy.spikes_pj,
        energy.total_pj,
    )
    return [str(row.setting), *(f"{pj / 1000:,.1f}" for pj in causes)]


COMMAND = Command(explore, print_explore, title="exploring")
