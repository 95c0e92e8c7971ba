"""The known answers in a file: a few inputs, and what the network must answer.

Spikes are packed, eight to a byte. What graded spikes carry stands beside them, one number for each spike, in the
smallest unsigned type that holds all of a population.

In: the group `/nctool/known_answers`. Out: KnownAnswers, or a FormatError. Must not import torch or Lava.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError
from nctool.ir.network import INPUT_NAME, PAYLOAD_LIMIT, IntNetwork
from nctool.reference.trace import Spikes, Trace
from nctool_deploy.hdf5 import Node
from nctool_deploy.netx.netx_file import KnownAnswers

PAYLOAD_TYPES = (np.uint8, np.uint16, np.uint32)


def write_answers(group: h5py.Group, network: IntNetwork, answers: KnownAnswers) -> None:
    """Fill the group."""
    _put(group, INPUT_NAME, answers.pixels)
    _put(group, "logits", answers.trace.logits)
    packed, payloads = group.create_group("spikes"), group.create_group("payloads") if network.is_graded else None
    for number, population in enumerate(network.populations[:-1]):
        sent = answers.trace.spikes[population.name].reshape(-1)
        _put(packed, str(number), np.packbits(sent != 0))
        if payloads is not None:
            _put(payloads, str(number), _smallest(sent[sent != 0]))


def _smallest(values: NDArray[Any]) -> NDArray[Any]:
    largest = int(values.max(initial=0))
    return values.astype(next(kind for kind in PAYLOAD_TYPES if largest <= np.iinfo(kind).max))


def _put(group: h5py.Group, key: str, values: NDArray[Any]) -> None:
    group.create_dataset(key, data=values, track_times=False)


def read_answers(node: Node, network: IntNetwork) -> KnownAnswers:
    """Return what `write_answers` wrote of `network`, or refuse it with a FormatError."""
    pixels = node.array(INPUT_NAME, np.uint8, 1 + len(network.input.sample_shape))
    n_samples, n_steps = len(pixels), network.n_steps
    logits = node.array("logits", np.int64, 3)
    expected = (n_samples, n_steps, *network.readout.shape)
    if n_samples == 0 or pixels.shape[1:] != network.input.sample_shape or logits.shape != expected:
        raise FormatError(f"`{node.name}`: {n_samples} inputs and logits {logits.shape} do not fit the network")
    spikes: dict[str, Spikes] = {}
    packed, payloads = node.child("spikes"), node.child("payloads") if network.is_graded else None
    for number, population in enumerate(network.populations[:-1]):
        shape, key = (n_samples, n_steps, *population.shape), str(number)
        fired = _read_spikes(packed, key, int(np.prod(shape)))
        sent = fired if payloads is None else _read_payloads(payloads, key, fired)
        spikes[population.name] = sent.reshape(shape)
    names = [population.name for population in network.populations]
    return KnownAnswers(pixels, Trace(spikes, logits, dict.fromkeys(names, 0), {}))


def _read_spikes(packed: Node, key: str, count: int) -> NDArray[np.bool_]:
    bits = packed.array(key, np.uint8, 1)
    if bits.size != -(-count // 8):
        raise FormatError(f"`{packed.name}/{key}` holds {bits.size} bytes, allowed {-(-count // 8)}")
    return np.unpackbits(bits, count=count).astype(np.bool_)


def _read_payloads(payloads: Node, key: str, fired: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return what each neuron sends, 0 where it does not fire."""
    values, where = payloads.array(key, PAYLOAD_TYPES, 1), f"`{payloads.name}/{key}`"
    if values.size != np.count_nonzero(fired):
        raise FormatError(f"{where} holds {values.size} numbers, allowed {np.count_nonzero(fired)}, one for each spike")
    low, high = int(values.min(initial=1)), int(values.max(initial=1))
    if low < 1 or high > PAYLOAD_LIMIT:
        raise FormatError(f"{where} holds {low}..{high}, allowed 1..{PAYLOAD_LIMIT}")
    sent = np.zeros(fired.shape, np.int32)
    sent[fired] = values
    return sent
