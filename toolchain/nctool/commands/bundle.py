"""bundle: a folder that runs an exported network in an unmodified Lava, without nctool.

In: an exported file and a place. Out: the folder and a BundleReport.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import Model
from nctool.commands.tables import counted, print_line, print_rows, print_whole
from nctool.errors import UnsupportedError
from nctool.reports import Report
from nctool.signature import Option
from nctool_deploy.foreign import ForeignOptions


@dataclass(frozen=True)
class BundleReport(Report):
    """What was written.

    Args:
        path: the folder.
        model: the exported file, as it was given.
        backend: its neurons.
        steps: time steps of a sample.
        known_answers: samples whose logits the runner compares.
        labels: names of the classes.
        files: SHA-256 of each file of the folder, by its name.
    """

    path: Path
    model: Path
    backend: str
    steps: int
    known_answers: int
    labels: tuple[str, ...]
    files: dict[str, str]


@public
def bundle(
    model: Model,
    output: Annotated[Path | str, Option("Folder.", flags=("-o", "--output"), metavar="FOLDER")],
) -> BundleReport:
    """Write a folder that runs a network in an unmodified Lava, without nctool.

    It holds the file, a runner, the encoding of the input in NumPy, the names of the classes, known answers that the
    runner compares, and a README. The same file gives the same bytes.

    Args:
        model: a file that `export` or `convert` wrote, or `zoo:NAME`.
        output: the folder; it must be new, empty, or an older bundle.

    Raises:
        UsageError: there is no such file, or the folder holds something else or cannot be written.
        FormatError: the file is bad.
        UnsupportedError: a file of another tool, a network that takes no pixels, or one with too many connections.
    """
    from nctool.running.model_file import model_path, open_model
    from nctool_deploy.bundle.write import labels, write_bundle
    from nctool_deploy.netx import NetxFile

    path, folder = model_path(model), Path(output)
    content = open_model(path, ForeignOptions())
    if not isinstance(content, NetxFile):
        raise UnsupportedError(
            f"`{model}`: a netx file of another tool says neither what its input is nor what to answer",
            hint="lava.lib.dl.netx.hdf5.Network runs it as it is",
        )
    files = write_bundle(path, content, folder, str(model))
    metadata, known = content.metadata, len(content.known_answers.pixels)
    return BundleReport(folder, Path(model), metadata.backend, content.network.n_steps, known, labels(content), files)


# --- for people -------------------------------------------------------------------------------------------------------


def print_bundle(report: BundleReport) -> None:
    """Show the files, and how to run them."""
    print_rows(str(report.path), ["file", "SHA-256"], [[name, digest[:12]] for name, digest in report.files.items()])
    print_line(
        f"backend {report.backend}, T={report.steps}, {len(report.labels)} classes, "
        f"{counted(report.known_answers, 'known answer')}; it needs Lava, and no nctool: see its README.md"
    )
    print_whole(f"next: python {quote(str(report.path / 'run.py'))}")


COMMAND = Command(bundle, print_bundle)
