"""The images that the plain ReLU networks are trained and measured on.

In: the name of a network. Out: its data set; and the same with its images in a drawn order.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nctool_models import load_dataset
from nctool_models.datasets.dataset import Dataset


def images_of(name: str, cifar10: str, data_dir: Path | None) -> Dataset:
    """Return the data set of a network.

    Args:
        cifar10: name of a data set, or path of its .npz, for networks of CIFAR-10.
    """
    if name.startswith("digits"):
        return load_dataset("digits")
    return load_dataset("mnist" if name.startswith("lenet") else cifar10, data_dir)


def drawn(data: Dataset, n_images: int) -> Dataset:
    """Put images in a drawn order and keep `n_images` of the test images: some files are sorted by class."""
    train, test = (np.random.default_rng(0).permutation(len(labels)) for labels in (data.y_train, data.y_test))
    return replace(
        data,
        x_train=data.x_train[train],
        y_train=data.y_train[train],
        x_test=data.x_test[test[:n_images]],
        y_test=data.y_test[test[:n_images]],
    )
