"""Random integer networks for the tests: odd shapes, groups, strides, signs, extreme weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from nctool.fast.choice import Choice
from nctool.ir.bounds import Range, prove, prove_population, prove_sums, with_bounds
from nctool.ir.inputs import PixelEncoding
from nctool.ir.network import (
    ACCUMULATOR_LIMIT,
    INPUT_NAME,
    Bound,
    ConvGeometry,
    CurrentBased,
    GradedReadout,
    GradedReLU,
    InputEncoding,
    IntArray,
    IntegrateFire,
    IntNetwork,
    Population,
    RateEncoding,
    Readout,
    Shape,
    Synapse,
)
from nctool.ir.population import GRADED_SUM_LIMIT
from nctool.reference.simulate import simulate
from nctool_deploy.backends.backend import BACKENDS
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target

SPIKING = [backend for backend in BACKENDS if not backend.number_format.is_graded]
"""The backends of integrate-and-fire neurons."""

CHOICES = [
    *(Choice(integer, fused) for integer in (False, True) for fused in (False, True)),
    *(Choice(products=True, float32=float32) for float32 in (True, False)),
]
"""Every choice of kernels of the fast engine; the last two are those of GPUs."""


def random_network(
    seed: int, *, n_steps: int | None = None, conv: bool | None = None, rate: bool = False, enlarging: bool = False
) -> IntNetwork:
    """Return a small chain of populations drawn from `seed`, with proved bounds; it fits the autapse.

    Args:
        rate: let pixels enter as spike trains.
        enlarging: let convolutions read images with zeros between their neurons.
    """
    rng = np.random.default_rng(seed)
    on_image = bool(rng.integers(2)) if conv is None else conv
    shape: Shape = (
        (int(rng.integers(1, 4)), *rng.integers(4, 8, 2).tolist()) if on_image else (int(rng.integers(1, 9)),)
    )
    n_steps = n_steps or int(rng.integers(1, 6))
    encoding = random_rate(rng, shape) if rate else random_grading(rng, shape)
    shape = encoding.shape
    populations: list[Population] = []
    for number in range(int(rng.integers(1, 4))):
        source = populations[-1].name if populations else INPUT_NAME
        populations.append(_population(rng, f"layer{number}", source, shape, enlarging))
        shape = populations[-1].shape
    populations.append(_readout(rng, populations[-1]))
    network = IntNetwork(encoding, tuple(_within_bounds(p, encoding, n_steps) for p in populations), n_steps)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


random_enlarged = partial(random_network, conv=True, enlarging=True)
"""Images that become larger, as transposed convolutions make them."""


def random_grading(rng: np.random.Generator, shape: Shape) -> InputEncoding:
    """Return a table of any 8-bit integers."""
    return InputEncoding(shape, rng.integers(-128, 128, (shape[0], 256)).astype(np.int8))


def random_rate(rng: np.random.Generator, sample_shape: Shape) -> RateEncoding:
    """Return encoders of any threshold, one to three for each pixel, now and then one that never fires."""
    rows = sample_shape[0] * int(rng.integers(1, 4))
    threshold = int(rng.integers(1, [2, 9, 5000, 2**15][int(rng.integers(4))]))
    table = rng.integers(0, threshold + 1, (rows, 256)) * rng.integers(0, 5, (rows, 1)).clip(max=1)
    return RateEncoding(sample_shape, table.astype(np.int16), threshold)


def random_graph(seed: int, *, n_steps: int | None = None) -> IntNetwork:
    """Return a small network whose populations read up to three of those before them, as `random_network` else.

    Images are halved now and then; every synapse has an exponent of its own.
    """
    rng = np.random.default_rng(seed)
    n_steps = n_steps or int(rng.integers(1, 6))
    shapes: dict[str, Shape] = {INPUT_NAME: (int(rng.integers(1, 3)), *rng.integers(3, 7, 2).tolist())}
    encoding = InputEncoding(shapes[INPUT_NAME], rng.integers(-128, 128, (shapes[INPUT_NAME][0], 256)).astype(np.int8))
    populations: list[Population] = []
    for number in range(int(rng.integers(2, 7))):
        driven, synapses = _joined(rng, shapes)
        populations.append(_firing(rng, f"layer{number}", driven, int(rng.integers(0, 7)), *synapses))
        shapes[populations[-1].name] = driven
    (channels,), synapses = _joined(rng, shapes, flat=True)
    populations.append(Population("readout", (channels,), Readout(0.5), _bias(rng, channels, 500), synapses))
    network = IntNetwork(encoding, tuple(_within_bounds(p, encoding, n_steps) for p in populations), n_steps)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def random_pixels(network: IntNetwork, n_samples: int, seed: int = 0) -> np.ndarray:
    """Return uint8 pixels for `network`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n_samples, *network.input.sample_shape), np.uint8)


