"""The worked examples of docs/SEMANTICS.md: TOML blocks that say what goes in, and what the rules make of it.

In: the content of a block. Out: what the reference engine, or the registers of a backend, give for each of its results.

An example has one population, whose keys stand at the top, or several as `[[population]]`. Its input is `input`, a
value or an array for each step; `samples`, constant arrays; or `pixels`. What `RESULTS` lists is compared; arrays
without their axes of length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nctool.conversion.input_encoding import encode_input, rate_input
from nctool.errors import NctoolError
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.geometry import ConvGeometry
from nctool.ir.inputs import Input, InputEncoding, IntegerInput, RateEncoding
from nctool.ir.network import (
    INPUT_NAME,
    CurrentBased,
    GradedReadout,
    GradedReLU,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Shape,
    Synapse,
)
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.backends.bias_sources import BiasSource
from nctool_deploy.lowering import lower
from nctool_deploy.pipeline import Schedule, delays, depths
from nctool_deploy.targets.target import find_target
from tests.support.markdown import Block, blocks

Content = Mapping[str, Any]

_OF_SYNAPSE = {"from", "weight", "exponent", "delay"}
_OF_GEOMETRY = {"stride", "padding", "dilation", "groups", "input_dilation"}
_OF_NEURON = {"name", "neuron", "threshold", "initial", "bias", "reset", "current_decay", "voltage_decay", "scale"}
_OF_STREAM = {"reset_interval", "latency_of_input", "synapses"}
_OF_INPUT = {"input", "samples", "pixels", "table", "encoders", "mean", "std", "encoding", "steps", "backend"}
OF_POPULATION = {
    "potentials",
    "spikes",
    "overflows",
    "vth",
    "c",
    "autapse",
    "autapse_exponent",
    "sources",
    "conv_groups",
}
RESULTS = OF_POPULATION | {"signal", "logits", "answer", "refused", "latency", "period", "delays"}
KNOWN = _OF_SYNAPSE | _OF_GEOMETRY | _OF_NEURON | _OF_STREAM | _OF_INPUT | RESULTS | {"population"}


def examples() -> list[Block]:
    """Return the worked examples; the value of each is the labels of its rules."""
    return [block for block in blocks("SEMANTICS.md") if block.mark == "example"]


def results(content: Content) -> dict[str, Any]:
    """Return what an example gives: for each of its results, by the name of its population where it has several."""
    try:
        return _results(content)
    except NctoolError as error:
        return {"refused": error.message.splitlines()[0]}


def expected(content: Content) -> dict[str, Any]:
    """Return what an example says that it gives, in the form of `results`."""
    found = {key: value for key, value in content.items() if key in RESULTS}
    for population in content.get("population", []):
        for key in OF_POPULATION & set(population):
            found[f"{population['name']}.{key}"] = population[key]
    return found


def _results(content: Content) -> dict[str, Any]:
    network = network_of(content)
    populations = content.get("population", [content])
    found: dict[str, Any] = {}
    if "backend" in content:
        return _on_chip(content, network, populations)
    samples, steps = _samples(content), network.n_steps
    trace = simulate(network, samples, potentials=True)
    found["signal"] = network.input.signal(samples, steps)  # type: ignore[arg-type]
    found["logits"], found["answer"] = trace.logits, trace.logits[:, -1].argmax(axis=1)
    for given, population in zip(populations, network.populations, strict=False):
        prefix = f"{given['name']}." if "population" in content else ""
        found |= {prefix + key: value for key, value in _of_trace(trace, population).items()}
    return found


def _of_trace(trace: Trace, population: Population) -> dict[str, Any]:
    name = population.name
    spikes = trace.spikes[name].astype(np.int64) if name in trace.spikes else None
    return {"potentials": trace.potentials[name], "spikes": spikes, "overflows": trace.overflows[name]}


# --- on the chip ------------------------------------------------------------------------------------------------------


def _on_chip(content: Content, network: IntNetwork, populations: list[Content]) -> dict[str, Any]:
    """Return registers, and the times of a stream."""
    chosen = find_backend(content["backend"])
    bounds = {name: found.bound("proved") for name, found in prove(network).items()}
    lowered = lower(with_bounds(network, bounds), find_target("lava"), chosen.name)
    depth = depths(lowered.network)
    schedule = Schedule(network.n_steps, chosen.flush_steps, depth[network.readout.name])
    found: dict[str, Any] = {"latency": schedule.latency, "period": schedule.period}
    for given, population, registers in zip(populations, lowered.network.populations, lowered.registers, strict=False):
        prefix = f"{given['name']}." if "population" in content else ""
        values = {
            "vth": getattr(registers, "threshold_mantissa", getattr(registers, "threshold", None)),
            "c": getattr(registers, "bias_mantissa", None),
            "autapse": getattr(registers, "self_weight", None),
            "autapse_exponent": getattr(registers, "self_exponent", None),
            "sources": _sources(getattr(registers, "bias_sources", ())),
        }
        found |= {prefix + key: value for key, value in values.items()}
        if len(population.synapses) > 1:
            found["delays"] = list(delays(population, depth))
    return found


def _sources(sources: tuple[BiasSource, ...]) -> list[dict[str, Any]]:
    return [{"weight": source.weight.tolist(), "exponent": source.exponent} for source in sources]


# --- the network ------------------------------------------------------------------------------------------------------


def network_of(content: Content) -> IntNetwork:
    """Return the network of an example; one that has no answer gets a readout."""
    encoding, steps = _input(content), _steps(content)
    shapes: dict[str, Shape] = {INPUT_NAME: encoding.shape}
    populations = []
    for given in content.get("population", [content]):
        populations.append(_population(given, shapes))
        shapes[populations[-1].name] = populations[-1].shape
    last = populations[-1]
    if isinstance(last.neuron, IntegrateFire | GradedReLU):
        neuron = GradedReadout(1.0) if last.neuron.is_graded else Readout(1.0)
        read = Synapse(last.name, np.ones((1, last.n_neurons), np.int32))
        populations.append(Population("answer", (1,), neuron, np.zeros(1, np.int64), (read,)))
    return IntNetwork(encoding, tuple(populations), steps)


def _population(given: Content, shapes: Mapping[str, Shape]) -> Population:
    name, before = given.get("name", "a"), list(shapes)[-1]
    described = given.get("synapses", [given] if "weight" in given else [])
    synapses = tuple(_synapse(each, before) for each in described)
    known = {**shapes, name: (len(synapses[0].weight),) if synapses else shapes[INPUT_NAME]}
    shape = synapses[0].output_shape(known[synapses[0].source]) if synapses else shapes[INPUT_NAME]
    bias = _per_channel(given.get("bias", 0), shape[0])
    return Population(name, shape, NEURONS[given.get("neuron", "integrate-and-fire")](given, shape[0]), bias, synapses)


def _synapse(given: Content, before: str) -> Synapse:
    weight = np.array(given["weight"], np.int32)
    weight = weight.reshape(1, 1) if weight.ndim == 0 else weight
    geometry = {key: value if key == "groups" else tuple(value) for key, value in given.items() if key in _OF_GEOMETRY}
    conv = ConvGeometry(**geometry) if weight.ndim == 4 else None
    delay = np.array(given["delay"], np.int64).reshape(weight.shape) if "delay" in given else None
    return Synapse(given.get("from", before), weight, given.get("exponent", 0), conv, delay)


def _per_channel(value: Any, channels: int) -> Any:
    return np.broadcast_to(np.array(value, np.int64), (channels,)).copy()


def _integrate_fire(given: Content, channels: int) -> IntegrateFire:
    values = (_per_channel(given.get(key, default), channels) for key, default in (("threshold", 1), ("initial", 0)))
    return IntegrateFire(*values, given.get("reset", "subtract"))


def _current_based(given: Content, channels: int) -> CurrentBased:
    decays = (_per_channel(given.get(key, 4096), channels) for key in ("current_decay", "voltage_decay"))
    latency = given.get("latency_of_input", 0)
    return CurrentBased(given["threshold"], *decays, given.get("reset_interval"), latency)


NEURONS: Mapping[str, Callable[[Content, int], Any]] = {
    "integrate-and-fire": _integrate_fire,
    "current-based": _current_based,
    "readout": lambda given, _: Readout(given.get("scale", 1.0)),
    "graded": lambda *_: GradedReLU(),
    "graded readout": lambda given, _: GradedReadout(given.get("scale", 1.0)),
}


# --- the input --------------------------------------------------------------------------------------------------------


def _input(content: Content) -> Input:
    if "pixels" not in content:
        values = _samples(content)
        shape = values.shape[1:] if "samples" in content else values.shape[2:]
        return IntegerInput(shape, 0, 1) if "backend" in content else IntegerInput(shape)
    channels = len(content["pixels"])
    if "mean" in content:
        encode = rate_input if content.get("encoding") == "rate" else encode_input
        return encode((channels,), (content["mean"],), (content["std"],)).encoding
    table = np.zeros((channels, 256), np.int16 if "encoders" in content else np.int8)
    for pixel, value in content["table"].items():
        table[:, int(pixel)] = value
    return (
        RateEncoding((channels,), table, content["encoders"])
        if "encoders" in content
        else InputEncoding((channels,), table)
    )


def _samples(content: Content) -> Any:
    if "pixels" in content:
        return np.array([content["pixels"]], np.uint8)
    if "samples" in content:
        values = np.array(content["samples"])
        return values[:, np.newaxis] if values.ndim == 1 else values
    values = np.array(content.get("input", [0]))
    return values.reshape(1, len(values), *(values.shape[1:] or (1,)))


def _steps(content: Content) -> int:
    return int(content.get("steps", len(content.get("input", [0]))))
