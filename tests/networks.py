"""Random integer networks for the tests: odd shapes, groups, strides, signs, extreme weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from nctool.conversion.bounds import prove, with_bounds
from nctool.network import (
    ACCUMULATOR_LIMIT,
    INPUT_NAME,
    ConvGeometry,
    InputEncoding,
    IntArray,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Shape,
    Synapse,
)


def random_network(seed: int, *, n_steps: int | None = None, conv: bool | None = None) -> IntNetwork:
    """Return a small chain of populations drawn from `seed`, with proved bounds; it fits the autapse."""
    rng = np.random.default_rng(seed)
    on_image = bool(rng.integers(2)) if conv is None else conv
    shape: Shape = (
        (int(rng.integers(1, 4)), *rng.integers(4, 8, 2).tolist()) if on_image else (int(rng.integers(1, 9)),)
    )
    n_steps = n_steps or int(rng.integers(1, 6))
    encoding = InputEncoding(shape, rng.integers(-128, 128, (shape[0], 256)).astype(np.int8))
    populations: list[Population] = []
    for number in range(int(rng.integers(1, 4))):
        source = populations[-1].name if populations else INPUT_NAME
        populations.append(_population(rng, f"layer{number}", source, shape))
        shape = populations[-1].shape
    populations.append(_readout(rng, populations[-1]))
    network = IntNetwork(encoding, tuple(populations), n_steps)
    while max(int(found.magnitude.max()) for found in prove(network).values()) > ACCUMULATOR_LIMIT:
        table = (network.input.table >> 1).astype(np.int8)
        network = replace(network, input=replace(encoding, table=table))
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def random_pixels(network: IntNetwork, n_samples: int, seed: int = 0) -> np.ndarray:
    """Return uint8 pixels for `network`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n_samples, *network.input.shape), np.uint8)


seeds = st.integers(0, 2**32 - 1)


def _population(rng: np.random.Generator, name: str, source: str, shape: Shape) -> Population:
    synapse = _conv(rng, source, shape) if len(shape) == 3 and rng.integers(3) else _dense(rng, source, shape)
    driven = synapse.output_shape(shape)
    channels = driven[0]
    exponent = int(rng.integers(0, 7)) if source == INPUT_NAME else int(rng.integers(0, 3))
    threshold = rng.integers(1, 128, channels) << exponent
    initial = rng.integers(0, threshold) if rng.integers(2) else threshold // 2
    limit = 16320 if rng.integers(4) == 0 else int(threshold.max())  # extreme biases, now and then
    return Population(name, driven, IntegrateFire(threshold, initial), _bias(rng, channels, limit), (synapse,))


def _readout(rng: np.random.Generator, source: Population) -> Population:
    synapse = _dense(rng, source.name, source.shape)
    channels = synapse.weight.shape[0]
    return Population("readout", (channels,), Readout(0.5), _bias(rng, channels, 500), (synapse,))


def _bias(rng: np.random.Generator, channels: int, limit: int) -> IntArray:
    return rng.integers(-limit, limit + 1, channels) * int(rng.integers(4) != 0)


def _dense(rng: np.random.Generator, source: str, shape: Shape) -> Synapse:
    return Synapse(source, _weights(rng, (int(rng.integers(1, 8)), int(np.prod(shape)))))


def _conv(rng: np.random.Generator, source: str, shape: Shape) -> Synapse:
    groups = shape[0] if rng.integers(3) == 0 else 1
    kernel = tuple(int(rng.integers(1, size + 1)) for size in (min(3, shape[1]), min(4, shape[2])))
    pairs = [tuple(rng.integers(low, 3, 2).tolist()) for low in (1, 0)]
    fits = all(2 * (k - 1) + 1 <= size for k, size in zip(kernel, shape[1:], strict=True))
    dilation = tuple(rng.integers(1, 3, 2).tolist()) if fits else (1, 1)
    geometry = ConvGeometry(stride=pairs[0], padding=pairs[1], dilation=dilation, groups=groups)
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
