"""check: what keeps a network from being converted, what would be changed, and how much of a chip it takes.

In: a network that need not be trained, and the shape of an image or some images. Out: a CheckReport.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import (
    Images,
    Module,
    Replicas,
    Target,
    backend_names,
    encoding_names,
    parse_replicas,
    recipe_names,
)
from nctool.commands.tables import counted, print_cores, print_line, print_rows
from nctool.errors import UnsupportedError, UsageError, first_line
from nctool.reports import Report
from nctool.signature import Option
from nctool.spelling import spoken

if TYPE_CHECKING:
    from nctool.conversion.trace.rewritten import Replacement
    from nctool.errors import NctoolError
    from nctool.exporting.sizing import Sized
    from nctool.exporting.utilisation import Utilisation

_SHAPE = re.compile(r"\d{1,6}([,x]\d{1,6})*")


def parse_shape(text: str, name: str) -> tuple[int, ...]:
    """Turn `3,32,32` into a shape.

    Raises:
        UsageError: it is none.
    """
    if not _SHAPE.fullmatch(text):
        raise UsageError(f"{name}: got `{text}`, allowed {_ALLOWED}")
    return tuple(map(int, re.split("[,x]", text)))


@dataclass(frozen=True)
class ObstacleReport:
    """What keeps a network from being converted: what and where, and what to write instead."""

    what: str
    instead: str | None


@dataclass(frozen=True)
class SizeReport:
    """A layer of the network on the chip: its neurons and synapses, and the cores that hold some of it."""

    name: str
    shape: tuple[int, ...]
    neurons: int
    synapses: int
    cores: int | None


@dataclass(frozen=True)
class CheckReport(Report):
    """What was found out without training.

    Args:
        model: class of the network, or what was typed.
        input_shape: of a sample; empty where a network file could not be read.
        converts: True where there is no obstacle.
        obstacles: all of them.
        changes: what `prepare` replaces or leaves out.
        remarks: what is probably not meant.
        target, backend, input: as chosen.
        replicas: neurons that share an activation, for all layers or by layer.
        layers: of the spiking network; none where its parts cannot be read.
        neurons, synapses: totals; a shared kernel counts each of its uses.
        cores, chips: that it takes; 0 where the target does not limit a core, None where it does not fit.
        utilisation: how full each core is.
    """

    model: str
    target: str
    backend: str
    input: str
    replicas: int | dict[str, int]
    input_shape: tuple[int, ...] = ()
    converts: bool = False
    obstacles: tuple[ObstacleReport, ...] = ()
    changes: tuple[Replacement, ...] = ()
    remarks: tuple[str, ...] = ()
    layers: tuple[SizeReport, ...] = ()
    neurons: int | None = None
    synapses: int | None = None
    cores: int | None = None
    chips: int | None = None
    utilisation: Utilisation | None = None


@public
def check(
    model: Annotated[
        Module | Path | str,
        Option(
            "ONNX, torch.export or TorchScript file; file.py:function, which runs that code; or a recipe.",
            kind=str,
            metavar="MODEL",
            is_positional=True,
            names=recipe_names,
        ),
    ],
    shape: Annotated[
        Sequence[int] | Images | None,
        Option(
            "Shape of an image.", metavar="C,H,W", default="the model's, if it says one", kind=str, parse=parse_shape
        ),
    ] = None,
    *,
    target: Target = "loihi",
    backend: Annotated[
        str, Option("autapse, or in stock netx population or zero-reset.", names=backend_names)
    ] = "autapse",
    replicas: Annotated[
        Replicas | None,
        Option("Neurons an activation: K or LAYER=K,...", default="1; population: 4", parse=parse_replicas),
    ] = None,
    input: Annotated[  # noqa: A002  # as export
        str, Option("graded: signed 8 bits; rate: binary spikes.", names=encoding_names)
    ] = "graded",
) -> CheckReport:
    """Show what keeps a network from being converted, what would be changed, and its size on a chip.

    Nothing is trained or written.

    Args:
        model: a torch module, left as it is; or what the command line takes: the path of an ONNX, torch.export or
            TorchScript file, whose code is not run; `file.py:function` or `package.module:function`, whose code is run;
            or the name or path of a recipe.
        shape: of one image, (channels, height, width), of a sequence (channels, length), or (features,); or some images
            themselves, float (N, ...).
        target: `loihi` (Loihi 2), `loihi1`, `lava` (simulator only), or the path of a target file (docs/TARGETS.md).
        backend: how neurons are built (docs/BACKENDS.md).
        replicas: copies of a neuron that share an activation, for all layers or by name; by default 1, and for
            `population` 4, the levels that `prepare` gives an activation.
        input: `graded` (signed 8-bit integers) or `rate` (spike trains of one bit).

    Returns:
        All obstacles at once; exit code 3 of the command where there are any, else 0.

    Raises:
        UsageError: there is no such network, its code fails, images do not fit it, or an option is wrong.
        FormatError: a network file is damaged.
    """
    from nctool.exporting.network_names import require_network
    from nctool.ir.inputs import find_encoding
    from nctool_deploy.backends.backend import find_backend
    from nctool_deploy.targets.target import find_target

    chip, built_by, encoding = find_target(target), find_backend(backend), find_encoding(input)
    copies = built_by.default_replicas(LEVELS) if replicas is None else replicas
    if isinstance(copies, str):
        raise UsageError("replicas: auto is for `nctool export`, allowed a number K, or LAYER=K,LAYER=K")
    if isinstance(model, (str, Path)):
        require_network(str(model))

    from nctool.activation.thresholds import unfit_images
    from nctool.conversion.trace.examining import examine
    from nctool.conversion.trace.obstacles import Obstacles
    from nctool.exporting.sizing import size

    obstacles = Obstacles()
    report = CheckReport(
        model=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
        target=chip.name,
        backend=built_by.name,
        input=encoding,
        replicas=copies if isinstance(copies, int) else dict(copies),
    )
    with obstacles.noted():  # a network file tells its own
        network, images = _network(model, shape)
    if obstacles:
        return replace(report, obstacles=_obstacles(obstacles))
    unfit = _unfit_shape if shape is None or isinstance(shape, tuple) else unfit_images
    examined = examine(network, images, obstacles, unfit=unfit)
    report = replace(report, input_shape=tuple(images.shape[1:]), obstacles=_obstacles(obstacles))
    if examined is None:
        return report
    report = replace(report, changes=examined.rewritten.replacements, remarks=examined.remarks)
    return report if obstacles else _with_size(report, size(examined.network, chip, built_by, copies, encoding))


LEVELS = 4
"""Levels of an activation where `prepare` is not told another number."""

N_IMAGES = 2
SEED = 0


def _network(model: Any, shape: Any) -> tuple[Any, Any]:
    """Return the network, and images for it."""
    from nctool.conversion.trace.forward_graph import unwrapped
    from nctool.conversion.trace.prepare import require_images, require_torch_module
    from nctool.exporting.named_network import named_network

    images = None if shape is None or isinstance(shape, tuple) else shape
    if images is not None:
        require_images(images)
        shape = tuple(images.shape[1:])
    if isinstance(model, (str, Path)):
        model, shape = named_network(str(model), shape, is_typed=images is None)
    require_torch_module(model)
    if shape is None:
        raise UsageError("shape: is missing", hint="give the shape of an image with --shape C,H,W")
    return unwrapped(model), _random_images(shape) if images is None else images.float()


def _random_images(shape: tuple[int, ...]) -> Any:
    """Return images on which a network can be read."""
    import torch

    if not shape or not all(type(size) is int and size >= 1 for size in shape):
        raise UsageError(f"--shape {_typed(shape)}: allowed sizes of at least 1: {_ALLOWED}")
    return torch.randn(N_IMAGES, *shape, generator=torch.Generator().manual_seed(SEED))


_ALLOWED = "C,H,W, for sequences C,L, of features alone F"


def _typed(shape: Sequence[object]) -> str:
    """Return a shape as it is typed."""
    return ",".join(map(str, shape))


def _unfit_shape(images: Any, reason: Exception, channels: int | None) -> UsageError:
    """Describe a shape of images on which a model cannot run."""
    shape = tuple(images.shape[1:])
    hint = f"give the size of the images that it is trained on: {_ALLOWED}"
    if len(shape) == 3 and shape[0] != channels == shape[2]:
        hint = f"the channels come first: --shape {_typed((shape[2], *shape[:2]))}"
    elif len(shape) == 3 and channels not in (None, shape[0]):
        hint = f"it takes images of so many channels: --shape {channels},H,W"
    elif len(shape) == 2 and channels is not None:
        hint = f"the channels come first: --shape {_typed((channels, *shape))}"
    return UsageError(f"--shape {_typed(shape)}: does not fit the model ({first_line(reason)})", hint)


def _with_size(report: CheckReport, sized: Sized) -> CheckReport:
    """Add what is known of the network on a chip."""
    from nctool.exporting.utilisation import utilisation

    network, lowered = sized.network, sized.lowered
    layers = tuple(
        SizeReport(
            layer.name,
            layer.shape,
            layer.n_neurons,
            network.synapse_count(layer),
            None if lowered is None else lowered.mapping.cores_of(layer.name),
        )
        for layer in network.populations
    )
    return replace(
        report,
        converts=sized.error is None,
        obstacles=() if sized.error is None else _obstacles([sized.error]),
        layers=layers,
        neurons=sum(layer.neurons for layer in layers),
        synapses=sum(layer.synapses for layer in layers),
        cores=None if lowered is None else lowered.cores,
        chips=None if lowered is None else lowered.mapping.chips,
        utilisation=None if lowered is None else utilisation(lowered.mapping),
    )


def _obstacles(errors: Iterable[NctoolError]) -> tuple[ObstacleReport, ...]:
    lines = [(line, error.hint) for error in errors for line in error.message.splitlines()]
    return tuple(ObstacleReport(spoken(line), hint and spoken(hint)) for line, hint in lines)


# --- for people -------------------------------------------------------------------------------------------------------


def print_check(report: CheckReport) -> None:
    """Show obstacles, changes and sizes."""
    shape = "x".join(map(str, report.input_shape))
    if report.obstacles:
        rows = [[obstacle.what, obstacle.instead or ""] for obstacle in report.obstacles]
        print_rows(f"{report.model}: {counted(len(rows), 'obstacle')}", ["what", "instead"], rows)
    if report.changes:
        rows = [[change.where, change.before, change.after or "left out"] for change in report.changes]
        print_rows("replaced in a copy, by nctool.convert and nctool.prepare", ["where", "this", "by"], rows)
    for remark in report.remarks:
        print_line(f"note: {remark}")
    if report.layers:
        _print_sizes(report)
    if report.converts:
        print_line(f"{report.model} converts, on images {shape}")
        print_line("next: nctool convert, if it is trained; or nctool.prepare, to train it for the chip")


def _print_sizes(report: CheckReport) -> None:
    rows = [
        [
            layer.name,
            "x".join(map(str, layer.shape)),
            f"{layer.neurons:,}",
            f"{layer.synapses:,}",
            str(layer.cores or ""),
        ]
        for layer in report.layers
    ]
    title = f"on {report.target}, {report.backend}, {report.input} input, replicas {report.replicas}"
    print_rows(title, ["layer", "shape", "neurons", "synapses", "cores"], rows)
    widest = max(report.layers, key=lambda layer: layer.neurons)
    sizes = (
        f"{counted(len(rows), 'layer')}, {counted(report.neurons or 0, 'neuron')}, {report.synapses or 0:,} synapses"
    )
    print_line(f"{sizes}; the widest layer is {widest.name} with {widest.neurons:,} neurons")
    if report.cores and report.chips and report.utilisation:
        print_cores(report.cores, report.chips, report.utilisation)
    elif report.cores is None:
        print_line("cores: not known, for a part does not fit into any")


def _row(layer: SizeReport) -> list[str]:
    shape = "x".join(map(str, layer.shape))
    return [layer.name, shape, f"{layer.neurons:,}", f"{layer.synapses:,}", str(layer.cores or "")]


def _exit_code(report: CheckReport) -> int:
    return 0 if report.converts else UnsupportedError.exit_code


COMMAND = Command(check, print_check, exit_code=_exit_code)
