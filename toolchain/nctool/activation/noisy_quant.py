"""The noisy quantised activation, and the spiking neuron that it stands for.

In: real pre-activations. Out: activations on a grid of `levels` steps (plus noise while training), or
the spikes of an integrate-and-fire neuron. The arithmetic of the activation is in `staircase`, that of a whole window
in `surrogate`.

For a tracer `NoisyQuantReLU` is a leaf: its forward pass depends on the mode and on state.
Source: Huang et al., arXiv 2404.17456.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from nctool.activation.staircase import Noise, Rows, activate
from nctool.activation.surrogate import Reset, integrate_and_fire
from nctool.errors import RangeError, UsageError

MAX_LEVELS = 64
"""Most quantisation levels: as many as the longest window that a recipe may ask for."""


LARGEST_SHIFT = 0.5
"""Beyond, a neuron would start below 0, or with a spike."""

Mode = Literal["quantised", "rectified", "spiking", "window", "graded"]
"""What the forward pass of a `NoisyQuantReLU` computes.

quantised: the staircase; while training, with noise. rectified: an ordinary ReLU, which knows no threshold: the network
before its thresholds are balanced. spiking: one time step of an integrate-and-fire neuron, with state. window: all time
steps of that neuron at once, with gradients: fine-tuning. graded: the staircase that graded spikes carry, of finer
parts than the levels, without noise: fine-tuning for them.
"""


class NoisyQuantReLU(nn.Module):
    """Quantised ReLU with a trainable threshold and, while it trains, noise. `in_mode` gives it another mode.

    With z the input, θ = `threshold`, L = `levels`, σ = `sigma`:

        q(z) = θ/L · floor(L · clip(z/θ, 0, 1) + 1/2)      quantised: values 0, θ/L, …, θ
        a(z) = q(z) + σ·ε,  ε ~ N(0, 1) for each element   while training: torch's global generator decides
        v ← v + z;  s = [v ≥ θ];  v ← v − θ·s;  out = θ·s  spiking: v starts at θ/2

    Where `ratios` are given, channel c has the threshold θ·r[c]: it gives r[c] times what this is of z / r[c], and its
    noise has the width r[c]·σ. Where `shifts` are given, its neuron starts at (1/2 + s[c])·θ·r[c], and q rounds with
    1/2 + s[c]: in a window of L steps of one drive, both are the same.

    With `reset` "zero" it is the staircase of a neuron that a spike sets to zero, over L time steps:

        q(z) = θ/L · floor(L / ceil(θ/z)) for z > 0, else 0   no value between θ/2 and θ
        v ← v + z;  s = [v ≥ θ];  v ← v·(1 − s);  out = θ·s   v starts at 0

    Attributes:
        levels: L, 1..64; with reset "zero" the time steps of the window.
        reset: "subtract" or "zero": what a spike does to the membrane potential.
        threshold: θ, a trainable float scalar of shape (), in units of the pre-activation, > 0.
        ratios: r, a float buffer (channels,), > 0, that is saved with the model and not trained: the threshold of each
            channel as a multiple of θ; None where all have the same.
        shifts: s, a float buffer (channels,), in -1/2..1/2, saved and not trained: where the neurons of a channel start
            a window beside the middle, as a part of their threshold; None where all start there.
        sigma: σ, a float buffer of shape () in units of the pre-activation of a channel whose ratio is 1, ≥ 0; starts
            at 0, is saved with the model, receives no gradient.
        potential: v, the membrane potential of each replica, (K, *the input's shape); None before the first step.
        mode: what the next forward pass computes; `in_mode` sets it.
        window: time steps that lie one after the other in each input, in mode "window"; parts of θ in mode "graded";
            else 1.
        replicas: K, neurons that share an activation in modes "spiking" and "window", else 1. Replica k starts at
            (k + 1/2)/K·θ and a shift, and the output is the mean of all.
        rows: those that the next input has, where each of several processes computes some of a batch; else None.

    Raises:
        RangeError: `levels` outside 1..64, an unknown reset, a threshold or a ratio that is not positive and finite, a
            shift beyond its range, or one with reset "zero".
        UsageError: ratios or shifts are no vector.

    Source: Huang et al., arXiv 2404.17456; floor passes gradients straight through, clip keeps its own (bounds
    included).
    """

    sigma: Tensor
    ratios: Tensor | None
    shifts: Tensor | None

    def __init__(
        self,
        levels: int,
        threshold: float = 8.0,
        reset: Reset = "subtract",
        ratios: Tensor | None = None,
        shifts: Tensor | None = None,
    ) -> None:
        super().__init__()
        require_settings(levels, reset)
        self.levels = levels
        self.reset_to: Reset = reset
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))
        self.register_buffer("ratios", None if ratios is None else _sound(ratios).float())
        self.register_buffer("shifts", None if shifts is None else _sound_shifts(shifts, reset).float())
        self.register_buffer("sigma", torch.tensor(0.0))
        self.potential: Tensor | None = None
        self.mode: Mode = "quantised"
        self.window = self.replicas = 1
        self.rows: Rows | None = None
        self.positive_threshold()

    @property
    def draws_noise(self) -> bool:
        """Whether the next forward pass adds noise, if σ is not 0."""
        return self.mode == "quantised" and self.training

    def positive_threshold(self) -> float:
        """Return θ as a number.

        Raises:
            RangeError: θ is zero, negative, infinite or not a number.
        """
        value = float(self.threshold.detach())
        if not 0.0 < value < float("inf"):
            raise RangeError(
                f"activation `threshold` is {value:g}, allowed: a positive number",
                hint="train the network with a lower learning rate",
            )
        return value

    def channel_thresholds(self, channels: int) -> Tensor:
        """Return the threshold of each channel, float64 (channels,), on the CPU.

        Raises:
            RangeError: a threshold is not positive and finite, or there are more or fewer ratios than channels.
        """
        thresholds = torch.full((channels,), self.positive_threshold(), dtype=torch.float64)
        if self.ratios is None:
            return thresholds
        if len(self.ratios) != channels:
            raise RangeError(f"activation `ratios` are {len(self.ratios)}, allowed one for each of {channels} channels")
        return thresholds * _sound(self.ratios).cpu().double()

    def channel_shifts(self, channels: int) -> Tensor | None:
        """Return where each channel starts beside the middle, in units of the pre-activation; None for in the middle.

        Returns:
            float64 (channels,), on the CPU.

        Raises:
            RangeError: as `channel_thresholds`, or a shift is out of range.
        """
        if self.shifts is None:
            return None
        if len(self.shifts) != channels:
            raise RangeError(f"activation `shifts` are {len(self.shifts)}, allowed one for each of {channels} channels")
        return self.channel_thresholds(channels) * _sound_shifts(self.shifts, self.reset_to).cpu().double()

    def reset(self) -> None:
        """Forget the membrane potential: the next spiking step is the first of a window."""
        self.potential = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation in the current mode.

        Args:
            x: float pre-activations of any shape; with `ratios` or `shifts` (N, channels, …).

        Returns:
            float activations of the same shape.

        Raises:
            RangeError: the threshold is not positive. On an accelerator it is not looked at here, which would mean to
                wait for the device in every layer: training looks at all thresholds once a step.
            UsageError: the shape changed within one spiking run, or the channels are more or fewer than those of ratios
                and shifts.
        """
        if self._is_on_host:
            self.positive_threshold()
        if self.ratios is None or self.mode == "rectified":
            return self._activated(x)
        column = self._column(self.ratios, x)
        return self._activated(x / column) * column

    def in_units_of_theta(self, values: Tensor) -> Tensor:
        """Return values of the activation, (N, channels, …), as those of channels whose threshold is θ."""
        return values if self.ratios is None else values / self._column(self.ratios, values)

    @staticmethod
    def _column(of_channels: Tensor, values: Tensor) -> Tensor:
        """Return a number of each channel, shaped to broadcast over values (N, channels, …)."""
        if values.ndim < 2 or values.shape[1] != len(of_channels):
            raise UsageError(
                f"activation: got {tuple(values.shape)}, allowed (N, {len(of_channels)}, …): it has neurons of its own "
                "for each channel"
            )
        return of_channels.view(-1, *[1] * (values.ndim - 2))

    def _activated(self, x: Tensor) -> Tensor:
        """Apply the activation of threshold θ."""
        if self.mode == "rectified":
            return relu(x)
        if self.mode == "spiking":
            return self._spike(x)
        if self.mode == "graded":
            return activate(x, self.threshold, self.window, "subtract", None)
        if self.mode == "window":
            return self._fired(self._started(x))
        if self.shifts is not None:
            x = x + self.threshold * self._column(self.shifts, x) / self.levels
        return activate(x, self.threshold, self.levels, self.reset_to, self._noise())

    def _started(self, x: Tensor) -> Tensor:
        """Return the drive of a window with what brings the neurons where they start, in its first step."""
        if self.shifts is None:
            return x
        first, *rest = x.chunk(self.window)
        return torch.cat([first + self.threshold * self._column(self.shifts, x), *rest])

    def _fired(self, drive: Tensor) -> Tensor:
        """Return what the replicas send in a window, their mean."""
        starts, steps = self._starts(), self.window
        return _mean([integrate_and_fire(drive, self.threshold, steps, self.reset_to, start) for start in starts])

    def _starts(self) -> list[float]:
        """Return where each replica starts, as a part of its threshold (rule U1)."""
        if self.reset_to == "zero":
            return [0.0] * self.replicas
        return [(2 * replica + 1) / (2 * self.replicas) for replica in range(self.replicas)]

    def extra_repr(self) -> str:
        """Show the settings in `print(model)`."""
        numbers = f"levels={self.levels}, threshold={float(self.threshold.detach()):g}, sigma={float(self.sigma):g}"
        if self.ratios is not None:
            numbers += f", ratios={float(self.ratios.min()):.3g}..{float(self.ratios.max()):.3g}"
        return numbers if self.reset_to == "subtract" else f"{numbers}, reset={self.reset_to}"

    @property
    def _is_on_host(self) -> bool:
        """Whether reading a number makes no accelerator wait."""
        return self.threshold.device.type == "cpu"

    def _noise(self) -> Noise | None:
        """Return the noise if any is drawn. Only on the CPU is a σ of 0 checked: reading it costs nothing there."""
        if not self.draws_noise or (self._is_on_host and not float(self.sigma) > 0.0):
            return None
        return Noise(self.sigma, self.rows)

    def _spike(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, self.threshold.dtype))  # mixed precision ends in front of the neurons
        threshold = self.threshold.detach()
        if self.potential is None:
            self.potential = self._first_potential(x, threshold)
        if self.potential.shape[1:] != x.shape:
            raise UsageError(
                f"spiking state has shape {tuple(self.potential.shape[1:])}, got input {tuple(x.shape)}",
                hint="enter `in_mode(model, 'spiking')` anew for each batch",
            )
        potential = self.potential + x.detach()
        output = potential.clone().ge_(threshold).mul_(threshold)  # as floats: bools are several times slower
        self.potential = (
            potential.sub_(output) if self.reset_to == "subtract" else potential.masked_fill_(output > 0.0, 0.0)
        )
        return _mean(output.unbind())

    def _first_potential(self, x: Tensor, threshold: Tensor) -> Tensor:
        starts = torch.stack([threshold * start for start in self._starts()]).view(-1, *[1] * x.ndim)
        if self.shifts is not None:
            starts = starts + threshold * self._column(self.shifts, x)
        return starts.expand(self.replicas, *x.shape)


