"""report: one page of HTML about a run or an exported network, or several networks side by side.

In: runs and files. Out: the page and a PageReport.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nctool.arguments import public, split_names
from nctool.commands.command import Command
from nctool.commands.options import (
    DataDir,
    Dataset,
    Device,
    Foreign,
    Input,
    Module,
    Progress,
    SampleChoice,
    Split,
    Timeout,
)
from nctool.commands.tables import counted, print_line, print_whole
from nctool.commands.verify import EXIT_DIFFERENT
from nctool.errors import UsageError
from nctool.reports import Report
from nctool.running.arrays import Source, load_array
from nctool.running.model_file import model_path
from nctool.signature import Option
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.lava.engine import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from nctool.reporting.building import Found
    from nctool.reporting.measuring import Data
    from nctool.reporting.subjects import Subject
    from nctool.running.model_file import ModelFile

DEFAULT_PAGE = "report.html"


@dataclass(frozen=True)
class NetworkOfPage:
    """What the page says of one network.

    Args:
        name: on the page.
        path: of the file; None for a run that nothing was exported of.
        equal: whether the engines agreed while the page was made; None where they were not compared.
        engines: that ran, the standard first.
        found: what was compared, or the first divergence, in sentences.
        compared_samples, compared_spikes, compared_logits: what they were compared on.
        accuracy: of the integers by time step, 0..1; empty without labels.
        samples: that the accuracy was measured on.
        cores: on the chip; 0 where they are not limited, or not known.
    """

    name: str
    path: Path | None
    equal: bool | None
    engines: tuple[str, ...]
    found: tuple[str, ...]
    compared_samples: int
    compared_spikes: int
    compared_logits: int
    accuracy: dict[str, float]
    samples: int
    cores: int


@dataclass(frozen=True)
class PageReport(Report):
    """A page that was written.

    Args:
        path: of the page.
        size_bytes: of it.
        networks: on it, in order.
    """

    path: Path
    size_bytes: int
    networks: tuple[NetworkOfPage, ...]


@public
def report(
    networks: Annotated[
        Sequence[Path | str] | Path | str,
        Option(
            "Training runs, exported files, or zoo:NAME.",
            metavar="RUN_OR_NET",
            is_positional=True,
            is_repeated=True,
        ),
    ],
    output: Annotated[
        Path | str, Option("Page to write.", flags=("-o", "--output"), metavar="REPORT.html")
    ] = DEFAULT_PAGE,
    *,
    engines: Annotated[Sequence[str] | str, Option("That are compared; lava only if named.")] = ("reference", "fast"),
    verify: Annotated[
        int | None,
        Option("Samples that the engines are compared on; 0: none.", metavar="N", default="up to 16", least=0),
    ] = None,
    samples: Annotated[
        int | None,
        Option(
            "Samples that the accuracy is measured on.",
            metavar="N",
            default="all; fewer of large networks",
            least=1,
            is_checked_inside=True,
        ),
    ] = None,
    dataset: Dataset = None,
    split: Split = "test",
    data_dir: DataDir = None,
    input: Input = None,  # noqa: A002  # the option's name is a contract
    labels: Annotated[Source | None, Option("Class numbers for --input.", kind=Path, metavar="Y.npy")] = None,
    options: Foreign = None,
    device: Device = "cpu",
    timeout_s: Timeout = DEFAULT_TIMEOUT_S,
    model: Module | None = None,
    progress: Progress = True,
) -> PageReport:
    """Write one page of HTML about a run or a network, or compare several.

    The page holds all that it needs: nothing is fetched (docs/REPORT.md). Engines are compared while it is made; exit 1
    when they differ, or a file is not what was exported.

    Args:
        networks: folders of training runs, their checkpoints, or exported files, one or several. A run stands for the
            networks in its folder. Files of other tools need `input`.
        output: the page to write; an older page is replaced.
        engines: at least one; the others are compared with the first.
        verify: samples that they are compared on, 0 for none; by default up to 16, fewer for large networks.
        samples: samples that the accuracy is measured on, from the first on; by default all, fewer for large networks.
        dataset, split, data_dir: as for `run_sim`; `data_dir` is by default where the training found its data.
        input, labels: samples of your own, as for `run_sim`.
        options: how a foreign file is read and reset.
        device: `cpu` or `cuda`, for the fast engine.
        timeout_s: seconds that one run of the Lava subprocess may take.
        model: the network of the checkpoint, where it is your own; it gets the trained weights.
        progress: called with the work done and to do; True is a bar, False nothing.

    Raises:
        UsageError, FormatError, UnsupportedError, RangeError, EngineError: see `nctool.errors`.
    """
    from nctool.reporting.subjects import find_subjects
    from nctool.running.engines import require_engine
    from nctool.running.images import are_images
    from nctool.running.outputs import PAGE, require_outputs

    paths = _paths(networks)
    names = tuple(dict.fromkeys(split_names(engines)))
    if not names:
        raise UsageError("no engine to compare", hint="name them with --engines reference,fast")
    for name in names:
        require_engine(name)
    output, wanted = Path(output), SampleChoice(dataset, split, samples, data_dir, input, labels)
    inputs = {f"the network `{path}`": path for path in paths if path.is_file()}
    require_outputs({**inputs, **_given(wanted)}, {"-o": (PAGE, output)})
    shape = None if input is None or are_images(input) else load_array(input).shape[-3:]
    subjects = find_subjects(paths, options or ForeignOptions(), shape)
    from nctool.fast.engine import find_device
    from nctool.files import write_atomically
    from nctool.reporting.building import Options, build
    from nctool.reporting.page import html_of

    find_device(device)
    if model is not None:
        _require_use(model, subjects)
    is_named = split != "test" or any(given is not None for given in (dataset, input, labels))
    is_limited = samples is not None or data_dir is not None
    made = Options(names, verify, samples, is_named, is_limited, _loader(wanted), device, timeout_s, model)
    page, found = build(subjects, made, progress)
    progress(1, 1, "writing the page")
    content = html_of(page).encode()
    write_atomically(output, content)
    return PageReport(output, len(content), tuple(map(_of_page, found)))


def _paths(networks: Sequence[Path | str] | Path | str) -> list[Path]:
    named = [networks] if isinstance(networks, Path | str) else networks
    if not named:
        raise UsageError("networks: none given, allowed one or more", hint="give a run or an exported file")
    return list(dict.fromkeys(model_path(path) for path in named))


def _require_use(model: Module, subjects: Sequence[Subject]) -> None:
    """Refuse what is no network, or a network of whose runs none is at hand."""
    from nctool.conversion.trace.prepare import require_torch_module

    require_torch_module(model)
    if not any(subject.checkpoint for subject in subjects):
        raise UsageError(
            "model: a network is given, and no checkpoint that belongs to it is at hand",
            hint="give the folder of its run",
        )


def _given(wanted: SampleChoice) -> dict[str, Path | None]:
    from nctool.running.arrays import path_of
    from nctool.running.samples import dataset_path

    name = None if wanted.dataset is None else str(wanted.dataset)
    return {
        "the samples": path_of(wanted.input),
        "the labels": path_of(wanted.labels),
        "the data set": dataset_path(name),
    }


def _loader(wanted: SampleChoice) -> Callable[[Subject, ModelFile, int | None], Data]:
    """Return what loads the samples of a network: those asked for, or of the data set that it was trained on."""
    from nctool.reporting.measuring import Data
    from nctool.running.checkpoints import remembered
    from nctool.running.samples import trained_on

    def load(subject: Subject, content: ModelFile, n_samples: int | None) -> Data:
        name = trained_on(content) if wanted.dataset is None else str(wanted.dataset)
        choice = replace(wanted, samples=None)
        if subject.checkpoint is not None and name is not None and wanted.input is None:
            choice = replace(choice, data_dir=remembered(wanted.data_dir, subject.checkpoint, name))
        chosen = choice.load(content)
        available = len(chosen.samples)
        if n_samples is not None:
            chosen = replace(choice, samples=n_samples).load(content)
        return Data(chosen.name, chosen.content, chosen.samples, chosen.labels, available)

    return load


def _of_page(found: Found) -> NetworkOfPage:
    judgement, answers = found.judgement, found.answers
    accuracy = (
        {} if answers is None or answers.accuracy is None else dict(enumerate(answers.accuracy.tolist(), start=1))
    )
    return NetworkOfPage(
        name=found.subject.name,
        path=found.subject.path,
        equal=None if judgement is None else judgement.is_equal,
        engines=() if judgement is None else judgement.engines,
        found=() if judgement is None else tuple(judgement.verdict.texts),
        compared_samples=0 if judgement is None else judgement.samples,
        compared_spikes=0 if judgement is None else judgement.spikes,
        compared_logits=0 if judgement is None else judgement.logits,
        accuracy={str(step): value for step, value in accuracy.items()},
        samples=0 if found.data is None else len(found.data.samples),
        cores=found.size.cores,
    )


def print_report(page: PageReport) -> None:
    """Say what was compared, and where the page is."""
    for network in page.networks:
        if network.equal is None:
            print_line(f"{network.name}: not compared: {network.found[0] if network.found else 'nothing was exported'}")
            continue
        if not network.equal:
            print_line(f"{network.name}: DIFFERENT: {network.found[0]}")
            continue
        compared = f"{counted(network.compared_samples, 'sample')}, {network.compared_spikes:,} spike values"
        print_line(
            f"{network.name}: {' = '.join(network.engines)}, bit for bit; {compared} and "
            f"{network.compared_logits:,} logits compared"
        )
    print_whole(f"wrote {page.path} ({page.size_bytes / 1e6:.2f} MB)")


def _exit_code(page: PageReport) -> int:
    return EXIT_DIFFERENT if any(network.equal is False for network in page.networks) else 0


COMMAND = Command(report, print_report, title="making the page", exit_code=_exit_code)
