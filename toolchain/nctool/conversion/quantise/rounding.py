"""Round a population: each weight to the nearest integer, or so that the errors of weights cancel in the output.

With error feedback, weights are rounded one after the other; the error of each is carried into those not yet rounded,
as far as their signals vary together. In the triangular factor of the covariance this is back substitution with
rounding: optimal brain quantisation in a fixed order. The mean of the error that is left goes into the bias.

In: a FloatPopulation, a scale, what its synapses see on calibration data. Out: a Population. Must not import torch.

Source: Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, arXiv
2210.17323; as back substitution: Chen et al., The Geometry of LLM Quantization, arXiv 2507.18553. Bias
correction: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, arXiv
1906.04721.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.compiled import failure
from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.quantise.covariance import Factor, Floats
from nctool.conversion.quantise.patches import COMPILED, View, column
from nctool.conversion.quantise.scales import Scale, fits_comparison, weight_scale
from nctool.ir.network import GradedReadout, GradedReLU, IntArray, IntegrateFire, Population, Readout, Synapse
from nctool.ir.number_format import IntegerFormat


def round_population(
    population: FloatPopulation, scale: Scale, number_format: IntegerFormat, n_steps: int
) -> Population:
    """Round the weights and the bias of `population` at `scale`, each to the nearest integer."""
    pairs = zip(population.synapses, scale.exponents, strict=True)
    weights = tuple(np.rint(s.weight * weight_scale(s, scale, exponent)) for s, exponent in pairs)
    return assemble(population, scale, number_format, n_steps, weights, np.rint(population.bias * scale.per_channel))


def round_for_output(
    population: FloatPopulation, scale: Scale, number_format: IntegerFormat, n_steps: int, views: Sequence[View]
) -> Population:
    """Round `population` at `scale` with error feedback; the mean of the error that is left goes into its bias."""
    bias, weights = population.bias, []
    for view, exponent in zip(views, scale.exponents, strict=True):
        of_weights = scale.per_channel / 2**exponent
        rounded = _round_view(view, of_weights, number_format.weight_max)
        bias = bias - view.mean_output(view.error(rounded, of_weights))
        weights.append(rounded)
    lost = 0.5 * sum(exponent < 0 for exponent in scale.exponents)  # a shift rounds down, half a unit in the mean
    corrected = np.clip(np.rint(bias * scale.per_channel + lost), -number_format.bias_max, number_format.bias_max)
    with_bias = assemble(population, scale, number_format, n_steps, tuple(weights), corrected)
    if _fits(with_bias, number_format):
        return with_bias
    return assemble(
        population, scale, number_format, n_steps, tuple(weights), np.rint(population.bias * scale.per_channel)
    )


def _round_view(view: View, scale: FloatArray, largest: int) -> IntArray:
    """Round the weights of a synapse with error feedback, at a scale (out,)."""
    weight = view.synapse.weight
    groups = zip(view.by_group(weight * column(scale, weight)), view.factors, strict=True)
    rounded = [round_with_feedback(wanted, factor, largest)[0] for wanted, factor in groups]
    return np.concatenate(rounded).reshape(weight.shape)


def _fits(rounded: Population, number_format: IntegerFormat) -> bool:
    neuron = rounded.neuron
    if (
        number_format.comparison_max is None
        or not number_format.comparison_holds_bias
        or not isinstance(neuron, IntegrateFire)
    ):
        return True
    return fits_comparison(neuron.threshold - neuron.initial - rounded.bias, number_format.comparison_max)


def assemble(
    population: FloatPopulation,
    scale: Scale,
    number_format: IntegerFormat,
    n_steps: int,
    weights: tuple[NDArray[Any], ...],
    bias: NDArray[Any],
) -> Population:
    """Return the integer population of rounded numbers; the bound is left open.

    Args:
        number_format: says how a neuron resets, and so where it starts.
        n_steps: length of the window; the readout's scale turns its potential into a mean over the steps.
        weights: whole numbers, one array a synapse, each weight once.
        bias: whole numbers (channels,).
    """
    parts = zip(population.synapses, weights, scale.exponents, strict=True)
    return Population(
        name=population.name,
        shape=population.shape,
        neuron=_neuron(population, scale, number_format, n_steps),
        bias=bias.astype(np.int64).repeat(population.replicas),
        synapses=tuple(_synapse(real, weight, exponent) for real, weight, exponent in parts),
    )


def _neuron(
    population: FloatPopulation, scale: Scale, number_format: IntegerFormat, n_steps: int
) -> IntegrateFire | GradedReLU | Readout:
    if population.threshold is None:
        real_logit = 1.0 / (float(scale.per_channel[0]) * n_steps)
        return GradedReadout(real_logit) if number_format.is_graded else Readout(real_logit)
    if scale.threshold is None:
        return GradedReLU()
    threshold = scale.threshold.repeat(population.replicas)
    return IntegrateFire(threshold, _initial(population, scale, number_format), number_format.reset)


def _synapse(real: FloatSynapse, weight: NDArray[Any], exponent: int) -> Synapse:
    """Return all weights of a synapse, of the distinct ones rounded."""
    whole = real.repeat.spread(weight.astype(np.int32), real.source_shape)
    conv = None if real.conv is None else real.repeat.on_neurons(real.conv)
    return Synapse(real.source, whole, exponent, conv, repeat=real.repeat)


def _initial(population: FloatPopulation, scale: Scale, number_format: IntegerFormat) -> IntArray:
    """Return the potential at the start of a window, rounded down: no comparison of integers notices (U1)."""
    if number_format.reset == "zero":
        return np.zeros(population.shape[0], np.int64)
    threshold = np.asarray(scale.threshold)[:, np.newaxis]
    replica = np.arange(population.replicas)
    staggered = threshold * (2 * replica + 1) // (2 * population.replicas)
    if population.shift is not None:
        shift = np.rint(population.shift * scale.per_channel).astype(np.int64)[:, np.newaxis]
        staggered = np.minimum(staggered + shift, threshold - 1)  # below the threshold: a neuron starts without a spike
    initial: IntArray = staggered.reshape(-1)
    return initial


def round_with_feedback(wanted: FloatArray, factor: Factor, largest: int) -> tuple[IntArray, FloatArray]:
    """Round the weights of each channel from the last to the first; what is left of an error goes into those before.

    Args:
        wanted: float64 (channels, fan-in), in integer units.
        factor: of the covariance of the signals; errors are carried in its type.
        largest: magnitude that no integer exceeds, at most 2**15 - 1.

    Returns:
        int16 (channels, fan-in), and the mean square error of each channel's output, float64 (channels,).
    """
    columns: Any = np.ascontiguousarray(wanted.T, factor.pivots.dtype)
    rounded = np.empty(columns.shape, np.int16)
    error: Floats = np.zeros_like(columns)
    square = np.zeros(len(wanted))
    round_block = _block_rounding(columns.dtype)
    for block in factor.blocks(error):
        here = slice(block.start, block.stop)
        targets = np.add(columns[here], block.carried)
        round_block(targets, columns[here], rounded[here], error[here], np.ascontiguousarray(block.inner), largest)
        square += np.square(factor.pivots[here, np.newaxis] * (targets - rounded[here])).sum(axis=0, dtype=np.float64)
    return rounded.T, square


def _block_rounding(dtype: np.dtype[Any]) -> Callable[[Any, Any, Any, Any, Any, int], None]:
    """Return what rounds a block of a type: a compiled loop where there is one."""
    if dtype == np.float32 and failure(COMPILED) is None:
        from nctool.conversion.quantise.fused import round_block

        found: Callable[[Any, Any, Any, Any, Any, int], None] = round_block
        return found
    return plain_block


def plain_block(targets: Any, wanted: Any, rounded: Any, error: Any, inner: Any, largest: int) -> None:
    """Round the weights of a block, (weights, channels), from the last to the first, as `fused.round_block` does.

    Args:
        targets: what each weight is rounded from, as far as weights behind the block say; is written over.
        wanted: the weights.
        rounded: int16, is filled.
        error: is filled with what rounding takes off each weight.
        inner: see `Block`.
        largest: magnitude that no integer exceeds.
    """
    for row in reversed(range(len(targets))):
        rounded[row] = np.clip(np.rint(targets[row]), -largest, largest)
        np.subtract(wanted[row], rounded[row], out=error[row])
        targets[:row] += inner[:row, row, np.newaxis] * error[row]