def _mean(of_replicas: Sequence[Tensor]) -> Tensor:
    """Return the mean, added up in one order: the modes of a spiking network give the same numbers."""
    first, *others = of_replicas
    return first if not others else sum(others, first) / len(of_replicas)


def require_settings(levels: int, reset: str) -> None:
    """Refuse with a RangeError what no activation has."""
    if reset not in ("subtract", "zero"):
        raise RangeError(f"activation `reset` is {reset!r}, allowed subtract, zero")
    if not 1 <= levels <= MAX_LEVELS:
        raise RangeError(f"activation `levels` is {levels}, allowed 1..{MAX_LEVELS}")


def _sound_shifts(shifts: Tensor, reset: Reset) -> Tensor:
    """Return shifts of starts, or refuse what none can be."""
    _require_vector(shifts, "shifts")
    if reset == "zero":
        raise RangeError('activation `shifts` with reset "zero", allowed "subtract": the others start at 0')
    bad = shifts[~(shifts.abs() <= LARGEST_SHIFT)]
    if len(bad):
        raise RangeError(f"activation `shifts` hold {float(bad[0]):g}, allowed: -{LARGEST_SHIFT}..{LARGEST_SHIFT}")
    return shifts.detach()


def _require_vector(of_channels: Tensor, name: str) -> None:
    if of_channels.ndim != 1 or not len(of_channels):
        raise UsageError(f"activation: `{name}` of shape {tuple(of_channels.shape)}, allowed (channels,)")


