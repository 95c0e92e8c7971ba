"""open_model_file: a model that is prepared once and answers as often as it is called, for a program of your own.

In: a file. Out: a callable object: images in, logits out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.arguments import public
from nctool.errors import NctoolWarning
from nctool.fast.engine import FastEngine
from nctool.reference.trace import join_summaries
from nctool.running.arrays import Source, load_array, name_of
from nctool.running.model_file import ModelFile, model_path, open_model
from nctool.running.samples import image_samples
from nctool_deploy.foreign import ForeignOptions


class OpenModel:
    """A model on the fast engine, ready to be called.

    A network of another tool takes its window and the range of its input from the samples: it is prepared anew for each
    call.

    Args:
        path: the file.
        content: its content.
        device: `cpu` or `cuda`.
    """

    def __init__(self, path: Path, content: ModelFile, device: str) -> None:
        self._path, self._content, self._device = path, content, device
        self._engine = FastEngine(content.network, device=device)

    def __repr__(self) -> str:
        """Return in a line what it takes and gives, its window, and which kernels run."""
        network, device = self._content.network, self._engine.device.type
        shape = "x".join(map(str, network.input.sample_shape))
        gives = f"{network.readout.n_neurons} {'classes' if self._content.is_classifier else 'outputs'}"
        kernels = " / ".join(dict.fromkeys(self.kernels.values()))
        sizes = f"{self._takes()} {shape} -> {gives}, T={network.n_steps}"
        return f"OpenModel({str(self._path)!r}: {sizes}, {device}, kernels {kernels})"

    @property
    def kernels(self) -> Mapping[str, str]:
        """Return which kernels run, by layer, as `RunReport.kernels` does."""
        return self._engine.kernels

    def _takes(self) -> str:
        """Return what a sample consists of."""
        if not self._content.is_classifier:
            return "integers"
        provenance = self._content.provenance
        return "pixels" if provenance is None else provenance.samples

    def __call__(self, images: Source) -> NDArray[np.int64]:
        """Return the logits of some images after the whole window, int64 (samples, classes).

        Args:
            images: an array, a .npy file, an image file or a folder of such, as `nctool.run_sim` takes for `input`. A
                warning says what was changed in image files.

        Raises:
            UsageError, FormatError, RangeError: there is no such file, or the images do not fit the network.
        """
        files = image_samples(self._content, images)
        for note in () if files is None else files.notes:
            warnings.warn(NctoolWarning(note), stacklevel=2)
        values = load_array(images, "images") if files is None else files.pixels
        content, samples = self._content.fit(values, name_of(images, "images"))
        engine = self._engine
        if content is not self._content:
            engine = FastEngine(content.network, device=self._device)
        return join_summaries(engine.summaries(samples)).logits[:, -1]


@public
def open_model_file(model: Path | str, *, device: str = "cpu") -> OpenModel:
    """Open an exported network, or a netx file of another tool, to be called with images.

    Args:
        model: the file, or `zoo:NAME`.
        device: `cpu` or `cuda`.

    Returns:
        an object that is called with images and returns logits; see `OpenModel`.

    Raises:
        UsageError, FormatError, UnsupportedError, RangeError: see `nctool.errors`.
    """
    path = model_path(model)
    return OpenModel(path, open_model(path, ForeignOptions()), device)
