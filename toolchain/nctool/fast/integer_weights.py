"""Weights of 8 bits in oneDNN's integer kernels: the same sums as in float32, several times as fast.

oneDNN multiplies unsigned bytes by signed bytes and adds up in 32 bits; torch reaches these kernels through operators
that it makes for quantised networks. With scales that are powers of two and zero points of 0 they compute integers,
exactly where three conditions hold, each for every partial sum, in whatever order the sum is taken:

* A weight is -128..127 and a signal 0..255, so both fit their byte. A signal with a sign is two without one, what is
  above 0 and what is below, side by side; the second meets the negative weights, so these are -127..127.
* 2 * the largest signal * the largest magnitude of a weight <= 2**15 - 1. CPUs without VNNI instructions add two
  neighbouring products in 16 signed bits and saturate (`vpmaddubsw`); below this nothing saturates. For signals up to
  127, such as sums of that many spikes, it holds with any weights of 8 bits.
* The magnitudes of all that a neuron adds up in a step make less than 2**24. So no sum in 32 bits wraps, its conversion
  to float32 is exact, and so are the product with a power of two and the sum with the bias. `exact_type` says so: the
  type of the population is float32.

What they compute is compared all the same: with 64-bit integers once in a process (`failure`), and with float32 once
for every shape (`agrees`). In torch 2.3.1 and 2.13, oneDNN's kernels for AVX-512 give wrong sums where the output is
one column wide and the stride along it is above 1: such a convolution is not theirs.

In: weights, signals. Out: weighted sums in float32. Must not import the reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nctool.errors import first_line
from nctool.ir.geometry import ConvGeometry, Pair, Shape, unfold

BYTE_PAIRS = 2**15 - 1
"""Largest sum of two products that no CPU saturates. Source: Intel's instruction set reference, `VPMADDUBSW`."""

FLOAT32_EXACT = 2**24
"""Integers of at most this magnitude are exact in float32. Source: IEEE 754, 24-bit significand."""

SIGNED = 2**7
UNSIGNED = 2**8


def may_weigh(weight: NDArray[Any], signal: Pair, conv: ConvGeometry | None, source: Shape) -> bool:
    """Return whether integer kernels weigh signals exactly, where sums stay below 2**24.

    Args:
        weight: integers, axes as in `Synapse`.
        signal: the smallest and the largest value of what they weigh.
        conv: geometry, None for dense weights.
        source: shape of what they weigh.
    """
    if not fits(weight, signal):
        return False
    if conv is None:
        return agrees(weight.shape, (int(np.prod(source)),), None, signal)
    kernel = (weight.shape[2], weight.shape[3])
    is_column = conv.output_size(source, kernel)[1] == 1 and conv.stride[1] > 1
    is_apart = conv.input_dilation != (1, 1)  # what is tried has no zeros between the signals
    if is_column or is_apart or not conv.reaches(source, kernel):
        return False
    return agrees(weight.shape, source, conv, signal)


def fits(weight: NDArray[Any], signal: Pair) -> bool:
    """Return whether the products of weights with signals of a range are exact in integer kernels, one or two of them.

    Args:
        weight: integers.
        signal: the smallest and the largest value of what they weigh.
    """
    low, high = int(weight.min()), int(weight.max())
    magnitude, largest = max(-low, high), max(-signal[0], signal[1])
    in_bytes = low >= (-SIGNED if signal[0] >= 0 else 1 - SIGNED) and high < SIGNED and largest < UNSIGNED
    return in_bytes and 2 * largest * magnitude <= BYTE_PAIRS


