"""Build the stock Network of lava-dl, unchanged, for an exported file of a stock realisation.

In: an exported file. Out: a Lava process and the schedule of a stream of samples. Must not import torch itself.
"""

from __future__ import annotations

from pathlib import Path

from lava.lib.dl.netx import hdf5

from nctool.errors import UnsupportedError
from nctool_deploy.backends.backend import find_realisation
from nctool_deploy.lava.runner.schedule import Schedule
from nctool_deploy.netx import NetxFile

GRADED_BITS = 8
FIRST_DATA = 1
"""`reset_offset` that clears each layer when the first data of a sample arrives: the input layer has no neuron."""


def stock_network(path: Path, content: NetxFile, n_steps: int) -> hdf5.Network:
    """Return the stock Network: neurons with memory are cleared at the start of every window (docs/SEMANTICS.md, P3).

    Raises:
        UnsupportedError: the realisation cannot run a window of `n_steps`.
    """
    realisation = find_realisation(content.metadata.realisation)
    if realisation.steps not in (None, n_steps):
        raise UnsupportedError(f"realisation `{realisation.name}`: a window of {n_steps} steps, allowed 1")
    has_memory = realisation.voltage_decay == 0
    return hdf5.Network(
        net_config=str(path),
        input_message_bits=0 if content.network.has_binary_input else GRADED_BITS,
        reset_interval=n_steps if has_memory else None,
        reset_offset=FIRST_DATA,
    )


def stock_schedule(content: NetxFile, n_samples: int, n_steps: int) -> Schedule:
    """Return a stream of samples without a pause between them."""
    return Schedule(n_steps, n_samples, len(content.network.populations), flush_steps=0)
