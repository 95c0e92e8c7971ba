"""Integer kernels and fused loops: exact up to the edge of their conditions, and left alone where they do not work."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from nctool.fast import compiling, integer_weights
from nctool.fast.choice import FLOAT, Choice, usable
from nctool.fast.compiling import failure_to_compile
from nctool.fast.engine import FastEngine
from nctool.fast.integer_weights import IntegerWeights, fits
from nctool.fast.kernel import kernel_of_synapse
from nctool.ir.geometry import ConvGeometry
from nctool.ir.network import INPUT_NAME, InputEncoding, IntNetwork, Synapse
from nctool.ir.repeat import Repeat
from nctool.reference.simulate import simulate
from nctool.reference.synapses import synaptic_input
from nctool.reference.trace import join
from tests.support.networks import conv, dense, fire, random_graph, random_pixels, random_pooled, read_out, seeds

INTEGER = Choice(integer=True)
BOTH = Choice(integer=True, fused=True)
CPU = torch.device("cpu")


@pytest.fixture
def anew():
    """Forget what was found out about this process, before and after."""
    caches = (integer_weights.failure, integer_weights._operator, usable, failure_to_compile)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_both_work_here() -> None:
    assert usable() == BOTH


@pytest.mark.parametrize(
    ("weight", "signal", "does"),
    [
        ((-128, 127), (0, 127), True),
        ((-128, 127), (0, 128), False),  # 2 * 128 * 128 does not fit 16 signed bits
        ((-127, 127), (0, 129), True),
        ((-64, 64), (0, 255), True),
        ((-65, 64), (0, 255), False),
        ((-1, 1), (0, 256), False),
        ((-129, 0), (0, 1), False),
        ((0, 128), (0, 1), False),
        ((-127, 127), (-128, 127), True),
        ((-127, 127), (-129, 0), True),
        ((-127, 127), (-130, 0), False),
        ((-128, 127), (-1, 1), False),
        ((-1, 1), (-256, 0), False),
    ],
)
def test_what_fits(weight: tuple[int, int], signal: tuple[int, int], does: bool) -> None:
    assert fits(np.array(weight), signal) is does


def edge_case(seed: int) -> tuple[Synapse, np.ndarray, tuple[int, int]]:
    """Return a synapse of any geometry, signals and their range; many of them are as large as can be."""
    rng = np.random.default_rng(seed)
    block, copies = (tuple(int(n) for n in rng.integers(1, 3, 2)) for _ in range(2))
    repeat = Repeat(block if rng.integers(2) else (1, 1), *copies)
    groups, size = int(rng.integers(1, 4)), tuple(int(n) for n in rng.integers(4, 9, 2))
    distinct = rng.choice([-128, -127, -1, 0, 1, 127, int(rng.integers(-128, 128))], _shape(rng, groups)).astype(
        np.int32
    )
    source = (groups * distinct.shape[1] * repeat.copies_in, *(n * b for n, b in zip(size, repeat.block, strict=True)))
    dilation = tuple(int(n) for n in rng.integers(1, 3, 2)) if repeat.block == (1, 1) else (1, 1)
    pairs = [tuple(int(n) for n in rng.integers(low, 3, 2)) for low in (1, 0)]
    conv = repeat.on_neurons(ConvGeometry(*pairs, dilation, groups))
    if rng.integers(3) == 0:
        conv, groups = None, 1
        distinct = distinct.reshape(len(distinct), -1)
        wide = int(np.prod(repeat.summed_shape(source)))
        distinct = np.resize(distinct, (len(distinct), wide)).astype(np.int32)
    largest = 127 // (repeat.copies_in * repeat.block[0] * repeat.block[1])
    largest = largest if rng.integers(2) else 1
    lowest = -largest if rng.integers(2) else 0
    distinct = distinct.clip(-127) if lowest else distinct
    signal = rng.choice([0, 1, largest, largest, lowest], (3, *source))
    synapse = Synapse("source", repeat.spread(distinct, source), int(rng.integers(0, 3)), conv, repeat=repeat)
    return synapse, signal, (lowest, largest)


def _shape(rng: np.random.Generator, groups: int) -> tuple[int, ...]:
    kernel = rng.integers(1, 4, 2)
    return (groups * int(rng.integers(1, 9)), int(rng.integers(1, 9)), *(int(n) for n in kernel))


def is_a_column(synapse: Synapse, source: tuple[int, ...]) -> bool:
    """Return whether the output is one column wide at a stride above 1, or sees padding alone."""
    if synapse.conv is None:
        return False
    geometry, summed = synapse.repeat.on_blocks(synapse.conv), synapse.repeat.summed_shape(source)
    kernel = synapse.repeat.distinct(synapse.weight, source).shape[2:]
    is_one = synapse.output_shape(source)[2] == 1 and geometry.stride[1] > 1
    return is_one or not geometry.reaches(summed, kernel)


@given(seeds, st.booleans())
def test_an_integer_kernel_gives_the_sums_of_the_reference(seed: int, fused: bool) -> None:
    synapse, signal, limits = edge_case(seed)
    source = signal.shape[1:]
    assume(min(synapse.output_shape(source)) > 0 and synapse.repeat.holds(synapse.weight, synapse.conv, source))
    choice = Choice(integer=True, fused=fused)
    kernel = kernel_of_synapse(synapse, signal.shape[1:], CPU, torch.float32, choice=choice, signal=limits)
    assert kernel.weights.name == ("float32" if is_a_column(synapse, source) else "int8")
    expected = synaptic_input(synapse, signal[:, np.newaxis], 1)[:, 0]
    with torch.inference_mode():
        found = kernel(torch.from_numpy(signal.astype(np.float32)))
    np.testing.assert_array_equal(found.numpy(), expected)


@given(seeds, st.sampled_from([random_graph, random_pooled]))
def test_graphs_and_maxima(seed: int, drawn) -> None:
    network = drawn(seed)
    pixels = random_pixels(network, 4, seed)
    expected = simulate(network, pixels)
    for choice in (INTEGER, BOTH):
        assert join(FastEngine(network, choice=choice).traces(pixels)) == expected


@given(seeds)
def test_graded_input_without_a_sign(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_graph(seed)
    table = rng.choice([0, 1, 126, 127], (network.input.shape[0], 256)).astype(np.int8)
    network = replace(network, input=InputEncoding(network.input.shape, table))
    pixels = random_pixels(network, 4, seed)
    engine = FastEngine(network, choice=BOTH)
    assert engine.kernels[network.populations[0].name].startswith("int8")
    assert join(engine.traces(pixels)) == simulate(network, pixels)


def chain(low: int, high: int, weight: int = 127) -> IntNetwork:
    """Return a network whose input reaches from low to high."""
    table = np.linspace(low, high, 256).astype(np.int8)[np.newaxis].repeat(2, axis=0)
    hidden = fire("hidden", dense(INPUT_NAME, np.full((3, 2), weight)), threshold=50)
    return IntNetwork(InputEncoding((2,), table), (hidden, read_out(dense("hidden", np.full((1, 3), weight)))), 3)


def test_kernels_are_chosen_by_layer() -> None:
    assert FastEngine(chain(-1, 9, -128)).kernels == {"hidden": "float32, fused", "out": "int8, fused"}
    assert FastEngine(chain(-1, 9)).kernels == {"hidden": "int8, fused", "out": "int8, fused"}
    assert FastEngine(chain(0, 9, 128)).kernels == {"hidden": "float32, fused", "out": "float32, fused"}
    assert FastEngine(chain(0, 9), choice=INTEGER).kernels == dict.fromkeys(("hidden", "out"), "int8, step by step")
    assert FastEngine(chain(0, 9), choice=FLOAT).kernels == dict.fromkeys(("hidden", "out"), "float32, step by step")
    assert "'out': 'int8, fused'" in repr(FastEngine(chain(0, 9)))


def test_two_synapses_choose_on_their_own() -> None:
    network = chain(-1, 9)
    out = network.readout
    both = replace(out, synapses=(*out.synapses, dense(INPUT_NAME, np.full((1, 2), 300))))
    network = replace(network, populations=(network.populations[0], both))
    assert FastEngine(network).kernels["out"] == "int8 + float32, fused"
    pixels = random_pixels(network, 3)
    assert join(FastEngine(network).traces(pixels)) == simulate(network, pixels)


def test_sums_of_many_spikes_leave_the_bytes() -> None:
    """127 spikes share a weight, or 128 do."""
    for many, name in ((127, "int8"), (128, "float32")):
        synapse = Synapse("a", np.full((1, many), -128, np.int32), repeat=Repeat(copies_in=many))
        kernel = kernel_of_synapse(synapse, (many,), CPU, torch.float32, choice=BOTH)
        assert kernel.weights.name == name
        assert kernel(torch.ones(1, many)).tolist() == [[-128 * many]]


@pytest.mark.parametrize("shape", [(5, 8), (8, 3, 2, 2)])
def test_weights_in_any_order_of_memory(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int32)
    synapse = Synapse("a", np.asfortranarray(weight), conv=ConvGeometry() if len(shape) == 4 else None)
    source = (8,) if synapse.conv is None else (3, 4, 5)
    signal = np.random.default_rng(1).integers(0, 2, (2, *source))
    kernel = kernel_of_synapse(synapse, source, CPU, torch.float32, choice=BOTH)
    expected = synaptic_input(synapse, signal[:, np.newaxis], 1)[:, 0]
    np.testing.assert_array_equal(kernel(torch.from_numpy(signal)).numpy(), expected)


@pytest.mark.parametrize(("stride", "name"), [((1, 2), "float32"), ((2, 1), "int8")])
def test_one_column_at_a_stride_is_left_to_floating_point(stride: tuple[int, int], name: str) -> None:
    """By hand: 16 channels of ones under a kernel of ones of 1 x 2. oneDNN's integer kernels give something else."""
    synapse = conv("a", np.ones((4, 16, 1, 2)), stride=stride)
    kernel = kernel_of_synapse(synapse, (16, 3, 2), CPU, torch.float32, choice=BOTH)
    assert kernel.weights.name == name
    assert bool((kernel(torch.ones(1, 16, 3, 2)) == 32).all())


