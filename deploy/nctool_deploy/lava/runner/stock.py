"""Build the stock Network of lava-dl, unchanged, for an exported file of a stock realisation.

In: an exported file. Out: a Lava process. Must not import torch itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lava.lib.dl.netx import hdf5

from nctool.ir.network import IntNetwork

GRADED_BITS = 8
FIRST_DATA = 1
"""`reset_offset` that clears each layer when the first data of a sample arrives: the input layer has no neuron."""


def exported_network(path: Path, network: IntNetwork, reset_interval: int | None) -> tuple[hdf5.Network, Any]:
    """Return the stock Network of a file that holds `network`, and the voltage of its readout.

    Args:
        reset_interval: clear all states every so many time steps; None for never.
    """
    process = hdf5.Network(
        net_config=str(path),
        input_message_bits=0 if network.has_binary_input else GRADED_BITS,
        reset_interval=reset_interval,
        reset_offset=FIRST_DATA,
    )
    return process, process.out_layer.neuron.v