def write_network(network: IntNetwork, path: Path, pixels: np.ndarray) -> Path:
    """Write `network` for the Lava simulator, with the first of `pixels` as its known input, and return the path."""
    lowered = lower(network, find_target("lava"), "graded" if network.is_graded else "autapse")
    write(path, lowered, KnownAnswers(pixels[:1], simulate(network, pixels[:1])))
    return path


def signed_input(*shape: int) -> InputEncoding:
    """Return an encoding in which pixel p enters as p - 128; see `as_pixels`."""
    return InputEncoding(shape, np.tile(np.arange(-128, 128, dtype=np.int8), (shape[0], 1)))


def as_pixels(values: object) -> np.ndarray:
    """Return the pixels that `signed_input` turns into `values`, -128..127."""
    return (np.asarray(values) + 128).astype(np.uint8)


def dense(source: str, weight: object, exponent: int = 0) -> Synapse:
    """Return a dense synapse."""
    return Synapse(source, np.asarray(weight, np.int32), exponent)


def conv(source: str, weight: object, **geometry: object) -> Synapse:
    """Return a convolutional synapse."""
    return Synapse(source, np.asarray(weight, np.int32), conv=ConvGeometry(**geometry))  # type: ignore[arg-type]


def fire(
    name: str,
    *synapses: Synapse,
    threshold: object = 1,
    initial: object = 0,
    bias: object = 0,
    reset: str = "subtract",
    shape: Shape | None = None,
    bound: Bound | None = None,
) -> Population:
    """Return a spiking population; one number stands for all channels."""
    shape = shape or (len(synapses[0].weight),)
    per_channel = [np.broadcast_to(np.asarray(v, np.int64), shape[:1]).copy() for v in (threshold, initial, bias)]
    neuron = IntegrateFire(per_channel[0], per_channel[1], reset)  # type: ignore[arg-type]
    return Population(name, shape, neuron, per_channel[2], synapses, bound)


def maximum(name: str, source: str, shape: Shape, window: object, **geometry: object) -> Population:
    """Return maximum pooling of a source of shape `shape`; `window` holds 1 where it looks, else 0 (rule M1)."""
    kernel = np.asarray(window)
    synapse = conv(source, np.broadcast_to(kernel, (shape[0], 1, *kernel.shape)), groups=shape[0], **geometry)
    return fire(name, synapse, reset="zero", shape=synapse.output_shape(shape))


def random_window(rng: np.random.Generator, size: Sequence[int]) -> dict[str, object]:
    """Return the arguments of `maximum` for an image of such a size: overlap, gaps, dilation, one-sided windows."""
    kernel = [int(rng.integers(1, min(4, side) + 1)) for side in size]
    dilation = [1 if side < 2 * k else int(rng.integers(1, 3)) for side, k in zip(size, kernel, strict=True)]
    padding = [int(rng.integers(0, k)) if d == 1 else 0 for k, d in zip(kernel, dilation, strict=True)]
    window = np.ones(kernel, np.int64)
    window[: padding[0] if rng.integers(2) else 0] = 0
    stride = rng.integers(1, 4, 2).tolist()
    return {"window": window, "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}


def random_pooled(seed: int, *, n_steps: int | None = None) -> IntNetwork:
    """Return a chain of a convolution, one or two maximum poolings and a readout, as `random_network` else."""
    rng = np.random.default_rng(seed)
    n_steps = n_steps or int(rng.integers(1, 6))
    encoding = random_grading(rng, (int(rng.integers(1, 4)), *rng.integers(4, 8, 2).tolist()))
    synapse = _conv(rng, INPUT_NAME, encoding.shape)
    shape = synapse.output_shape(encoding.shape)
    populations = [_firing(rng, "layer0", shape, int(rng.integers(0, 7)), synapse)]
    for number in range(int(rng.integers(1, 3))):
        before = populations[-1]
        populations.append(
            maximum(f"max{number}", before.name, before.shape, **random_window(rng, before.shape[1:]))  # type: ignore[arg-type]
        )
    populations.append(_readout(rng, populations[-1]))
    network = IntNetwork(encoding, tuple(_within_bounds(p, encoding, n_steps) for p in populations), n_steps)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def random_graded(seed: int) -> IntNetwork:
    """Return a small network of graded neurons whose populations read up to three of those before them.

    Every synapse has an exponent of its own, most of them negative. Bounds are proved.
    """
    rng = np.random.default_rng(seed)
    shapes: dict[str, Shape] = {INPUT_NAME: (int(rng.integers(1, 3)), *rng.integers(3, 7, 2).tolist())}
    encoding = random_grading(rng, shapes[INPUT_NAME])
    populations: list[Population] = []
    for number in range(int(rng.integers(1, 5))):
        driven, synapses = _joined(rng, shapes)
        bias = _bias(rng, driven[0], int(rng.choice([10, 16320])))
        populations.append(Population(f"layer{number}", driven, GradedReLU(), bias, _shifting(rng, synapses)))
        shapes[populations[-1].name] = driven
    (channels,), synapses = _joined(rng, shapes, flat=True)
    bias = _bias(rng, channels, 500)
    populations.append(Population("readout", (channels,), GradedReadout(0.5), bias, _shifting(rng, synapses)))
    network = IntNetwork(encoding, tuple(populations), 1)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def fitting_graded(seed: int) -> IntNetwork:
    """Return the network of `random_graded` with weights halved where the backend `graded` could not hold it."""
    network = random_graded(seed)
    while (beyond := _first_beyond(network)) is not None:
        populations = tuple(_halved(p) if p is beyond else p for p in network.populations)
        network = replace(network, populations=populations)
        network = with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})
    return network


