"""Training: from a recipe's model and images to a checkpoint that conversion can start from.

    fit(model, data, recipe, out_dir) -> TrainResult        loop · optimiser · augment
                                                            execution: precision, determinism, memory format
                                                            first_thresholds: θ from data, before the first epoch
    input_coding(normalisation, recipe) -> InputCoding      coding
    measure_held_out(...) -> HeldOutReport                  noise · chip: σ of each layer, once for each epoch
    snn_accuracy(...), ann_accuracy(...)                    spiking
    save_checkpoint(...), load_checkpoint(path)             checkpoint · state (to resume) · tensor_file

May import of nctool what stands below it: conversion and the fast engine measure noise on the integer network.
Nothing of models or deploy.
"""

from nctool.training.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nctool.training.images.coding import InputCoding, input_coding
from nctool.training.images.data import LabelledImages, Normalisation, TrainingData
from nctool.training.loop import fit
from nctool.training.metrics import EpochCallback, EpochMetrics, no_report
from nctool.training.noise import HeldOutReport, measure_held_out
from nctool.training.result import TrainResult
from nctool.training.spiking import REPORTED_STEPS, ann_accuracy, snn_accuracy

__all__ = [
    "REPORTED_STEPS",
    "Checkpoint",
    "EpochCallback",
    "EpochMetrics",
    "HeldOutReport",
    "InputCoding",
    "LabelledImages",
    "Normalisation",
    "TrainResult",
    "TrainingData",
    "ann_accuracy",
    "fit",
    "input_coding",
    "load_checkpoint",
    "measure_held_out",
    "no_report",
    "save_checkpoint",
    "snn_accuracy",
]
