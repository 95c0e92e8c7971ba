"""Linear layers in a row: one whose weights are the products, exactly.

A convolution of kernel 1, or a dense layer, that reads a weighted sum with no activation behind it reads the sources
of every branch of this sum itself, through W2 W1 and with the bias W2 b1 + b2. Average pooling of a weighted sum is
one too: of the pooled source, or with a larger kernel. So is a weighted sum that is enlarged, one place at a time.

In: a FloatPopulation that is a weighted sum, the second layer. Out: synapses, or an UnsupportedError where they would
be too many.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nctool.conversion.enlarging import widened
from nctool.conversion.float_network import Composed, Enlargement, FloatArray, FloatPopulation, FloatSynapse, Pool
from nctool.conversion.folding import fold_batch_norm
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry, Shape

LARGEST_COMPOSED = 2**24
"""Weights of a composed synapse, where they are more than those of both layers: 128 MiB while they are converted."""


def compose(
    drive: FloatPopulation, name: str, weight: FloatArray, bias: FloatArray, conv: ConvGeometry | None
) -> tuple[FloatSynapse, ...]:
    """Return the synapses of a linear layer that reads a weighted sum: one for each of its branches.

    Args:
        drive: the sum.
        name: of the module, for messages.
        weight: float64 (out, in) of a dense layer, or (out, in / groups, 1, 1).
        bias: float64 (out,); the first synapse takes it.
        conv: geometry without padding of a convolution, None for a dense layer.

    Raises:
        UnsupportedError: the products are far more than the weights of both layers.
    """
    first, *rest = (_behind(fold_batch_norm(branch), name, weight, conv) for branch in drive.synapses)
    return merged((replace(first, bias=first.bias + bias), *rest))


def _behind(first: FloatSynapse, name: str, weight: FloatArray, conv: ConvGeometry | None) -> FloatSynapse:
    groups = 1 if conv is None else conv.groups
    matrix = ungrouped(weight, groups).reshape(len(weight), -1)
    products, its_conv = _products(first, name, weight, matrix, groups)
    if conv is not None and its_conv is not None:
        steps = (its_conv.stride[0] * conv.stride[0], its_conv.stride[1] * conv.stride[1])
        its_conv = replace(its_conv, stride=steps)
    composed = (Composed(first, np.abs(matrix)),)
    return replace(first, module=name, weight=products, bias=matrix @ first.bias, conv=its_conv, composed=composed)


def _products(
    first: FloatSynapse, name: str, weight: FloatArray, matrix: FloatArray, groups: int
) -> tuple[FloatArray, ConvGeometry | None]:
    """Return the weights of both layers, and the geometry of the first one with the groups that are left."""
    its_conv = first.conv
    if its_conv is not None and its_conv.groups == len(first.weight) and first.weight.shape[1] == 1:
        channels = ConvGeometry(groups=groups).source_channels(weight.shape)
        _require_few(first, name, weight.size * math.prod(first.weight.shape[2:]), weight.size)
        return weight.reshape(*channels.shape, 1, 1) * first.weight[channels, 0], replace(its_conv, groups=groups)
    inputs = first.weight[0].size * first.groups
    _require_few(first, name, len(weight) * inputs, weight.size)
    full = ungrouped(first.weight, first.groups)
    return np.tensordot(matrix, full, axes=1), None if its_conv is None else replace(its_conv, groups=1)


def _require_few(first: FloatSynapse, name: str, products: int, weights: int) -> None:
    if products > max(LARGEST_COMPOSED, first.weight.size + weights):
        raise UnsupportedError(
            f"`{name}`: follows `{first.module}` with no activation between them; the layers composed have "
            f"{products} weights, allowed up to {LARGEST_COMPOSED} where they have {first.weight.size} and {weights}",
            hint=f"put nn.ReLU right before `{name}`, then nctool.prepare, and train again",
        )


def ungrouped(weight: FloatArray, groups: int) -> FloatArray:
    """Return the kernels of a grouped convolution over all source channels, 0 outside of their group.

    What is read may end inside of a group, or be mixed before: no number of groups says that.
    """
    if groups == 1:
        return weight
    out, size = weight.shape[:2]
    full = np.zeros((out, size * groups, *weight.shape[2:]))
    for group, kernels in enumerate(np.split(weight, groups)):
        first = group * len(kernels)
        full[first : first + len(kernels), group * size : (group + 1) * size] = kernels
    return full


def merged(branches: tuple[FloatSynapse, ...]) -> tuple[FloatSynapse, ...]:
    """Add the weights of composed branches that read one source in one way; others stay as they are."""
    kept: list[FloatSynapse] = []
    for branch in branches:
        place = next((k for k, other in enumerate(kept) if _are_alike(other, branch)), None)
        if place is None:
            kept.append(branch)
        else:
            kept[place] = _added(fold_batch_norm(kept[place]), fold_batch_norm(branch))
    return tuple(kept)


def _are_alike(one: FloatSynapse, other: FloatSynapse) -> bool:
    ways = [(s.source, s.conv, s.pools, s.weight.shape, bool(s.composed)) for s in (one, other)]
    return ways[0] == ways[1] and bool(one.composed)


def _added(one: FloatSynapse, other: FloatSynapse) -> FloatSynapse:
    return replace(
        one,
        weight=one.weight + other.weight,
        bias=one.bias + other.bias,
        composed=(*one.composed, *other.composed),
    )


# --- poolings, enlargements and flattening of weighted sums -------------


def pooled(drive: FloatPopulation, pool: Pool) -> FloatPopulation:
    """Return a weighted sum behind average pooling without padding."""
    branches = tuple(_pooled(fold_batch_norm(branch), pool) for branch in drive.synapses)
    return replace(drive, shape=pool.output, synapses=branches)


def _pooled(first: FloatSynapse, pool: Pool) -> FloatSynapse:
    """Let the source be pooled where each pixel is weighed alone; else the kernels cover all that a window sees."""
    conv = first.conv or ConvGeometry()
    share = math.prod(pool.kernel) / pool.divisor
    composed = (Composed(first, np.full(len(first.weight), share)),)
    first = replace(first, bias=first.bias * share, composed=composed)
    if first.weight.shape[2:] == conv.stride == conv.input_dilation == (1, 1) and conv.padding == (0, 0):
        return replace(first, pools=(*first.pools, replace(pool, source=_read(first))))
    weight = first.weight / pool.divisor
    taps = [(pool.kernel[k] - 1) * conv.stride[k] + conv.dilation[k] * (weight.shape[2 + k] - 1) + 1 for k in (0, 1)]
    _require_few(first, pool.module, math.prod((*weight.shape[:2], *taps)), 0)
    for k in (0, 1):
        weight = widened(weight, 2 + k, pool.kernel[k], conv.stride[k], conv.dilation[k])
    stride = (conv.stride[0] * pool.stride[0], conv.stride[1] * pool.stride[1])
    return replace(first, weight=weight, conv=replace(conv, stride=stride, dilation=(1, 1)))


def enlarged(drive: FloatPopulation, by: Enlargement) -> FloatPopulation:
    """Return a weighted sum whose every neuron is repeated in a block."""
    branches = tuple(_enlarged(fold_batch_norm(branch), by) for branch in drive.synapses)
    return replace(drive, shape=by.output, synapses=branches)


def _enlarged(first: FloatSynapse, by: Enlargement) -> FloatSynapse:
    """Spread the source: each tap of a kernel becomes a block of equal ones, at the distance of the neurons."""
    conv, factor, weight = first.conv or ConvGeometry(), by.factor, first.weight
    if conv.stride != (1, 1):
        raise UnsupportedError(
            f"module `{by.module}`: enlarges what `{first.module}` gives with stride {conv.stride}, allowed 1 where no "
            "activation lies between",
            hint=f"put nn.ReLU right before `{by.module}`, then nctool.prepare, and train again",
        )
    dilation = (conv.dilation[0] * factor[0], conv.dilation[1] * factor[1])
    taps = [factor[k] + dilation[k] * (weight.shape[2 + k] - 1) for k in (0, 1)]
    _require_few(first, by.module, math.prod((*weight.shape[:2], *taps)), 0)
    for k in (0, 1):
        weight = widened(weight, 2 + k, factor[k], 1, dilation[k])
    rows, columns = (factor[k] * (conv.padding[k] + 1) - 1 for k in (0, 1))
    apart = (conv.input_dilation[0] * factor[0], conv.input_dilation[1] * factor[1])
    geometry = replace(conv, padding=(rows, columns), dilation=(1, 1), input_dilation=apart)
    return replace(first, weight=weight, conv=geometry, composed=(Composed(first, np.ones(len(weight))),))


def _read(synapse: FloatSynapse) -> Shape:
    """Return the shape that the weights of a synapse read: that of the source behind its poolings."""
    return synapse.pools[-1].output if synapse.pools else synapse.source_shape


def flattened(drive: FloatPopulation, name: str) -> FloatPopulation:
    """Return a weighted sum of one pixel, or of features, as features."""
    branches = tuple(branch if branch.conv is None else _dense(branch, branch.conv, name) for branch in drive.synapses)
    return replace(drive, shape=drive.shape[:1], synapses=branches)


def _dense(first: FloatSynapse, conv: ConvGeometry, name: str) -> FloatSynapse:
    """Return the one place of a kernel as weights of all that it reads, without those on padding."""
    shape = _read(first)
    _require_few(first, name, len(first.weight) * math.prod(shape), 0)
    kernels = ungrouped(first.weight, conv.groups)
    weight = np.zeros((len(kernels), *shape))
    places = conv.places(shape, (kernels.shape[2], kernels.shape[3]))
    (rows, seen_rows), (columns, seen_columns) = (
        (of_axis[0], (of_axis[0] >= 0) & (of_axis[0] < size)) for of_axis, size in zip(places, shape[1:], strict=True)
    )
    seen = kernels[:, :, seen_rows][:, :, :, seen_columns]
    weight[:, :, rows[seen_rows][:, np.newaxis], columns[seen_columns]] = seen
    return replace(first, weight=weight.reshape(len(weight), -1), conv=None)
