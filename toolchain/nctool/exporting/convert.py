"""What an export is asked for, and the conversion of a checkpoint to it.

In: a checkpoint and a design. Out: a Conversion, or a whole Exported network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nctool.conversion import Conversion, IntegerFormat, Units, convert
from nctool.conversion.fidelity import Fidelity, measure_fidelity
from nctool.errors import RangeError
from nctool.ir.inputs import Coding
from nctool.progress import ProgressCallback, no_progress
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool.training.images.encoding import Normalisation, image_encoding
from nctool_deploy.backends.backend import DEFAULT, Realisation, realisation_of_reset
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.targets.target import Target

WEIGHT_BITS = 8
"""Of a network that was trained for no width."""


@dataclass(frozen=True)
class Design:
    """Choices that make one integer network out of a checkpoint.

    Args:
        realisation: how neurons are built.
        n_steps: window in time steps.
        units: neurons that share an activation, for all layers or by name.
        weight_bits: 2..8.
        coding: of the input.
        per_layer: one threshold for a layer, where the realisation could hold one for each channel.
    """

    realisation: Realisation
    n_steps: int
    units: Units
    weight_bits: int
    coding: Coding
    per_layer: bool = False

    @property
    def form(self) -> IntegerFormat:
        """Return the integers that the network may hold."""
        form = self.realisation.form
        return replace(form, weight_bits=self.weight_bits, one_threshold=form.one_threshold or self.per_layer)


def design(
    loaded: Checkpoint,
    realisation: Realisation,
    steps: int | None,
    units: Units | None,
    weight_bits: int | None,
    coding: Coding | None,
    per_layer: bool = False,
) -> Design:
    """Fill in what was not asked for: the recipe's window and coding, units and weight bits of its chip.

    Of a network that was fine-tuned, window and weight bits are those of `[finetune]`; the window is the longest.
    Without a chip in the recipe, or with another realisation, it is one unit, or as many as levels in one step;
    without either table, 8 bits.

    Raises:
        RangeError: the realisation has another window.
    """
    return Design(
        realisation=realisation,
        n_steps=_window(loaded, realisation, steps),
        units=_units(loaded, realisation, units),
        weight_bits=_weight_bits(loaded) if weight_bits is None else weight_bits,
        coding=loaded.recipe.input.coding if coding is None else coding,
        per_layer=per_layer,
    )


def converted(
    loaded: Checkpoint, model: nn.Module, design: Design, progress: ProgressCallback = no_progress
) -> Conversion:
    """Convert `model`, the network of `loaded`, to integers that the realisation can hold.

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
        form=design.form,
        n_steps=design.n_steps,
        calibration=loaded.calibration_images,
        units=design.units,
        input=design.coding,
        progress=progress,
    )


@dataclass(frozen=True)
class Exported:
    """A network that fits a target, and how it came to be.

    Args:
        conversion: with changes and notes of the comparison too.
        lowered: what is written.
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
    lowered = lower(conversion.network, target, design.realisation.name, chips)
    progress(layers, layers, "comparing with the float network")
    fidelity = measure_fidelity(conversion, loaded.calibration_images, partial(ann_logits, loaded, model))
    notes = (*notes_of(loaded, design.realisation), *conversion.notes, *fidelity.notes(conversion))
    conversion = replace(conversion, changes=(*conversion.changes, *fidelity.changes), notes=notes)
    return Exported(conversion, lowered, fidelity)


def ann_logits(loaded: Checkpoint, model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what the noise-free ANN says of uint8 images (N, C, H, W): float64 (N, classes)."""
    encoding = image_encoding(Normalisation(loaded.mean, loaded.std), loaded.recipe)
    with torch.no_grad():
        logits = model.eval()(encoding(torch.from_numpy(images)))
    return np.asarray(logits, np.float64)


def default_realisation(loaded: Checkpoint) -> str:
    """Return the realisation that a network was trained for: that of its chip, or of its activation's reset."""
    recipe = loaded.recipe
    return realisation_of_reset(recipe.activation.reset).name if recipe.chip is None else recipe.chip.realisation


def notes_of(loaded: Checkpoint, realisation: Realisation) -> tuple[str, ...]:
    """Return what of a realisation is likely to cost accuracy: a reset that the network was not trained for."""
    trained, exported = loaded.recipe.activation.reset, realisation.form.reset
    if exported == trained:
        return ()
    return (
        f'trained with activation.reset = "{trained}", but a spike of `{realisation.name}` '
        f"{'sets to zero' if exported == 'zero' else 'subtracts'}: expect to lose accuracy; train for it, or "
        f"export with --backend {realisation_of_reset(trained).name}",
    )


def _weight_bits(loaded: Checkpoint) -> int:
    recipe = loaded.recipe
    trained_for = recipe.finetune or recipe.chip
    return WEIGHT_BITS if trained_for is None else trained_for.weight_bits


def _window(loaded: Checkpoint, realisation: Realisation, steps: int | None) -> int:
    if steps is None:
        finetune = loaded.recipe.finetune
        return realisation.steps or (max(finetune.steps) if finetune else loaded.recipe.noise.steps)
    if realisation.steps not in (None, steps):
        raise RangeError(
            f"steps: {steps}, backend `{realisation.name}` allows {realisation.steps}",
            hint=f"leave out --steps, or export with --backend {DEFAULT.name}",
        )
    return steps


def _units(loaded: Checkpoint, realisation: Realisation, units: Units | None) -> Units:
    chip = loaded.recipe.chip
    if units is None and chip is not None and chip.realisation == realisation.name:
        return chip.units
    if units is None:
        return realisation.default_units(loaded.recipe.activation.levels)
    return units