@dataclass(frozen=True)
class IntegerWeights:
    """Distinct weights in the layout of oneDNN's integer kernels.

    Args:
        packed: the weights.
        shape: of the weights, as `FloatWeights` has them.
        scale: float32 (1,), 2**exponent.
        conv: geometry, None for dense weights.
        signed: whether signals have a sign.
    """

    packed: Tensor
    shape: Shape
    scale: Tensor
    conv: ConvGeometry | None
    signed: bool

    @classmethod
    def prepare(cls, weight: NDArray[Any], exponent: int, conv: ConvGeometry | None, *, signed: bool) -> IntegerWeights:
        """Pack weights that `fits` says yes to; axes as in `FloatWeights`."""
        scale = torch.tensor([2.0**exponent])
        if signed:
            packed_shape = (len(weight), 2 * weight.shape[1], *weight.shape[2:])
            in_bytes = _in_bytes(np.stack((weight, -weight), axis=2).reshape(packed_shape))
        else:
            in_bytes = _in_bytes(weight)
        if conv is None:
            packed = _operator("qlinear_prepack")(in_bytes, None)
        else:
            packed = _operator("qconv_prepack")(in_bytes, scale, 1.0, 0, *_geometry(conv))
        return cls(packed, weight.shape, scale, conv, signed)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of what they weigh."""
        return torch.float32 if self.signed else torch.uint8

    @property
    def name(self) -> str:
        """Return what the kernels are called."""
        return "int8"

    def __call__(self, signal: Tensor, bias: Tensor | None) -> Tensor:
        """Weigh (batch, *source) to float32 (batch, *driven) and add a bias, float32 (out,)."""
        signal = _two_of(signal) if self.signed else signal
        weights = (self.packed, self.scale, _no_zero_points(), bias)
        output: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        conv = self.conv
        if conv is None:
            weighed: Tensor = _operator("qlinear_pointwise")(signal, 1.0, 0, *weights, *output)
        else:
            weighed = _operator("qconv2d_pointwise")(signal, 1.0, 0, *weights, *_geometry(conv), *output)
        return weighed


def _in_bytes(weight: NDArray[Any]) -> Tensor:
    """Return weights as int8, in the only order of memory that packing takes for what it is."""
    return torch.from_numpy(np.ascontiguousarray(weight, np.int8))


def _two_of(signal: Tensor) -> Tensor:
    """Return what is above 0 and what is below, uint8 (batch, 2 * channels, ...), side by side for each channel."""
    last = signal.movedim(1, -1)
    return torch.stack((last.clamp(min=0), last.clamp(max=0).neg()), dim=-1).byte().flatten(-2).movedim(-1, 1)


def _geometry(conv: ConvGeometry) -> tuple[Pair, Pair, Pair, int]:
    return conv.stride, conv.padding, conv.dilation, conv.groups


@cache
def _operator(name: str) -> Any:
    """Return an operator of oneDNN, as torch offers them to its own quantised networks."""
    return getattr(torch.ops.onednn, name).default  # type: ignore[attr-defined]  # made when it is asked for


@cache
def _no_zero_points() -> Tensor:
    return torch.zeros(1, dtype=torch.int64)


# --- whether they work here -------------------------------------------------------------------------------------------

_CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], ConvGeometry | None], ...] = (
    ((2, 40, 9, 8), (35, 40, 3, 3), ConvGeometry(padding=(1, 1))),
    ((2, 4, 9, 8), (8, 1, 3, 2), ConvGeometry((2, 1), (0, 1), (1, 2), 4)),
    ((3, 1, 7, 7), (6, 1, 5, 5), ConvGeometry()),
    ((5, 500), (11, 500), None),
)
"""Shapes of a signal and of weights: a plain convolution, one of many groups, one of one channel, a dense layer."""


@cache
def failure() -> str | None:
    """Return why integer kernels are not used in this process, None where they are; the first call tries them."""
    with torch.inference_mode():
        for number, (source, shape, conv) in enumerate(_CASES):
            signal, weight, bias = _extreme(np.random.default_rng(number), source, shape)
            try:
                found = _weighed(signal, weight, conv, bias)
            except (AttributeError, RuntimeError, TypeError) as error:
                return f"torch {torch.__version__} does not offer them ({first_line(error)})"
            if not np.array_equal(found, _expected(signal, weight, conv, bias)):
                return f"those of torch {torch.__version__} give wrong sums on this CPU"
    return None


@cache
def agrees(weight: Shape, source: Shape, conv: ConvGeometry | None, signal: Pair) -> bool:
    """Return whether integer kernels of a shape give what those of float32 do; each is tried once in a process.

    Args:
        weight: shape of the weights.
        source: shape of what they weigh.
        signal: the smallest and the largest value of that.
    """
    largest = max(-signal[0], signal[1], 1)
    magnitude = min(SIGNED - 1, (FLOAT32_EXACT - 1) // (int(np.prod(weight[1:])) * largest))
    generator = torch.Generator().manual_seed(0)
    signals = torch.tensor([0, *signal])[torch.randint(3, (2, *source), generator=generator)].float()
    weights = torch.randint(-magnitude, magnitude + 1, weight, generator=generator)
    tried = IntegerWeights.prepare(weights.numpy(), 0, conv, signed=signal[0] < 0)
    found, weights = tried(signals.to(tried.dtype), None), weights.float()
    if conv is None:
        return torch.equal(found, functional.linear(signals, weights))
    return torch.equal(found, functional.conv2d(signals, weights, None, *_geometry(conv)))


def _extreme(
    rng: np.random.Generator, source: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return signals of 0..127, weights and a bias: corners of the conditions, and anything between."""
    signal = rng.choice([0, 1, 126, 127], source).astype(np.uint8)
    weight = rng.integers(-SIGNED, SIGNED, shape)
    signal[0], weight[0], weight[1], weight[2] = SIGNED - 1, -SIGNED, SIGNED - 1, 0
    return signal, weight, rng.integers(-99, 100, len(weight))


def _weighed(signal: Any, weight: Any, conv: ConvGeometry | None, bias: Any) -> NDArray[np.int64]:
    weights = IntegerWeights.prepare(weight, 1, conv, signed=False)
    found = weights(torch.from_numpy(signal), torch.from_numpy(bias).float())
    return np.asarray(found.numpy().astype(np.int64))


def _expected(signal: Any, weight: Any, conv: ConvGeometry | None, bias: Any) -> NDArray[np.int64]:
    """Return twice the weighted sums, and the bias, in 64-bit integers."""
    signal = signal.astype(np.int64)
    if conv is None:
        return np.asarray(2 * signal @ weight.T + bias)
    seen = unfold(signal, *conv.places(signal.shape[1:], weight.shape[2:]))
    samples, channels, rows, high, columns, wide = seen.shape
    seen = seen.reshape(samples, conv.groups, channels // conv.groups, rows, high, columns, wide)
    weight = weight.reshape(conv.groups, -1, *weight.shape[1:])
    sums = np.einsum("ngcriso,gkcio->ngkrs", seen, weight, optimize=True)
    return np.asarray(2 * sums.reshape(samples, -1, rows, columns) + bias[:, np.newaxis, np.newaxis])
