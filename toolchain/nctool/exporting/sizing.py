"""The size of a network on a chip, before anything is trained.

In: a FloatNetwork, as traced; a target and a backend. Out: a Sized network, with all that the target does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from nctool.conversion.float_network import FloatNetwork, map_synapses
from nctool.conversion.folding import fold_pooling
from nctool.conversion.input_encoding import encode_input, rate_input, split_input
from nctool.conversion.replicas import Replicas, replicas_by_name, stagger
from nctool.conversion.stand_in import stand_in
from nctool.errors import NctoolError, RangeError, UnsupportedError
from nctool.ir.inputs import EncodingName
from nctool.ir.network import IntNetwork
from nctool_deploy.backends.backend import Backend
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.targets.target import Target

_CENTRE, _REACH = 0.5, 0.25
"""Mean and deviation of pixels: values of either sign, as of most data sets."""


@dataclass(frozen=True)
class Sized:
    """A network of stand-in integers.

    Args:
        network: of the size that the trained one will have.
        lowered: with its cores; None where it does not fit.
        error: why it does not, a line for each reason.
    """

    network: IntNetwork
    lowered: Lowered | None = None
    error: NctoolError | None = None


def size(traced: FloatNetwork, target: Target, backend: Backend, replicas: Replicas, encoding: EncodingName) -> Sized:
    """Place a network that is not trained yet.

    Args:
        traced: whose poolings can be folded.
        target: whose cores it takes, as many as it needs.
        backend: how neurons are built.
        replicas: neurons that share an activation, for all layers or by name.
        encoding: of the input.

    Raises:
        UsageError: replicas for a layer that does not spike.
    """
    folded = map_synapses(traced, fold_pooling)
    staggered = stagger(folded, replicas_by_name(folded, replicas))
    encode = rate_input if encoding == "rate" else encode_input
    encoded = encode(traced.input_shape, (_CENTRE,), (_REACH,))
    real = split_input(staggered, encoded)
    network = stand_in(real, encoded, backend.number_format, backend.steps or 1)
    try:
        return Sized(network, lower(network, target, backend.name, chips=None))
    except (RangeError, UnsupportedError) as error:
        return Sized(network, None, error)
