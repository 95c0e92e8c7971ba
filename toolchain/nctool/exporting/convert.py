"""Design an integer network for a checkpoint, convert to it, and place it on a target.

In: a checkpoint and options. Out: a Design; a Conversion; an Exported network with its registers and cores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nctool.conversion import Conversion, IntegerFormat, Replicas, convert
from nctool.conversion.fidelity import Fidelity, measure_fidelity
from nctool.errors import RangeError
from nctool.ir.inputs import EncodingName
from nctool.progress import ProgressCallback, no_progress
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool.training.images.encoding import Normalisation, image_encoding
from nctool_deploy.backends.backend import DEFAULT, Backend, backend_of_reset
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
    """

    backend: Backend
    n_steps: int
    replicas: Replicas
    weight_bits: int
    encoding: EncodingName
    per_layer: bool = False

    @property
    def number_format(self) -> IntegerFormat:
        """Return the integers that the network may hold."""
        number_format = self.backend.number_format
        return replace(
            number_format, weight_bits=self.weight_bits, one_threshold=number_format.one_threshold or self.per_layer
        )


def design(
    loaded: Checkpoint,
    backend: Backend,
    steps: int | None,
    replicas: Replicas | None,
    weight_bits: int | None,
    encoding: EncodingName | None,
    per_layer: bool = False,
) -> Design:
    """Return the design that is asked for; what is None follows from the recipe.

    The window is that of the backend where it has only one; else the longest of `[finetune]`; else `noise.steps`. The
    replicas are those of `[chip]` where it has the same backend; else the backend's own default. The weight bits are
    those of `[finetune]`; else of `[chip]`; else 8. The encoding is that of `[input]`.

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
    )


def converted(
    loaded: Checkpoint, model: nn.Module, design: Design, progress: ProgressCallback = no_progress
) -> Conversion:
    """Convert `model`, the network of `loaded`, to integers that the backend can hold.

    Args:
        progress: called with the populations done and to do.

    Raises:
        UsageError, UnsupportedError, RangeError: as `nctool.conversion.convert`.
    """
    return convert(
        model,
        input_shape=loaded.input_shape,
        mean=loaded.mean,
        std=loaded.std,
        number_format=design.number_format,
        n_steps=design.n_steps,
        calibration=loaded.calibration_images,
        replicas=design.replicas,
        input=design.encoding,
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


def exported(
    loaded: Checkpoint, model: nn.Module, design: Design, target: Target, chips: int, progress: ProgressCallback
) -> Exported:
    """Convert a checkpoint, place it on a target, and compare it with the float network on calibration images.

    Raises:
        UsageError, UnsupportedError, RangeError: as `nctool.conversion.convert`, or a limit of the target is passed.
    """
    conversion = converted(loaded, model, design, progress)
    layers = len(conversion.network.populations)
    progress(layers, layers, "placing neurons on cores")
    lowered = lower(conversion.network, target, design.backend.name, chips)
    progress(layers, layers, "comparing with the float network")
    fidelity = measure_fidelity(conversion, loaded.calibration_images, partial(ann_logits, loaded, model))
    notes = (*notes_of(loaded, design.backend), *conversion.notes, *fidelity.notes(conversion))
    conversion = replace(conversion, changes=(*conversion.changes, *fidelity.changes), notes=notes)
    return Exported(conversion, lowered, fidelity)


def ann_logits(loaded: Checkpoint, model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the logits of the noise-free ANN on uint8 images (N, C, H, W): float64 (N, classes)."""
    encoding = image_encoding(Normalisation(loaded.mean, loaded.std), loaded.recipe)
    with torch.no_grad():
        logits = model.eval()(encoding(torch.from_numpy(images)))
    return np.asarray(logits, np.float64)


def default_backend(loaded: Checkpoint) -> str:
    """Return the backend that a network was trained for: that of its chip, or of its activation's reset."""
    recipe = loaded.recipe
    return backend_of_reset(recipe.activation.reset).name if recipe.chip is None else recipe.chip.backend


def notes_of(loaded: Checkpoint, backend: Backend) -> tuple[str, ...]:
    """Return a note where the reset of a backend is not the one that the network was trained for."""
    trained, exported = loaded.recipe.activation.reset, backend.number_format.reset
    if exported == trained:
        return ()
    return (
        f'trained with activation.reset = "{trained}", but a spike of `{backend.name}` '
        f"{'sets to zero' if exported == 'zero' else 'subtracts'}: expect to lose accuracy; train for it, or "
        f"export with --backend {backend_of_reset(trained).name}",
    )


def _weight_bits(loaded: Checkpoint) -> int:
    recipe = loaded.recipe
    trained_for = recipe.finetune or recipe.chip
    return WEIGHT_BITS if trained_for is None else trained_for.weight_bits


def _window(loaded: Checkpoint, backend: Backend, steps: int | None) -> int:
    if steps is None:
        finetune = loaded.recipe.finetune
        return backend.steps or (max(finetune.steps) if finetune else loaded.recipe.noise.steps)
    if backend.steps not in (None, steps):
        raise RangeError(
            f"steps: {steps}, backend `{backend.name}` allows {backend.steps}",
            hint=f"leave out --steps, or export with --backend {DEFAULT.name}",
        )
    return steps


def _replicas(loaded: Checkpoint, backend: Backend, replicas: Replicas | None) -> Replicas:
    chip = loaded.recipe.chip
    if replicas is None and chip is not None and chip.backend == backend.name:
        return chip.replicas
    if replicas is None:
        return backend.default_replicas(loaded.recipe.activation.levels)
    return replicas
