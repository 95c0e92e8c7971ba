"""Accuracy of a network: as the noise-free ANN, and as a float spiking network after 1, 2, 4, 8, 16 steps.

In: a model and a split. Out: fractions of images classified correctly. One pass of 16 steps gives all windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nctool.activation.noisy_quant import in_mode
from nctool.progress import ProgressCallback, no_progress
from nctool.training.images.data import LabelledImages
from nctool.training.images.encoding import ImageEncoding
from nctool.training.processes import ALONE, Processes

REPORTED_STEPS = (1, 2, 4, 8, 16)
"""The windows that accuracy is reported for, as in Huang et al., arXiv 2404.17456."""
MEASURED_AT_ONCE = 250
"""Most images of a batch that is measured."""


def ann_accuracy(
    model: nn.Module,
    split: LabelledImages,
    encoding: ImageEncoding,
    processes: Processes = ALONE,
    *,
    batch_size: int = MEASURED_AT_ONCE,
) -> float:
    """Return the fraction of `split` that the noise-free ANN classifies correctly; the model's mode is kept.

    `processes` share the work; each gets the same answer.
    """
    was_training = model.training
    model.eval()
    correct = 0
    with torch.no_grad():
        for batch in processes.own(split.batches(batch_size)):
            correct += n_correct(model(encoding(batch.images)), batch.labels)
    model.train(was_training)
    return processes.sums([correct])[0] / len(split)


def snn_accuracy(
    model: nn.Module,
    split: LabelledImages,
    encoding: ImageEncoding,
    steps: Sequence[int] = REPORTED_STEPS,
    processes: Processes = ALONE,
    progress: ProgressCallback = no_progress,
    *,
    batch_size: int = MEASURED_AT_ONCE,
    replicas: int = 1,
) -> dict[int, float]:
    """Return the accuracy of the spiking network for several windows.

    Args:
        model: a network with `NoisyQuantReLU` activations; its mode is kept.
        split: the images.
        encoding: from pixels to what the network sees at each step.
        steps: windows in time steps, ≥ 1.
        processes: those that share the work; each gets the same answer.
        progress: called after every batch of this process.
        batch_size: images that are run at once.
        replicas: neurons for each activation.

    Returns:
        accuracy 0..1 by number of steps, from the running sum of the logits.
    """
    correct = dict.fromkeys(sorted(steps), 0)
    batches = list(processes.own(split.batches(batch_size)))
    for number, batch in enumerate(batches, start=1):
        logits = torch.zeros((), device=batch.images.device)
        with in_mode(model, "spiking", replicas=replicas):
            for step, images in enumerate(encoding.steps(batch.images, max(steps)), start=1):
                logits = logits + model(images)
                if step in correct:
                    correct[step] += n_correct(logits, batch.labels)
        progress(number, len(batches), f"measuring {len(split):,} images")
    counts = processes.sums(list(correct.values()))
    return {step: count / len(split) for step, count in zip(correct, counts, strict=True)}


def n_correct(logits: Tensor, labels: Tensor) -> int:
    """Count the rows of `logits` (N, classes) whose first largest value is at the label (N,)."""
    return int((logits.argmax(dim=1) == labels).sum())
