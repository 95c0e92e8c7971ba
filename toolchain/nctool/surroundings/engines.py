"""Whether an engine works here: each runs a small network, whose answers the reference engine gives.

In: nothing. Out: for each engine whether it works, and why not. Torch and Lava are loaded by their engines only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.errors import NctoolError, first_line
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.geometry import ConvGeometry
from nctool.ir.network import INPUT_NAME, InputEncoding, IntegrateFire, IntNetwork, Population, Readout, Synapse
from nctool.progress import ProgressCallback
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace, join
from nctool_deploy.lava import compatibility, engine
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target

Pixels = NDArray[np.uint8]

LAVA_TIMEOUT_S = 120.0
N_SAMPLES = 3


@dataclass(frozen=True)
class EngineState:
    """An engine, and whether it works here.

    Args:
        name: of the engine.
        works: it gave every spike and logit of the reference engine.
        reason: why it does not work, or what it gave; empty where it works.
        hint: the way out.
    """

    name: str
    works: bool
    reason: str = ""
    hint: str = ""


def try_engines(progress: ProgressCallback) -> tuple[EngineState, ...]:
    """Run a small network on every engine; Lava runs in a process of its own, which takes some seconds."""
    network, pixels = _network(), np.random.default_rng(0).integers(0, 256, (N_SAMPLES, 2, 6, 6), np.uint8)
    try:
        expected = simulate(network, pixels)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with NumPy here is what there is to say
        reason = f"{type(error).__name__}: {first_line(error)}"
        return (EngineState("reference", works=False, reason=reason, hint="install NumPy again"),)
    progress(1, 3, "engine fast")
    fast = _tried("fast", expected, lambda: _fast(network, pixels), "install torch again, as https://pytorch.org says")
    progress(2, 3, "engine lava")
    return (
        EngineState("reference", works=True),
        fast,
        _tried("lava", expected, lambda: _lava(network, pixels), compatibility.WITHOUT_LAVA),
    )


def _tried(name: str, expected: Trace, run: Callable[[], Trace], hint: str) -> EngineState:
    try:
        found = run()
    except NctoolError as error:
        reason = error.message.removeprefix(f"engine `{name}`: ")
        return EngineState(name, works=False, reason=reason, hint=error.hint or hint)
    except Exception as error:  # noqa: BLE001 - of a library that is broken, or is for another machine
        return EngineState(name, works=False, reason=f"{type(error).__name__}: {first_line(error)}", hint=hint)
    same = np.array_equal(found.logits, expected.logits) and all(
        np.array_equal(found.spikes[layer], spikes) for layer, spikes in expected.spikes.items()
    )
    if same:
        return EngineState(name, works=True)
    return EngineState(name, works=False, reason="it gives other spikes or logits than the reference engine", hint=hint)


def _fast(network: IntNetwork, pixels: Pixels) -> Trace:
    from nctool.fast.engine import FastEngine

    return join(FastEngine(network).traces(pixels))


def _lava(network: IntNetwork, pixels: Pixels) -> Trace:
    compatibility.require_lava()
    with tempfile.TemporaryDirectory(prefix="nctool-") as folder:
        path = Path(folder) / "model.net"
        write(path, lower(network, find_target("lava")), KnownAnswers(pixels[:1], simulate(network, pixels[:1])))
        return join(engine.stream(path, network, pixels, timeout_s=LAVA_TIMEOUT_S))


def _network() -> IntNetwork:
    """Return a convolution and a dense layer that fire, and a readout, for four steps."""
    rng = np.random.default_rng(0)

    def weights(largest: int, *shape: int) -> NDArray[np.int32]:
        return rng.integers(-largest, largest + 1, shape).astype(np.int32)

    def firing(name: str, shape: tuple[int, ...], synapse: Synapse) -> Population:
        neuron = IntegrateFire(np.full(shape[0], 300), np.full(shape[0], 150))
        return Population(name, shape, neuron, np.zeros(shape[0], np.int64), (synapse,))

    network = IntNetwork(
        InputEncoding((2, 6, 6), np.tile(np.arange(-128, 128, dtype=np.int8), (2, 1))),
        (
            firing("conv", (4, 4, 4), Synapse(INPUT_NAME, weights(9, 4, 2, 3, 3), conv=ConvGeometry())),
            firing("dense", (8,), Synapse("conv", weights(99, 8, 64))),
            Population("readout", (3,), Readout(1.0), np.zeros(3, np.int64), (Synapse("dense", weights(99, 3, 8)),)),
        ),
        n_steps=4,
    )
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})
