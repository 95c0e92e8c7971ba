"""Where the taps of a convolution fall, counted one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import assume, given

from nctool.ir.geometry import ConvGeometry, unfold
from tests.support.networks import seeds


@given(seeds)
def test_what_each_tap_sees_is_counted_by_hand(seed):
    """The definition, one product of loops: position * stride - padding + tap * dilation, 0 where no neuron is."""
    rng = np.random.default_rng(seed)
    size, kernel, stride, padding, dilation, apart = (
        tuple(rng.integers(low, high, 2).tolist()) for low, high in ((1, 6), (1, 4), (1, 4), (0, 4), (1, 4), (1, 4))
    )
    geometry = ConvGeometry(stride, padding, dilation, input_dilation=apart)
    source = (2, *size)
    high, wide = geometry.output_size(source, kernel)
    assume(min(high, wide) > 0)
    signal = rng.integers(1, 9, (3, *source))
    wanted = np.zeros((3, 2, high, kernel[0], wide, kernel[1]), np.int64)
    for y, tap_y, x, tap_x in product(range(high), range(kernel[0]), range(wide), range(kernel[1])):
        row, between = divmod(y * stride[0] - padding[0] + tap_y * dilation[0], apart[0])
        column, beside = divmod(x * stride[1] - padding[1] + tap_x * dilation[1], apart[1])
        if between == beside == 0 and 0 <= row < size[0] and 0 <= column < size[1]:
            wanted[:, :, y, tap_y, x, tap_x] = signal[:, :, row, column]
    np.testing.assert_array_equal(unfold(signal, *geometry.places(source, kernel)), wanted)
    seen = wanted.any(axis=(0, 1))
    rows, columns = geometry.seen_taps(source, kernel)
    np.testing.assert_array_equal(np.outer(rows, columns), seen.any(axis=(0, 2)))
    assert geometry.reaches(source, kernel) == seen.any()
    phases = [phase.tolist() for phase in geometry.phases(kernel)]
    assert (apart != (1, 1)) or phases == [np.ones(kernel).tolist()]
    for y, x in product(range(high), range(wide)):
        taps = wanted[:, :, y, :, x].any(axis=(0, 1))
        assert any((taps <= np.array(phase)).all() for phase in phases)


def test_each_phase_of_a_kernel_by_hand():
    """Two apart and padded by 1, a kernel of 3 sees its middle at even positions, its ends at odd ones."""
    geometry = ConvGeometry(padding=(1, 0), input_dilation=(2, 1))
    phases = sorted(phase[:, 0].tolist() for phase in geometry.phases((3, 1)))
    assert phases == [[False, True, False], [True, False, True]]
    rows, _ = geometry.places((1, 2, 1), (3, 1))
    assert rows.tolist() == [[-1, 0, -1], [0, -1, 1], [-1, 1, -1]]


def test_weights_of_a_group_read_its_channels():
    geometry = ConvGeometry(groups=2)
    assert geometry.source_channels((4, 3, 1, 1)).tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
