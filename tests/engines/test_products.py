"""What the fast engine runs on a GPU: convolutions as products, which must be exact; tried on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional

from nctool.errors import UnsupportedError
from nctool.fast import choice, products
from nctool.fast.choice import Choice, usable, usable_on
from nctool.fast.engine import FastEngine, exact_arithmetic
from nctool.fast.precision import full_precision
from nctool.fast.products import convolve, failure
from nctool.ir.geometry import ConvGeometry
from nctool.reference.simulate import simulate
from nctool.reference.trace import join
from tests.support.networks import random_network, random_pixels, seeds

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TYPES = (torch.float32, torch.float64)


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor, ConvGeometry]:
    """A signal with the channels last, weights and a bias of small integers, and any geometry that fits."""
    rng = np.random.default_rng(seed)
    stride, dilation, kernel, padding = (tuple(rng.integers(low, 4, 2).tolist()) for low in (1, 1, 1, 0))
    groups, wide = int(rng.integers(1, 4)), rng.integers(1, 4, 2)
    least = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [max(1, low + int(rng.integers(0, 5)) - p) for low, p in zip(least, padding, strict=True)]
    signal = rng.integers(-9, 10, (int(rng.integers(1, 6)), groups * wide[0], *size))
    weight = rng.integers(-9, 10, (groups * wide[1], wide[0], *kernel))
    bias = rng.integers(-9, 10, len(weight))
    tensors = [torch.from_numpy(each).double() for each in (signal, weight, bias)]
    signal, weight = (each.contiguous(memory_format=torch.channels_last) for each in tensors[:2])
    return signal, weight, tensors[2], ConvGeometry(stride, padding, dilation, groups)


@given(seeds)
def test_products_of_patches_are_the_convolution(seed):
    signal, weight, bias, conv = drawn(seed)
    expected = functional.conv2d(signal, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    found = convolve(signal, weight, bias, conv)
    assert torch.equal(found, expected)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    assert torch.equal(convolve(signal, weight, None, conv), expected - bias[:, None, None])


def test_patches_take_no_more_memory_than_they_may(monkeypatch):
    signal, weight, bias, conv = drawn(3)
    expected, sizes, product = convolve(signal, weight, bias, conv), [], products._product
    monkeypatch.setattr(products, "PATCH_BYTES", 1)
    monkeypatch.setattr(
        products, "_product", lambda patches, *rest: sizes.append(len(patches)) or product(patches, *rest)
    )
    assert torch.equal(convolve(signal, weight, bias, conv), expected)
    assert sizes == [1] * len(signal)


@pytest.mark.parametrize("dtype", TYPES)
def test_products_of_this_cpu_are_exact(dtype):
    assert failure(CPU, dtype) is None


def as_tensor_float_32(values: Tensor) -> Tensor:
    """Round to the 11 bits that TF32 has of float32's 24."""
    return (values.view(torch.int32) + (1 << 12) & -(1 << 13)).view(torch.float32)


@pytest.mark.parametrize("lower", [as_tensor_float_32, torch.Tensor.bfloat16])
def test_products_of_fewer_bits_are_noticed(monkeypatch, lower):
    product = products._product
    monkeypatch.setattr(products, "_product", lambda *of: product(*(t if t is None else lower(t) for t in of)).float())
    assert failure(CPU, torch.float32) == "matrix products of float32 give wrong sums on cpu"


def test_a_gpu_convolves_by_products_and_has_no_kernels_of_a_cpu(monkeypatch):
    assert on_a_gpu(monkeypatch, inexact=()) == Choice(products=True)
    assert usable_on(CPU) == usable()


def test_a_gpu_that_rounds_float32_takes_float64(monkeypatch):
    notes = ("no float32: wrong torch.float32",)
    assert on_a_gpu(monkeypatch, inexact=(torch.float32,)) == Choice(products=True, float32=False, notes=notes)


def test_a_gpu_that_rounds_float64_too_is_refused(monkeypatch):
    with pytest.raises(UnsupportedError) as caught:
        on_a_gpu(monkeypatch, inexact=TYPES)
    assert str(caught.value) == "device `cuda`: wrong torch.float64\nhint: use --device cpu"


def on_a_gpu(monkeypatch, inexact) -> Choice:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(products, "failure", lambda _, dtype: f"wrong {dtype}" if dtype in inexact else None)
    choice._on_gpu.cache_clear()
    try:
        return usable_on(CUDA)
    finally:
        choice._on_gpu.cache_clear()


def test_float64_takes_the_place_of_float32():
    network = random_network(1, conv=True)
    pixels = random_pixels(network, 4)
    engine = FastEngine(network, choice=Choice(products=True, float32=False))
    assert set(engine.kernels.values()) == {"float64, step by step"}
    assert join(engine.traces(pixels)) == simulate(network, pixels)


# --- full precision ---------------------------------------------------------------------------------------------------

each_switch = pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")


def switches() -> tuple[str, ...]:
    backends = torch.backends
    owners = (backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul, backends.cudnn.conv, backends)
    return tuple(owner.fp32_precision for owner in owners)


@each_switch
@pytest.mark.parametrize("precision", ["tf32", "none"])
def test_a_caller_may_use_the_newer_switches_of_torch(precision):
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = precision
    try:
        outside = switches()
        with exact_arithmetic():
            assert set(switches()[:3]) == {"ieee"}
            assert not torch.backends.cudnn.enabled
        assert switches() == outside
        torch.backends.fp32_precision = "ieee"
        assert set(switches()) == {"ieee"}  # they still follow what holds for all of torch
    finally:
        torch.backends.fp32_precision = before


def test_the_last_of_several_threads_puts_the_switches_back():
    """The first one to come is the first one to leave: the other still computes in full precision then."""
    torch.set_float32_matmul_precision("high")
    try:
        first, second = full_precision(), full_precision()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.enabled) == ("highest", False)
        second.__exit__(None, None, None)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.enabled) == ("high", True)
    finally:
        torch.set_float32_matmul_precision("highest")


@each_switch
def test_the_older_switches_can_still_be_asked_afterwards():
    with full_precision():
        pass
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
