"""A convolution written as a sparse matrix is the same convolution (rule W2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given

from nctool.ir.network import Synapse
from nctool.reference.synapses import synaptic_input
from nctool_deploy.lava.runner.unrolling import unroll
from tests.support.networks import conv, seeds


def random_conv(seed: int) -> tuple[Synapse, tuple[int, int, int]]:
    rng = np.random.default_rng(seed)
    groups, kernel = int(rng.integers(1, 4)), rng.integers(1, 4, 2)
    stride, padding, dilation, apart = (rng.integers(*ends, 2) for ends in ((1, 5), (0, 4), (1, 4), (1, 4)))
    size = np.maximum(dilation * (kernel - 1) + 1 - 2 * padding, 1) + rng.integers(0, 5, 2)
    source = (groups * int(rng.integers(1, 3)), *size.tolist())
    weight = rng.integers(-2, 3, (groups * int(rng.integers(1, 4)), source[0] // groups, *kernel))
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "input_dilation": apart}
    return conv("s", weight, groups=groups, **{key: tuple(values) for key, values in geometry.items()}), source


def matrix_of(synapse: Synapse, source: tuple[int, int, int]) -> Any:
    return unroll(synapse.weight, synapse.conv, source)


@given(seeds)
def test_the_matrix_weighs_like_the_convolution(seed):
    synapse, source = random_conv(seed)
    signal = np.random.default_rng(seed).integers(-128, 128, (3, *source))
    matrix = matrix_of(synapse, source)
    expected = synaptic_input(synapse, signal[:, np.newaxis], 1)[:, 0]
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal((matrix @ signal.reshape(3, -1).T).T, expected.reshape(3, -1))


@given(seeds)
def test_the_matrix_holds_each_connection_once_and_none_on_padding(seed):
    synapse, source = random_conv(seed)
    ones = Synapse("s", np.ones_like(synapse.weight), conv=synapse.conv)
    matrix = matrix_of(ones, source)
    assert (matrix.data == 1).all()
    inside = synaptic_input(ones, np.ones((1, 1, *source), int), 1)[0, 0]
    np.testing.assert_array_equal(np.diff(matrix.indptr), inside.reshape(-1))


def test_by_hand():
    matrix = matrix_of(conv("s", [[[[1, 2]]]], padding=(0, 1)), (1, 1, 3))
    np.testing.assert_array_equal(matrix.toarray(), [[2, 0, 0], [1, 2, 0], [0, 1, 2], [0, 0, 1]])


def test_groups_by_hand():
    matrix = matrix_of(conv("s", np.array([3, 5]).reshape(2, 1, 1, 1), groups=2), (2, 1, 2))
    np.testing.assert_array_equal(matrix.toarray(), np.diag([3, 3, 5, 5]))