def _first_beyond(network: IntNetwork) -> Population | None:
    sums = prove_sums(network)
    for population in network.populations:
        room = population.head_room_bits
        if room is None or room < 0 or max(sums[population.name]) > GRADED_SUM_LIMIT:
            return population
    return None


def _shifting(rng: np.random.Generator, synapses: Sequence[Synapse]) -> tuple[Synapse, ...]:
    return tuple(replace(synapse, exponent=-int(rng.choice([0, 1, 5, 9]))) for synapse in synapses)


def graded(name: str, *synapses: Synapse, bias: object = 0, shape: Shape | None = None) -> Population:
    """Return a graded population; one number stands for all channels."""
    shape = shape or (len(synapses[0].weight),)
    biases = np.broadcast_to(np.asarray(bias, np.int64), shape[:1]).copy()
    return Population(name, shape, GradedReLU(), biases, synapses)


def graded_read_out(*synapses: Synapse, bias: object = 0, scale: float = 1.0) -> Population:
    """Return a readout of graded spikes called `out`."""
    return replace(read_out(*synapses, bias=bias), neuron=GradedReadout(scale))


def read_out(*synapses: Synapse, bias: object = 0, scale: float = 1.0, bound: Bound | None = None) -> Population:
    """Return a readout called `out`."""
    shape = (len(synapses[0].weight),)
    biases = np.broadcast_to(np.asarray(bias, np.int64), shape).copy()
    return Population("out", shape, Readout(scale), biases, synapses, bound)


def leaky(
    threshold: int, current_decay: object, voltage_decay: object, channels: int = 1, *, latency: int = 0
) -> CurrentBased:
    """Return a current-based neuron; one number stands for all channels."""
    each = (np.broadcast_to(np.asarray(decay, np.int64), channels).copy() for decay in (current_decay, voltage_decay))
    return CurrentBased(threshold, *each, latency=latency)


seeds = st.integers(0, 2**32 - 1)


def _within_bounds(population: Population, encoding: PixelEncoding, n_steps: int) -> Population:
    """Halve weights and bias until the accumulated input fits."""
    while prove_population(population, encoding, n_steps).magnitude.max() > ACCUMULATOR_LIMIT:
        population = _halved(population)
    return population


def _halved(population: Population) -> Population:
    halved = tuple(replace(s, weight=np.trunc(s.weight / 2).astype(np.int32)) for s in population.synapses)
    return replace(population, synapses=halved, bias=np.trunc(population.bias / 2).astype(np.int64))


def _population(rng: np.random.Generator, name: str, source: str, shape: Shape, enlarging: bool) -> Population:
    synapse = (
        _conv(rng, source, shape, enlarging) if len(shape) == 3 and rng.integers(3) else _dense(rng, source, shape)
    )
    exponent = int(rng.integers(0, 7)) if source == INPUT_NAME else int(rng.integers(0, 3))
    return _firing(rng, name, synapse.output_shape(shape), exponent, synapse)


def _firing(rng: np.random.Generator, name: str, driven: Shape, exponent: int, *synapses: Synapse) -> Population:
    channels = driven[0]
    threshold = rng.integers(1, 128, channels) << exponent
    initial = rng.integers(0, threshold) if rng.integers(2) else threshold // 2
    limit = 16320 if rng.integers(4) == 0 else int(threshold.max())  # extreme biases, now and then
    return Population(name, driven, IntegrateFire(threshold, initial), _bias(rng, channels, limit), synapses)


