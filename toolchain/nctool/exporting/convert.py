"""Design an integer network, convert to it, and place it on a target.

In: a network and options. Out: a Design; a Conversion; an Exported network with its registers and cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nctool.conversion import Conversion, IntegerFormat, Replicas, convert
from nctool.conversion.fidelity import WORK, Fidelity, measure_fidelity
from nctool.errors import RangeError, UsageError
from nctool.ir.inputs import EncodingName
from nctool.ir.network import Shape
from nctool.progress import ProgressCallback, no_progress
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool.training.images.encoding import Normalisation, image_encoding
from nctool_deploy.backends.backend import DEFAULT, Backend, backend_of_reset
from nctool_deploy.backends.graded import Graded
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.targets.target import Target

WEIGHT_BITS = 8
"""The width of the weights where the training did not choose one."""


@dataclass(frozen=True)
class Design:
    """Choices that make one integer network out of a checkpoint.

    Args:
        backend: how neurons are built.
        n_steps: window in time steps.
        replicas: neurons that share an activation, for all layers or by name.
        weight_bits: 2..8.
        encoding: of the input.
        per_layer: one threshold for a layer, where the backend could hold one for each channel.
        activation_bits: that most graded spikes fit; None for the backend's own.

    Raises:
        UsageError: bits of activations for a backend whose spikes carry none, or bits out of range.
    """

    backend: Backend
    n_steps: int
    replicas: Replicas
    weight_bits: int
    encoding: EncodingName
    per_layer: bool = False
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        if self.activation_bits is not None and not self.backend.number_format.is_graded:
            raise UsageError(
                f"activation bits: {self.activation_bits}, a spike of backend `{self.backend.name}` carries no number",
                hint="leave out --activation-bits, or give --backend graded",
            )

    @property
    def number_format(self) -> IntegerFormat:
        """Return the integers that the network may hold."""
        number_format = self.backend.number_format
        return replace(
            number_format,
            weight_bits=self.weight_bits,
            one_threshold=number_format.one_threshold or self.per_layer,
            activation_bits=number_format.activation_bits if self.activation_bits is None else self.activation_bits,
        )


def design(
    loaded: Checkpoint,
    backend: Backend,
    steps: int | None,
    replicas: Replicas | None,
    weight_bits: int | None,
    encoding: EncodingName | None,
    per_layer: bool = False,
    activation_bits: int | None = None,
) -> Design:
    """Return the design that is asked for; what is None follows from the recipe.

    The window is that of the backend where it has only one; else the longest of `[finetune]`; else `noise.steps`. The
    replicas are those of `[finetune]` where it says any, or several, and the backend has replicas; else of `[chip]`
    where it has the same backend; else the backend's own default. The weight bits are those of `[finetune]`; else of
    `[chip]`; else 8. The encoding is that of `[input]`.

    Raises:
        RangeError: the backend has another window.
    """
    return Design(
        backend=backend,
        n_steps=_window(loaded, backend, steps),
        replicas=_replicas(loaded, backend, replicas),
        weight_bits=_weight_bits(loaded) if weight_bits is None else weight_bits,
        encoding=loaded.recipe.input.encoding if encoding is None else encoding,
        per_layer=per_layer,
        activation_bits=_activation_bits(loaded, backend) if activation_bits is None else activation_bits,
    )


@dataclass(frozen=True)
class Source:
    """A network of floats, and what is known of its input.

    Args:
        model: of `NoisyQuantReLU` or `Rectifier` activations, in evaluation mode.
        input_shape: of one sample, as the network of integers takes it.
        mean, std: of the input, in units of pixel / 255.
        pixels: uint8 (samples, *input_shape), for calibration.
        compared: the same, on which the integers are compared with it.
        logits: gives those of the noise-free ANN, float64 (samples, classes), for such pixels.
        work: connections that the comparison may compute.
        labels: class numbers of `compared`, int64 (samples,), to tell the accuracy; None where they are not known.
        notes: what is likely to cost accuracy, known before it is converted.
        fixed: names of modules whose weights stay as trained.
    """

    model: nn.Module
    input_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: NDArray[np.uint8]
    compared: NDArray[np.uint8]
    logits: Callable[[NDArray[np.uint8]], NDArray[np.float64]]
    work: int = WORK
    labels: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    fixed: frozenset[str] = frozenset()


def of_checkpoint(loaded: Checkpoint, model: nn.Module, backend: Backend) -> Source:
    """Return the network of a checkpoint, `model` with its weights."""
    return Source(
        model=model,
        input_shape=loaded.input_shape,
        mean=loaded.mean,
        std=loaded.std,
        pixels=loaded.calibration_images,
        compared=loaded.calibration_images,
        logits=partial(ann_logits, loaded, model),
        notes=notes_of(loaded, backend),
    )


def converted(source: Source, design: Design, progress: ProgressCallback = no_progress) -> Conversion:
    """Convert a network to integers that the backend can hold.

    Args:
        progress: called with the populations done and to do.

    Raises:
        UsageError, UnsupportedError, RangeError: as `nctool.conversion.convert`.
    """
    return convert(
        source.model,
        input_shape=source.input_shape,
        mean=source.mean,
        std=source.std,
        number_format=design.number_format,
        n_steps=design.n_steps,
        calibration=source.pixels,
        replicas=design.replicas,
        input=design.encoding,
        fixed=source.fixed,
        progress=progress,
    )


@dataclass(frozen=True)
class Exported:
    """A network that fits a target, and how it came to be.

    Args:
        conversion: its changes and notes include those of the comparison.
        lowered: the network to be written.
        fidelity: how far spikes and answers are those of the float network.
    """

    conversion: Conversion
    lowered: Lowered
    fidelity: Fidelity


def exported(source: Source, design: Design, target: Target, chips: int, progress: ProgressCallback) -> Exported:
    """Convert a network, place it on a target, and compare it with the float network on calibration images.

    Raises:
        UsageError, UnsupportedError, RangeError: as `nctool.conversion.convert`, or a limit of the target is passed.
    """
    conversion = converted(source, design, progress)
    layers = len(conversion.network.populations)
    progress(layers, layers, "placing neurons on cores")
    lowered = lower(conversion.network, target, design.backend.name, chips)
    progress(layers, layers, "comparing with the float network")
    fidelity = measure_fidelity(conversion, source.compared, source.logits, source.work, source.labels)
    notes = (*source.notes, *conversion.notes, *fidelity.notes(conversion))
    conversion = replace(conversion, changes=(*conversion.changes, *fidelity.changes), notes=notes)
    return Exported(conversion, lowered, fidelity)


def ann_logits(loaded: Checkpoint, model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the logits of the noise-free ANN on uint8 images (N, C, H, W): float64 (N, classes)."""
    encoding = image_encoding(Normalisation(loaded.mean, loaded.std), loaded.recipe)
    with torch.no_grad():
        logits = model.eval()(encoding(torch.from_numpy(images)))
    return np.asarray(logits, np.float64)


