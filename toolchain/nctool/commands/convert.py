"""convert: a trained ReLU network becomes a verified netx file, without labels and without training.

In: a network, some of its images, options. Out: the file and a ConvertReport.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.export import ExportReport, print_network, sizes
from nctool.commands.options import (
    ActivationBits,
    Chips,
    Module,
    Progress,
    Replicas,
    Target,
    backend_names,
    encoding_names,
    parse_replicas,
    require_chips,
)
from nctool.commands.tables import print_line, print_whole
from nctool.errors import UsageError
from nctool.ir.number_format import LONGEST_WINDOW
from nctool.running.arrays import Source as ArraySource
from nctool.signature import Option

if TYPE_CHECKING:
    from torch import nn

    from nctool.exporting.calibration_images import CalibrationImages
    from nctool.exporting.convert import Design, Source
    from nctool.ir.inputs import EncodingName
    from nctool_deploy.backends.backend import Backend
    from nctool_deploy.netx import Provenance

DEFAULT_STEPS = 4
"""The window where neither the user nor the backend chooses one."""

POPULATION_REPLICAS = 4
"""Neurons an activation of the backend `population`, whose window is one step."""


def parse_values(text: str, name: str) -> tuple[float, ...]:
    """Turn `0.485,0.456,0.406` into numbers.

    Raises:
        UsageError: a part is no finite number.
    """
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{name}: got `{text}`, allowed a number for each channel, with commas between them")
    return values


@dataclass(frozen=True)
class ConvertReport(ExportReport):
    """What was converted: what an ExportReport says, and more.

    Args:
        images: how many images the network was converted on.
        held_out: whether the answers were compared on other images than these.
        samples: what the file takes: `pixels` of uint8, or `numbers` as the trained network takes them.
        losses: of each layer that spikes, the root mean square error of what it sends, relative to what the trained
            network's ReLUs give, on these images.
    """

    images: int
    held_out: bool
    samples: Literal["pixels", "numbers"]
    losses: Mapping[str, float]


@public
def convert(
    model: Annotated[
        Module | Path | str,
        Option(
            "ONNX, torch.export or TorchScript file, or file.py:function that builds it.",
            kind=str,
            metavar="MODEL",
            is_positional=True,
        ),
    ],
    images: Annotated[
        ArraySource,
        Option("Some hundreds of its images.", kind=Path, metavar="X.npy|FOLDER", flags=("--images",)),
    ],
    output: Annotated[Path | str, Option("File to write.", flags=("-o", "--output"), metavar="MODEL.net")],
    *,
    labels: Annotated[
        ArraySource | None,
        Option("Class numbers of the images: the accuracy is told, nothing else.", kind=Path, metavar="Y.npy"),
    ] = None,
    mean: Annotated[
        Sequence[float] | float | None,
        Option("Of each channel, of uint8 images.", kind=str, metavar="M,M,M", parse=parse_values),
    ] = None,
    std: Annotated[
        Sequence[float] | float | None,
        Option("The same: deviation.", kind=str, metavar="S,S,S", parse=parse_values),
    ] = None,
    target: Target = "loihi",
    steps: Annotated[
        int | None, Option(f"Time steps T of the window, 1..{LONGEST_WINDOW}.", default="4; population, graded: 1")
    ] = None,
    backend: Annotated[
        str, Option("autapse, graded, or in stock netx population or zero-reset.", names=backend_names)
    ] = "autapse",
    replicas: Annotated[
        Replicas | None,
        Option("Neurons an activation: K, or LAYER=K,...", default="1; population: 4", parse=parse_replicas),
    ] = None,
    weight_bits: Annotated[int, Option("2..8.")] = 8,
    activation_bits: ActivationBits = None,
    per_layer: Annotated[bool, Option("One threshold a layer, not one a channel.")] = False,
    input: Annotated[  # noqa: A002
        str, Option("graded: signed 8 bits; rate: binary spikes.", names=encoding_names)
    ] = "graded",
    chips: Chips = 1,
    progress: Progress = True,
) -> ConvertReport:
    """Convert a trained ReLU network to integers, and write it as netx HDF5.

    No labels and no training: each layer gets the thresholds, starts, weights and biases with which it sends what the
    trained one gives, on some of its images, behind what the layers before it really send.

    Args:
        model: a torch module, left as it is; or the path of an ONNX, torch.export or TorchScript file; or
            `file.py:function`, which builds it with its weights: that runs its code.
        images: some hundreds of all classes, an array, tensor or .npy file: uint8 pixels (N, C, H, W) with `mean` and
            `std`; or floats as the network takes them, which the file then takes too, in 256 steps of their range. Or a
            folder of image files of the size that the network takes, with `mean` and `std`.
        output: the file to write; replaced only when everything went well.
        labels: class numbers of the images, an array or .npy file. Nothing is chosen by them: `fidelity.accuracy`
            tells how many of those that are compared the file and the trained network answer.
        mean, std: of each channel, or one for all, in units of pixel / 255, as torchvision's Normalize takes them.
        target: `loihi` (Loihi 2), `loihi1`, `lava` (simulator only), or the path of a target file (docs/TARGETS.md).
        steps: window in time steps.
        backend: how neurons are built: `autapse` (reset by subtraction), `graded` (spikes carry numbers, one step), or
            in stock netx `population` (one step) or `zero-reset`.
        replicas: copies of a neuron that share an activation, for all layers or by name.
        weight_bits: 2..8.
        activation_bits: of `graded`, the bits that most of the numbers fit, 2..16; by default 8.
        per_layer: one threshold, and so one scale of the weights, for each layer instead of one for each channel.
        input: `graded` (signed 8-bit integers) or `rate` (spike trains of one bit).
        chips: how many chips the network may take.
        progress: called with the populations done and to do; True is a bar, False nothing.

    Returns:
        sizes, bounds, fidelity, losses and changes of the network in the file.

    Raises:
        UsageError: a path, an option or the images are wrong.
        FormatError: a network file or the labels are bad, or its network gives other answers than the file.
        UnsupportedError: parts of the network cannot be converted; all of them are named.
        RangeError: a number does not fit the target, or a label is no class of the network.
    """
    from nctool.exporting.network_names import require_trained
    from nctool.ir.inputs import find_encoding
    from nctool.running.arrays import LABELS, load_array, load_labels, name_of, path_of
    from nctool.running.images import are_images, read_images_alike
    from nctool.running.outputs import NETX, require_outputs
    from nctool_deploy.backends.backend import find_backend
    from nctool_deploy.targets.target import find_target

    output, chip, built_by = Path(output), find_target(target), find_backend(backend)
    encoding = find_encoding(input)
    require_chips(chips)
    own_target = target if str(target).endswith(".toml") else None
    file = Path(model) if isinstance(model, Path | str) else None
    if file is not None:
        require_trained(str(model))
    inputs = {"the model": file, "the images": path_of(images), "the target": own_target, "the labels": path_of(labels)}
    require_outputs(inputs, {"-o": (NETX, output)})
    files = path_of(images) if are_images(images) else None
    for path in (path_of(images) if files is None else None, path_of(labels)):
        if path is not None:
            load_array(path)

    from torch import Tensor

    from nctool.conversion.trace.prepare import require_torch_module
    from nctool.conversion.trace.restoring import restored
    from nctool.exporting.calibration_images import calibration_images
    from nctool.exporting.convert import exported
    from nctool.exporting.own_network import of_module, opened, require_labels
    from nctool.exporting.writing import write_network

    images = images.detach() if isinstance(images, Tensor) else images
    read = None if files is None else read_images_alike(files)
    array = load_array(images, "images") if read is None else read.pixels
    answers = None if labels is None else load_labels(labels, len(array), of_all=True)
    some = calibration_images(array, _floats(mean), _floats(std), answers)
    if read is not None:
        some = replace(some, notes=(*read.notes, *some.notes))
    progress(0, 1, "reading the network")
    network, some = opened(str(model), some) if isinstance(model, Path | str) else (model, some)
    chosen = _design(built_by, steps, replicas, weight_bits, encoding, per_layer, activation_bits)
    require_torch_module(network)
    with restored(network):  # the source shares its modules
        source = of_module(network, some) if files is None else _of_files(network, some)
        if some.labels is not None:
            require_labels(source, name_of(labels, LABELS), some.labels)
        result = exported(source, chosen, chip, chips, progress)
    layers = len(result.lowered.network.populations)
    progress(layers, layers, "running known inputs, and writing")
    write_network(output, result, source.pixels, _provenance(model, some), weight_bits)
    return ConvertReport(
        path=output,
        data_dir=None,
        images=len(some.fitted),
        held_out=some.holds_out,
        samples=some.kind,
        losses=result.conversion.losses,
        **sizes(result),
    )


def _of_files(network: nn.Module, images: CalibrationImages) -> Source:
    """Return a source as `of_module` does; an error says what to make of the files, which are taken as they are."""
    from nctool.exporting.own_network import of_module

    try:
        return of_module(network, images)
    except UsageError as error:
        taken = f"the files are taken as they are, {'x'.join(map(str, images.pixels.shape[1:]))}"
        raise UsageError(error.message, f"{taken}: make them grey or RGB, of the size that it takes") from error


def _floats(values: Sequence[float] | float | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    return (float(values),) if isinstance(values, int | float) else tuple(map(float, values))


def _design(
    backend: Backend,
    steps: int | None,
    replicas: Replicas | None,
    weight_bits: int,
    encoding: EncodingName,
    per_layer: bool,
    activation_bits: int | None,
) -> Design:
    """Return the design that is asked for."""
    from nctool.exporting.convert import Design, window_of

    if isinstance(replicas, str):
        raise UsageError(
            "replicas: `auto` is for a network that nctool trained, allowed K, or LAYER=K,...",
            hint="give a number of --replicas, or choose by layer from the losses that a conversion reports",
        )
    if replicas is None:
        replicas = backend.default_replicas(POPULATION_REPLICAS)
    n_steps = window_of(backend, steps, DEFAULT_STEPS)
    return Design(backend, n_steps, replicas, weight_bits, encoding, per_layer, activation_bits)


def _provenance(model: object, images: CalibrationImages) -> Provenance:
    from nctool_deploy.netx import Provenance

    return Provenance(
        model=Path(model).name if isinstance(model, Path | str) else type(model).__name__,
        input_mean=images.mean,
        input_std=images.std,
        samples=images.kind,
    )


# --- for people -------------------------------------------------------------------------------------------------------


def print_convert(report: ConvertReport) -> None:
    """Show what was converted, what each layer loses, and how big the network is."""
    print_network(report)
    fidelity = report.fidelity
    others = "other images" if report.held_out else "of the images that it was converted on"
    print_line(
        f"converted on {report.images} images; on {fidelity.images} {others}, {fidelity.same_as_ann:.1%} of the "
        "answers are the trained network's"
    )
    if fidelity.accuracy is not None:
        print_line(
            f"of the labels of these, {fidelity.accuracy.snn:.1%} are answered, {fidelity.accuracy.ann:.1%} by the "
            "trained network"
        )
    print_whole(f"wrote {report.path}")
    what = "pixels, uint8" if report.samples == "pixels" else "numbers as the trained network takes them"
    print_whole(f"next: nctool run-sim {quote(str(report.path))} --input X.npy   ({what})")


COMMAND = Command(convert, print_convert, title="converting")
