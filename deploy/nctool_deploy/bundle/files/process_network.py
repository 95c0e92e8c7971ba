"""The network of `registers.npz` in Lava: stock processes, of flat arrays in (channel, height, width) order."""

import json
from pathlib import Path

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.graded.process import GradedReluVec, GradedVec
from lava.proc.io.reset import Reset
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode
from scipy.sparse import csr_matrix

HERE = Path(__file__).parent
FACTS = json.loads((HERE / "network.json").read_text(encoding="utf-8"))
with np.load(HERE / "registers.npz") as numbers:
    NUMBERS = dict(numbers)
DEPTH, FLUSH, STATE_SHIFT, NO_DECAY = FACTS["depth"], FACTS["flush_steps"], 6, -1


def sparse(values, exponent, bits=8, delay=0):
    """Return a synapse of 8-bit weights, which Lava holds doubled, with an exponent and perhaps a delay."""
    matrix = csr_matrix(values, dtype=np.int64)
    kind, more = Sparse, {}
    if delay:
        waits = matrix.copy()
        waits.data[:] = delay
        kind, more = DelaySparse, {"delays": waits}
    form = {"weight_exp": exponent - 1, "num_weight_bits": 8, "sign_mode": SignMode.MIXED, "num_message_bits": bits}
    return kind(weights=matrix * 2, **form, **more)


def neurons(layer, period, n_steps):
    """Return the neurons of a layer, and what clears them; they compute `depth` steps behind the input."""
    kind, shape, depth = layer["kind"], (layer["neurons"],), layer["depth"]
    if kind in ("graded", "graded readout"):
        return (GradedVec if kind == "graded readout" else GradedReluVec)(shape=shape, vth=layer["threshold"]), []
    bias = NUMBERS[f"{layer['name']}/bias_mantissa"]
    same = {"shape": shape, "dv": 4096, "vth": layer["threshold"], "bias_mant": bias, "bias_exp": STATE_SHIFT}
    if kind == "maximum":
        return LIF(du=4095, **same), []
    fires = kind == "fires"
    clearing = {"reset_interval": period, "reset_offset": depth if fires else depth + 1}
    neuron = LIFReset(du=NO_DECAY, **clearing, **same)
    if not fires:
        return neuron, []
    itself = sparse(np.diag(NUMBERS[f"{layer['name']}/self_weight"]), layer["self_exponent"])
    neuron.s_out.connect(itself.s_in)
    itself.a_out.connect(neuron.a_in)
    reset = Reset(interval=period, offset=n_steps + depth)
    reset.connect_var(neuron.u)
    return neuron, [itself, reset]


def build(signal):
    """Return all processes by name, and the sink of the last layer's messages where these are the logits."""
    (n_samples, n_steps), period = signal.shape[:2], signal.shape[1] + FLUSH
    n_total = n_samples * period + DEPTH
    data = np.zeros((n_samples, period, signal[0, 0].size), np.int32)
    data[:, :n_steps] = signal.reshape(n_samples, n_steps, -1)
    data = np.concatenate([data.reshape(n_samples * period, -1), np.zeros((DEPTH, data.shape[-1]), np.int32)])
    made, kept = {"input": Source(data=data.T)}, []
    for layer in FACTS["layers"]:
        name, steps = layer["name"], np.arange(n_total) - (layer["depth"] - 1)
        neuron, parts = neurons(layer, period, n_steps)
        kept += parts
        for number, branch in enumerate(layer["synapses"]):
            values, rows, columns = (NUMBERS[f"{name}/{number}/{each}"] for each in ("weights", "targets", "sources"))
            matrix = csr_matrix((values, (rows, columns)), (layer["neurons"], branch["inputs"]), dtype=np.int64)
            synapse = sparse(matrix, branch["exponent"], branch["bits"], branch["delay"])
            made[branch["source"]].s_out.connect(synapse.s_in)
            synapse.a_out.connect(neuron.a_in)
        active = (steps >= 0) & (steps % period < n_steps) & (steps < n_samples * period)
        for number, exponent in enumerate(layer["bias_exponents"]):  # a bias comes from a source that is always on
            on, synapse = Source(data=active[np.newaxis]), sparse(NUMBERS[f"{name}/bias/{number}"][:, None], exponent)
            on.s_out.connect(synapse.s_in)
            synapse.a_out.connect(neuron.a_in)
        made[name] = neuron
    sink = None
    if FACTS["layers"][-1]["kind"] == "graded readout":
        sink = Sink(shape=neuron.s_out.shape, buffer=n_total)
        neuron.s_out.connect(sink.a_in)
    return neuron, sink, kept


def logits(signal):
    """Return the logits of each sample after its window, int64 (samples, classes).

    signal: what enters at each step, int32 (samples, steps, channels, ...), as `encoding.encode` returns it.
    """
    last, sink, _kept = build(signal)
    n_steps, answers, config = signal.shape[1], [], Loihi2SimCfg(select_tag="fixed_pt")
    depth = FACTS["layers"][-1]["depth"]  # of the last layer, which others may exceed
    try:
        for number in range(len(signal)):
            condition = RunSteps(num_steps=n_steps + FLUSH if number else n_steps + depth)
            last.run(condition=condition, run_cfg=config)
            if sink is None:
                answers.append(last.u.get().astype(np.int64) >> STATE_SHIFT)
        if sink is not None:
            answers = sink.data.get().astype(np.int64).T[depth : depth + len(signal)]
    finally:
        last.stop()  # its processes would wait for ever
    return np.array(answers)