def default_backend(loaded: Checkpoint) -> str:
    """Return the backend that a network was trained for: `graded`, that of its chip, or of its activation's reset."""
    recipe = loaded.recipe
    if recipe.finetune is not None and recipe.finetune.activation_bits is not None:
        return Graded.name
    return backend_of_reset(recipe.activation.reset).name if recipe.chip is None else recipe.chip.backend


def notes_of(loaded: Checkpoint, backend: Backend) -> tuple[str, ...]:
    """Return a note where the reset of a backend is not the one that the network was trained for."""
    trained, exported = loaded.recipe.activation.reset, backend.number_format.reset
    if exported == trained:
        return ()
    return (
        f'trained with activation.reset = "{trained}", but a spike of `{backend.name}` '
        f"{'sets to zero' if exported == 'zero' else 'subtracts'}: expect to lose accuracy; train for it, or "
        f"use --backend {backend_of_reset(trained).name}",
    )


def _activation_bits(loaded: Checkpoint, backend: Backend) -> int | None:
    """Return the bits that a network was trained for, where the backend has any."""
    finetune = loaded.recipe.finetune
    return finetune.activation_bits if finetune is not None and backend.number_format.is_graded else None


def _weight_bits(loaded: Checkpoint) -> int:
    recipe = loaded.recipe
    trained_for = recipe.finetune or recipe.chip
    return WEIGHT_BITS if trained_for is None else trained_for.weight_bits


def _window(loaded: Checkpoint, backend: Backend, steps: int | None) -> int:
    finetune = loaded.recipe.finetune
    return window_of(backend, steps, max(finetune.steps) if finetune else loaded.recipe.noise.steps)


def window_of(backend: Backend, steps: int | None, default: int) -> int:
    """Return the window: that which is asked for; else the only one of the backend, or the default.

    Raises:
        RangeError: the backend has another one.
    """
    if steps is None:
        return backend.steps or default
    if backend.steps not in (None, steps):
        raise RangeError(
            f"steps: {steps}, backend `{backend.name}` allows {backend.steps}",
            hint=f"leave out --steps, or use --backend {DEFAULT.name}",
        )
    return steps


def _replicas(loaded: Checkpoint, backend: Backend, replicas: Replicas | None) -> Replicas:
    if replicas is not None:
        return replicas
    chip, finetune, number_format = loaded.recipe.chip, loaded.recipe.finetune, backend.number_format
    has_replicas = number_format.reset == "subtract" and not number_format.is_graded
    if finetune is not None and has_replicas and (finetune.replicas > 1 or "replicas" in finetune.model_fields_set):
        return finetune.replicas
    if chip is not None and chip.backend == backend.name:
        return chip.replicas
    return backend.default_replicas(loaded.recipe.activation.levels)