def _readout(rng: np.random.Generator, source: Population) -> Population:
    synapse = _dense(rng, source.name, source.shape)
    channels = synapse.weight.shape[0]
    return Population("readout", (channels,), Readout(0.5), _bias(rng, channels, 500), (synapse,))


def _joined(
    rng: np.random.Generator, shapes: dict[str, Shape], *, flat: bool = False
) -> tuple[Shape, tuple[Synapse, ...]]:
    """Return a shape, and synapses that drive it from 1 to 3 of the sources, the last of them most often."""
    names, channels = list(shapes), int(rng.integers(1, 5))
    sources = [names[-1 - int(rng.integers(len(names)) * rng.integers(2))] for _ in range(int(rng.integers(1, 4)))]
    flat = flat or rng.integers(4) == 0 or any(len(shapes[source]) == 1 for source in sources)
    if flat:
        drawn = [_weights(rng, (channels, int(np.prod(shapes[source])))) for source in sources]
        return (channels,), tuple(Synapse(s, w, _exponent(rng)) for s, w in zip(sources, drawn, strict=True))
    size = min(shapes[source][1:] for source in sources)
    size = tuple(-(-n // 2) for n in size) if rng.integers(4) == 0 else size
    return (channels, *size), tuple(_shrinking(rng, source, shapes[source], (channels, *size)) for source in sources)


def _shrinking(rng: np.random.Generator, name: str, source: Shape, driven: Shape) -> Synapse:
    """Return a convolution that reads every second, fourth, ... place of an image, or all of them."""
    strides = (2**k for k in range(8))
    stride = next(s for s in strides if all(-(-n // s) == m for n, m in zip(source[1:], driven[1:], strict=True)))
    groups = source[0] if driven[0] % source[0] == 0 and rng.integers(2) else 1
    side = int(rng.choice([1, 3]))
    weight = _weights(rng, (driven[0], source[0] // groups, side, side))
    geometry = ConvGeometry((stride, stride), (side // 2, side // 2), groups=groups)
    return Synapse(name, weight, _exponent(rng), geometry)


def _exponent(rng: np.random.Generator) -> int:
    return int(rng.choice([0, 0, 1, 3, 7]))


def _bias(rng: np.random.Generator, channels: int, limit: int) -> IntArray:
    return rng.integers(-limit, limit + 1, channels) * int(rng.integers(4) != 0)


def _dense(rng: np.random.Generator, source: str, shape: Shape) -> Synapse:
    return Synapse(source, _weights(rng, (int(rng.integers(1, 8)), int(np.prod(shape)))))


def _conv(rng: np.random.Generator, source: str, shape: Shape, enlarging: bool = False) -> Synapse:
    groups = shape[0] if rng.integers(3) == 0 else 1
    kernel = tuple(int(rng.integers(1, size + 1)) for size in (min(3, shape[1]), min(4, shape[2])))
    pairs = [tuple(rng.integers(low, 3, 2).tolist()) for low in (1, 0)]
    fits = all(2 * (k - 1) + 1 <= size for k, size in zip(kernel, shape[1:], strict=True))
    dilation = tuple(rng.integers(1, 3, 2).tolist()) if fits else (1, 1)
    apart = tuple(rng.integers(1, 4, 2).tolist()) if enlarging else (1, 1)
    geometry = ConvGeometry(pairs[0], pairs[1], dilation, groups, apart)
    return Synapse(
        source, _weights(rng, (groups * int(rng.integers(1, 4)), shape[0] // groups, *kernel)), conv=geometry
    )


def _weights(rng: np.random.Generator, shape: Shape) -> IntArray:
    """Draw 8-bit weights of one of the kinds that stock loaders get wrong: one sign, zeros, extremes."""
    low, high = [(-128, 128), (-20, 21), (0, 128), (-128, 0), (-128, 1), (0, 1), (-1, 2)][int(rng.integers(7))]
    weight = rng.integers(low, high, shape)
    if rng.integers(3) == 0:
        weight[0] = 0
    return weight.astype(np.int32)


def measured(accumulated: np.ndarray) -> Range:
    """Return the range per channel of accumulated inputs, int64 (samples, steps, channels, ...)."""
    axes = (0, 1, *range(3, accumulated.ndim))
    return Range(np.minimum(accumulated.min(axis=axes), 0), np.maximum(accumulated.max(axis=axes), 0))
