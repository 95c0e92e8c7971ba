"""Training: from a recipe's model and images to a checkpoint that conversion can start from.

    fit(model, data, recipe, out_dir) -> TrainReport        loop · epochs · stages · optimiser · result
    image_encoding(normalisation, recipe) -> ImageEncoding  images: from pixels to what the network reads
    measure_held_out(...) -> HeldOutReport                  noise · chip: σ of each layer, once for each epoch
    snn_accuracy(...), ann_accuracy(...)                    accuracy
    save_checkpoint(...), load_checkpoint(path)             checkpoints

It imports conversion and the fast engine, to measure noise on the integer network, and nothing of models or deploy. Its
names are loaded when they are first used: the names of files and the numbers of epochs need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nctool.lazy import lazy_names

if TYPE_CHECKING:
    from nctool.training.accuracy import REPORTED_STEPS, ann_accuracy, snn_accuracy
    from nctool.training.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from nctool.training.images.data import LabelledImages, TrainingData
    from nctool.training.images.encoding import ImageEncoding, Normalisation, image_encoding
    from nctool.training.loop import fit
    from nctool.training.metrics import EpochCallback, EpochMetrics
    from nctool.training.noise import HeldOutReport, measure_held_out
    from nctool.training.result import TrainReport

__all__ = [
    "REPORTED_STEPS",
    "Checkpoint",
    "EpochCallback",
    "EpochMetrics",
    "HeldOutReport",
    "ImageEncoding",
    "LabelledImages",
    "Normalisation",
    "TrainReport",
    "TrainingData",
    "ann_accuracy",
    "fit",
    "image_encoding",
    "load_checkpoint",
    "measure_held_out",
    "save_checkpoint",
    "snn_accuracy",
]

__getattr__ = lazy_names(
    __name__,
    {
        "accuracy": "REPORTED_STEPS ann_accuracy snn_accuracy",
        "checkpoints.checkpoint": "Checkpoint load_checkpoint save_checkpoint",
        "images.data": "LabelledImages TrainingData",
        "images.encoding": "ImageEncoding Normalisation image_encoding",
        "loop": "fit",
        "metrics": "EpochCallback EpochMetrics",
        "noise": "HeldOutReport measure_held_out",
        "result": "TrainReport",
    },
)
