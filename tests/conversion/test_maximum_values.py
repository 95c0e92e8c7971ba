"""The maximum of real numbers over windows, beside a walk through every window."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nctool.activation.rectifier import Rectifier
from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.maximum_values import maximum_values
from nctool.ir.geometry import ConvGeometry
from tests.support.networks import seeds


def walked(taps: np.ndarray, geometry: ConvGeometry, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the largest number under the taps of each window, 0 on padding: one window after the other."""
    found = np.zeros((*image.shape[:2], *size))
    for y, x in np.ndindex(*size):
        for row, column in np.argwhere(taps):
            at = (
                y * geometry.stride[0] + row * geometry.dilation[0] - geometry.padding[0],
                x * geometry.stride[1] + column * geometry.dilation[1] - geometry.padding[1],
            )
            if 0 <= at[0] < image.shape[2] and 0 <= at[1] < image.shape[3]:
                found[:, :, y, x] = np.maximum(found[:, :, y, x], image[:, :, at[0], at[1]])
    return found


@given(seeds, st.booleans())
def test_every_window(seed, whole):
    rng = np.random.default_rng(seed)
    kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
    stride, dilation = (tuple(int(k) for k in rng.integers(1, 3, 2)) for _ in range(2))
    padding = tuple(int(rng.integers(0, k)) for k in kernel)
    geometry = ConvGeometry(stride, padding, dilation, groups=3)
    taps = np.ones(kernel, bool) if whole else rng.random(kernel) < 0.6
    taps[-1, -1] = True
    image = rng.random((2, 3, 6, 7))
    size = geometry.output_size((3, 6, 7), kernel)
    weight = np.broadcast_to(taps.astype(np.float64), (3, 1, *kernel)).copy()
    synapse = FloatSynapse("pool", "one", (3, 6, 7), weight, np.zeros(3), geometry)
    pool = FloatPopulation("pool", (3, *size), (synapse,), threshold=np.ones(3), maximum=True)
    found = maximum_values(pool, torch.from_numpy(image))
    np.testing.assert_array_equal(found.numpy(), walked(taps, geometry, image, size))


def test_a_rectifier_is_a_relu_with_a_bound():
    x = torch.tensor([-2.0, -0.0, 0.5, 3.0, 7.0])
    assert Rectifier()(x).tolist() == torch.relu(x).tolist()
    assert Rectifier(3.0)(x).tolist() == [0.0, 0.0, 0.5, 3.0, 3.0]
    assert (repr(Rectifier()), repr(Rectifier(6.0))) == ("Rectifier()", "Rectifier(ceiling=6)")