def _sound(ratios: Tensor) -> Tensor:
    """Return ratios of thresholds, or refuse what none can be."""
    _require_vector(ratios, "ratios")
    bad = ratios[~((ratios > 0) & ratios.isfinite())]
    if len(bad):
        raise RangeError(f"activation `ratios` hold {float(bad[0]):g}, allowed: positive numbers")
    return ratios.detach()


def activations(model: nn.Module) -> dict[str, NoisyQuantReLU]:
    """Return every `NoisyQuantReLU` of a model by its qualified name, in order of registration."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, NoisyQuantReLU)}


@contextmanager
def in_mode(model: nn.Module, mode: Mode, n_steps: int = 1, replicas: int = 1) -> Iterator[None]:
    """Run a model with all its activations in one mode while the block runs; afterwards every module is as before.

    "spiking": each call of the model is one time step, in evaluation mode and without gradients; the activations forget
    their state on entry, so that one entry is one window:

        with in_mode(model, "spiking"):
            logits = sum(model(images) for _ in range(n_steps))

    "window": each call is a window of `n_steps`, with gradients. The inputs of all steps lie one after the other in the
    batch, (n_steps · N, …), and so do the outputs. The numbers are those of "spiking", the gradients those of
    `nctool.activation.surrogate`.

    "graded": activations in `n_steps` parts of their threshold, with gradients as those of the staircase.

    Args:
        model: in training or in evaluation mode, which but for "spiking" is kept.
        mode: of the activations.
        n_steps: of "window" and "graded" only.
        replicas: of "spiking" and "window" only: neurons for each activation.
    """
    layers = activations(model).values()
    before = [(layer, (layer.mode, layer.window, layer.replicas)) for layer in layers]
    try:
        for layer in layers:
            layer.reset()
            layer.mode, layer.window, layer.replicas = mode, n_steps, replicas
        with _evaluated(model) if mode == "spiking" else nullcontext():
            yield
    finally:
        for layer, settings in before:
            layer.reset()
            layer.mode, layer.window, layer.replicas = settings


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Put a whole model in evaluation mode, without gradients."""
    training_before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, was_training in training_before:
            module.training = was_training
