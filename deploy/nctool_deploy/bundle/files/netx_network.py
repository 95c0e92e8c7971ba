"""The network of `model.net` in Lava: the netx loader of lava-dl makes it."""

import json
from pathlib import Path

import numpy as np
from lava.lib.dl.netx import hdf5
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.source import RingBuffer

HERE = Path(__file__).parent
FACTS = json.loads((HERE / "network.json").read_text(encoding="utf-8"))
STATE_SHIFT = 6  # Lava holds a voltage v as v * 2**6


def logits(signal):
    """Return the logits of each sample after its window, int64 (samples, classes).

    signal: what enters at each step, int32 (samples, steps, channels, ...), as `encoding.encode` returns it.
    """
    n_steps, clearing = signal.shape[1], {}
    if FACTS["keeps_potential"]:  # it is cleared before each sample
        clearing = {"reset_interval": n_steps, "reset_offset": 1}
    bits = FACTS["input_bits"]  # 0 for spikes
    network = hdf5.Network(net_config=str(HERE / "model.net"), input_message_bits=bits, **clearing)
    depth, shape = len(network.layers), network.inp.shape
    steps = signal.reshape(-1, *(signal.shape[2:] if len(shape) == 3 else [np.prod(shape)]))
    data = np.zeros((*shape, len(steps) + depth), np.int32)
    data[..., : len(steps)] = steps.T  # Lava's order is width, height, channel, step
    source = RingBuffer(data=data)
    source.s_out.connect(network.inp)
    answers, config = [], Loihi2SimCfg(select_tag="fixed_pt")
    try:
        for number in range(len(signal)):  # a layer computes one step behind the one before it
            condition = RunSteps(num_steps=n_steps if number else n_steps + depth)
            network.run(condition=condition, run_cfg=config)
            answers.append(network.layers[-1].neuron.v.get().astype(np.int64) >> STATE_SHIFT)
    finally:
        network.stop()  # its processes would wait for ever
    return np.array(answers)
