"""Netx files of other tools: drawn from a seed, and those that the lava-dl wheel ships, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nctool.ir.inputs import INPUT_LIMIT
from nctool.ir.network import ConvGeometry, Shape


def shipped(name: str) -> Path:
    """Return a file of the tests that the lava-dl wheel installs beside the package."""
    spec = find_spec("lava")
    assert spec is not None and spec.submodule_search_locations, "the extra `lava` is not installed"
    return Path(spec.submodule_search_locations[0]).parent / "tests/lava/lib/dl/netx" / name


def ground_truth(name: str) -> np.ndarray:
    """Return an array that lava-dl tests itself with."""
    return np.load(shipped(f"gts/{name}"), allow_pickle=False)


@dataclass
class Draft:
    """Layers of a file that is being drawn: dictionaries of datasets, groups as dictionaries."""

    layers: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> Path:
        """Write the layers as slayer does: strings as arrays of one, numbers as float32."""
        with h5py.File(path, "w") as file:
            for number, layer in enumerate(self.layers):
                _put(file.create_group(f"layer/{number}"), layer)
        return path


@dataclass(frozen=True)
class Case:
    """A file with samples for it: integers (samples, steps or no axis, *shape)."""

    path: Path
    samples: np.ndarray
    n_steps: int
    reset_interval: int | None


def neuron(threshold: int = 10, current_decay: Any = 4096, voltage_decay: Any = 1024, **more: Any) -> dict[str, Any]:
    """Return a CUBA neuron as slayer writes it."""
    return {
        "type": "CUBA",
        "vThMant": threshold,
        "iDecay": current_decay,
        "vDecay": voltage_decay,
        "refDelay": 1,
        **more,
    }


def input_block(*shape: int, **neuron_values: Any) -> dict[str, Any]:
    """Return an input layer that takes the sample as its bias."""
    return {"type": "input", "shape": shape, "weight": [36.0], "bias": [34.0], "neuron": neuron(**neuron_values)}


def dense_layer(weight: object, **more: Any) -> dict[str, Any]:
    """Return a dense layer; `neuron=None` leaves the neuron out."""
    values = np.asarray(weight, np.float32)
    layer = {"type": "dense", "shape": [len(values)], "weight": values, "neuron": neuron(), **more}
    return {key: value for key, value in layer.items() if value is not None}


def conv_layer(weight: object, source: Shape, **more: Any) -> dict[str, Any]:
    """Return a convolution on a source of this shape."""
    values = np.asarray(weight, np.float32)
    geometry = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    geometry.update({key: more.pop(key) for key in list(more) if key in geometry})
    shape = (len(values), *ConvGeometry(**geometry).output_size(source, values.shape[2:4]))  # type: ignore[arg-type]
    return {"type": "conv", "shape": shape, "weight": values, **geometry, "neuron": neuron(), **more}


def random_case(path: Path, seed: int, *, n_samples: int = 1) -> Case:
    """Write a random file: input block or spikes, convolutions, dense and recurrent layers, delays, decays, resets.

    The window is shorter than the pipeline and its delays now and then, and the samples are as large as they may be.
    """
    rng = np.random.default_rng(seed)
    steps = int(rng.choice([1, 2, 3, 12, 12, 12]))
    draft, interval = Draft(), int(rng.integers(1, steps + 1)) if rng.integers(2) else None
    on_image, as_bias = bool(rng.integers(2)), bool(rng.integers(2))
    shape: Shape = tuple(rng.integers(3, 7, 3).tolist()) if on_image else (int(rng.integers(1, 9)),)
    if as_bias:
        draft.layers.append(input_block(*shape, **_neuron_values(rng, shape[0])))
        samples = rng.integers(-200, 400, (n_samples, *shape))
    else:
        if on_image:
            draft.layers.append({"type": "input", "shape": shape})
        high = int(rng.choice([2, 2, 100, INPUT_LIMIT + 1]))
        samples = rng.integers(0 if high == 2 else 1 - high, high, (n_samples, steps, *shape))
    for _ in range(int(rng.integers(0, 3)) if on_image else 0):
        draft.layers.append(_random_conv(rng, shape))
        shape = draft.layers[-1]["shape"]
    if on_image:
        draft.layers.append({"type": "flatten"})
    fan_in = int(np.prod(shape))
    for last in [False] * int(rng.integers(0, 3)) + [True]:
        draft.layers.append(_random_dense(rng, fan_in, last=last))
        fan_in = draft.layers[-1]["shape"][0]
    return Case(draft.write(path), samples, steps, interval)


def _random_conv(rng: np.random.Generator, source: Shape) -> dict[str, Any]:
    groups = source[0] if rng.integers(3) == 0 else 1
    kernel = [int(rng.integers(1, size + 1)) for size in (min(3, source[1]), min(3, source[2]))]
    out = groups * int(rng.integers(1, 4))
    weight = rng.integers(-60, 61, (out, source[0] // groups, *kernel))
    stride, padding = tuple(rng.integers(1, 3, 2).tolist()), tuple(rng.integers(0, 2, 2).tolist())
    bias = {"bias": rng.integers(-30, 60, out).astype(np.float32)} if rng.integers(2) else {}
    values = neuron(**_neuron_values(rng, out))
    return conv_layer(weight, source, stride=stride, padding=padding, groups=groups, neuron=values, **bias)


def _random_dense(rng: np.random.Generator, fan_in: int, *, last: bool) -> dict[str, Any]:
    out = int(rng.integers(1, 8))
    low, high = [(-128, 128), (-256, 255), (0, 256), (-128, 0), (-128, 1), (-20, 21), (1, 4)][int(rng.integers(7))]
    weight = rng.integers(low, high, (out, fan_in))
    weight.flat[0] = weight.flat[0] or (1 if high > 1 else -1)  # netx cannot load a matrix of zeros
    more: dict[str, Any] = {"neuron": None if last and rng.integers(3) == 0 else neuron(**_neuron_values(rng, out))}
    if rng.integers(2):
        more["bias"] = rng.integers(-30, 60, out).astype(np.float32)
    kind = int(rng.integers(3))
    if kind == 0:
        more |= {"type": "dense_rec", "weight_rec": rng.integers(low, high, (out, out)).astype(np.float32)}
    if kind == 1:
        shape = [(out,), (out, fan_in), ()][int(rng.integers(3))]
        more["delay"] = rng.integers(0, rng.choice([3, 8, 63]), shape).astype(np.float32)
    return dense_layer(weight, **more)


def _neuron_values(rng: np.random.Generator, channels: int) -> dict[str, Any]:
    """Draw one decay for all channels, or one each, as slayer writes it with `shared_param=False`."""
    current, voltage = (
        rng.choice([0, 1, 100, 1024, 4095, 4096], channels if rng.integers(3) == 0 else ()) for _ in "uv"
    )
    return {
        "threshold": int(rng.choice([0, 5, 60, 500, 131071])),
        "current_decay": current,
        "voltage_decay": voltage,
    }


def _put(group: h5py.Group, content: dict[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, dict):
            _put(group.create_group(key), value)
        elif isinstance(value, str):
            group.create_dataset(key, data=np.array([value.encode()]))
        else:
            group.create_dataset(key, data=value)
