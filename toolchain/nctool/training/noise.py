"""Measure how far each layer's spike rate is from its quantised activation: the noise of the next epoch.

In: a model, the held-out split, the window T_val, and the integer network if the noise is to be that of a chip.
Out: σ for each layer, and the accuracies of the same pass.
Source: Huang et al., arXiv 2404.17456.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.ir.network import IntNetwork
from nctool.training.accuracy import MEASURED_AT_ONCE, n_correct
from nctool.training.chip import ChipRun
from nctool.training.images.data import LabelledImages
from nctool.training.images.encoding import ImageEncoding
from nctool.training.processes import ALONE, Processes

MAX_IMAGES = 5000
"""Most held-out images that one estimate uses: σ is known to 1 % far earlier."""

MAX_CHIP_IMAGES = 1000
"""The same where every batch also runs on the integer network."""

_MIN_IMAGES = 256
_SHARE = 0.03
"""One estimate takes this share of the forward passes that an epoch is worth; measured, up to 4 % of its time."""
_PASSES_OF_TRAINING = 3
"""A backward pass costs two forward passes."""


@dataclass(frozen=True)
class HeldOutReport:
    """The results of one pass over the held-out images.

    Attributes:
        sigma: standard deviation of gap_l by layer name, in units of the layer's pre-activation.
        accuracy_ann: of the noise-free ANN, 0..1.
        accuracy_snn: of the spiking network that σ was measured on after T_val steps, 0..1.
    """

    sigma: dict[str, float]
    accuracy_ann: float
    accuracy_snn: float


def measure_held_out(
    model: nn.Module,
    split: LabelledImages,
    encoding: ImageEncoding,
    n_steps: int,
    network: IntNetwork | None = None,
    processes: Processes = ALONE,
    *,
    batch_size: int = MEASURED_AT_ONCE,
) -> HeldOutReport:
    """Run ANN and spiking network side by side and measure their gap in each layer.

    gap_l = q_l − θ_l·r_l with r_l the spikes of an activation divided by T_val, and by its replicas; of channels
    that have thresholds of their own, both in units of their ratio. Every layer sees the spiking network's own upstream
    errors. σ_l = sqrt(Var(gap_l)), over all elements of all images.

    Args:
        model: a network with `NoisyQuantReLU` activations; its mode is kept.
        split: the held-out images; the first `MAX_IMAGES` are used, or `MAX_CHIP_IMAGES` with `network`.
        encoding: from pixels to the network's input.
        n_steps: T_val, ≥ 1.
        network: the integer network converted from `model` for T_val steps, in place of its float spiking network.
        processes: those that share the batches; each gets the same answer.
        batch_size: images that are run at once.

    Raises:
        UnsupportedError: an activation of `model` is used twice, so that no population of `network` is its own.
    """
    split = split.first(MAX_IMAGES if network is None else MAX_CHIP_IMAGES)
    chip = None if network is None else ChipRun.prepare(network, model)
    was_training = model.training
    model.eval()
    layers = activations(model)
    moments: list[Tensor] = []
    correct_ann = correct_snn = 0
    with torch.no_grad(), _Recorder(model) as recorder:
        for batch in processes.own(split.batches(batch_size)):
            correct_ann += n_correct(model(encoding(batch.images)), batch.labels)
            quantised = recorder.take()
            if chip is None:
                logits = _spiking_logits(model, encoding.steps(batch.images, n_steps))
                spiked = {name: sums / n_steps for name, sums in recorder.take().items()}
            else:
                logits, spiked = chip.run(batch.images, quantised)
            correct_snn += n_correct(logits, batch.labels)
            moments.append(_moments(quantised, spiked, list(layers)))
    model.train(was_training)
    whole = torch.stack(processes.in_order(moments)).double()
    sizes = torch.tensor([len(labels) for labels in split.labels.split(batch_size)], device=whole.device)
    sigma = {name: _deviation(of_layer, sizes) for name, of_layer in zip(layers, whole.unbind(1), strict=True)}
    correct_ann, correct_snn = processes.sums([correct_ann, correct_snn])
    return HeldOutReport(sigma, correct_ann / len(split), correct_snn / len(split))


def _moments(quantised: Mapping[str, Tensor], spiked: Mapping[str, Tensor], layers: Sequence[str]) -> Tensor:
    """Return variance and mean of the gap of each layer, (layers, 2); `quantised` is changed in place."""
    gaps = (quantised[name].sub_(spiked[name]) for name in layers)
    return torch.stack([torch.stack(torch.var_mean(gap, correction=0)) for gap in gaps])


def _deviation(moments: Tensor, sizes: Tensor) -> float:
    """Return the standard deviation over all batches, from variance and mean (batches, 2) and images of each batch."""
    variances, means = moments.unbind(1)
    shares = sizes.double() / sizes.sum()
    return float((shares * (variances + (means - (shares * means).sum()).square())).sum().sqrt())


def affordable_images(n_train: int, n_steps: int) -> int:
    """Return how many images may be measured in 3 % of the work of an epoch of `n_train`; a few hundred at least.

    Each costs a forward pass of the ANN and one for each time step.
    """
    affordable = int(_SHARE * _PASSES_OF_TRAINING * n_train / (1 + n_steps))
    return min(max(affordable, _MIN_IMAGES), MAX_IMAGES)


def set_sigma(model: nn.Module, sigma: dict[str, float]) -> None:
    """Write σ into the activations by layer name."""
    layers = activations(model)
    for name, value in sigma.items():
        layers[name].sigma.fill_(value)


def _spiking_logits(model: nn.Module, steps: Iterator[Tensor]) -> Tensor:
    with in_mode(model, "spiking"):
        logits: Tensor = model(next(steps))
        for images in steps:
            logits = logits + model(images)
    return logits


class _Recorder:
    """Adds up the outputs of each activation, in units of its θ, call by call, until the sums are taken."""

    def __init__(self, model: nn.Module) -> None:
        self._sums: dict[str, Tensor] = {}
        self._handles = [layer.register_forward_hook(self._hook(name)) for name, layer in activations(model).items()]

    def take(self) -> dict[str, Tensor]:
        """Return the sums by layer name, in order of execution, and start anew."""
        sums, self._sums = self._sums, {}
        return sums

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[[NoisyQuantReLU, tuple[Tensor, ...], Tensor], None]:
        def add(layer: NoisyQuantReLU, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values = layer.in_units_of_theta(output)
            self._sums[name] = self._sums[name] + values if name in self._sums else values.clone()

        return add