def test_a_shape_on_which_they_disagree_is_left_to_floating_point(monkeypatch) -> None:
    weigh = IntegerWeights.__call__
    monkeypatch.setattr(IntegerWeights, "__call__", lambda *args: weigh(*args).neg())
    kernel = kernel_of_synapse(dense("a", np.ones((17, 19))), (19,), CPU, torch.float32, choice=BOTH)
    assert kernel.weights.name == "float32"


# --- where they do not work -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("anew")
def test_a_torch_without_the_operators_falls_back_with_a_note(monkeypatch) -> None:
    monkeypatch.setattr(integer_weights, "_operator", lambda name: getattr(torch.ops.onednn, f"{name}_of_later"))
    assert not usable().integer
    (note,) = usable().notes
    assert note.startswith(f"no integer kernels: torch {torch.__version__} does not offer them (")
    assert FastEngine(chain(0, 9)).kernels["out"] == "float32, fused"


@pytest.mark.usefixtures("anew")
def test_another_signature_falls_back_with_a_note(monkeypatch) -> None:
    monkeypatch.setattr(integer_weights, "_operator", lambda name: torch.ops.aten.conv2d)
    assert "does not offer them" in usable().notes[0]


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("dense_only", [False, True])
def test_wrong_sums_fall_back_with_a_note(monkeypatch, dense_only: bool) -> None:
    call = IntegerWeights.__call__

    def saturating(self: IntegerWeights, signal: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        weighed = call(self, signal, bias)
        return weighed if dense_only and self.conv is not None else weighed.clamp(max=2**20)

    monkeypatch.setattr(IntegerWeights, "__call__", saturating)
    assert usable().notes == (f"no integer kernels: those of torch {torch.__version__} give wrong sums on this CPU",)


@pytest.mark.usefixtures("anew")
def test_without_numba_torch_steps(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nctool.fast.fused", None)
    assert usable() == replace(INTEGER, notes=usable().notes)
    assert usable().notes[0].startswith("no fused loops: Numba is not there (")
    assert FastEngine(chain(0, 9)).kernels["out"] == "int8, step by step"


@pytest.mark.usefixtures("anew")
def test_without_a_place_for_its_cache_numba_is_not_used(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("cannot cache function 'fire': no locator available for file 'fused.py'")

    monkeypatch.setattr(compiling, "import_module", refuse)
    reason = "cannot cache function 'fire': no locator available for file 'fused.py'"
    assert usable().notes == (f"no fused loops: Numba cannot compile them ({reason})",)


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_kernels_of_older_cpus_are_exact_too(instructions: str) -> None:
    """oneDNN uses what an older CPU would have; this one's own where it has less."""
    script = "from nctool.fast.integer_weights import failure; print(failure())"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
