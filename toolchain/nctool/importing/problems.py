"""All that stands in the way of reading a file, said at once.

In: nodes that were refused. Out: one UnsupportedError that names each, with a hint for each kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nctool.conversion.trace.hints import HINTS
from nctool.errors import UnsupportedError
from nctool.importing.values import RefusedError

_MOST = 12
"""Nodes that a message names; it counts the others."""

_KINDS = {
    "Sigmoid": "Sigmoid",
    "HardSigmoid": "Hardsigmoid",
    "Tanh": "Tanh",
    "Elu": "ELU",
    "Celu": "CELU",
    "Selu": "SELU",
    "LeakyRelu": "LeakyReLU",
    "PRelu": "PReLU",
    "Gelu": "GELU",
    "Erf": "GELU",
    "Mish": "Mish",
    "HardSwish": "Hardswish",
    "Softplus": "Softplus",
    "Softsign": "Softsign",
    "ThresholdedRelu": "LeakyReLU",
    "LayerNormalization": "LayerNorm",
    "GroupNormalization": "GroupNorm",
    "InstanceNormalization": "InstanceNorm2d",
    "LSTM": "LSTM",
    "GRU": "GRU",
    "RNN": "RNN",
    "native_layer_norm": "LayerNorm",
    "leaky_relu": "LeakyReLU",
    "native_group_norm": "GroupNorm",
    "lstm": "LSTM",
    "gru": "GRU",
    "prelu": "PReLU",
}
"""What hints call an operation of a file, where they call it otherwise."""

ENLARGED = "use mode='nearest' with a whole factor, or nn.ConvTranspose2d, and train again"
_HINTS = {
    **dict.fromkeys(("upsample_bilinear2d", "index", "_unsafe_index"), ENLARGED),
    "Attention": "a transformer has no integrate-and-fire form here",
    "as_strided": "export the network again with example images in the usual layout: images.contiguous()",
    "ConvInteger": "export the network in float32, before it is quantised",
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "QLinearConv"), "export it in float32, before quantisation"),
}


@dataclass
class Problems:
    """Collect what was refused.

    Args:
        where: what messages call the network.
    """

    where: str
    found: dict[str, tuple[str, RefusedError]] = field(default_factory=dict)

    def add(self, name: str, kind: str, refused: RefusedError) -> None:
        """Note a node: its name, its operation and why."""
        self.found.setdefault(name, (kind, refused))

    def raise_if_any(self) -> None:
        """Name all of them, if there are any.

        Raises:
            UnsupportedError: there are.
        """
        if self.found:
            raise self.error()

    def error(self) -> UnsupportedError:
        """Return the error that names all of them."""
        named = [_described(name, kind, refused) for name, (kind, refused) in self.found.items()]
        more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
        hints = dict.fromkeys(_hint(kind, refused) for kind, refused in self.found.values())
        return UnsupportedError(
            f"{self.where}: cannot be converted: {', '.join(named[:_MOST])}{more}",
            hint="; ".join(hint for hint in hints if hint)
            or "write the network of Conv, Linear, BatchNorm, ReLU, pooling, sums and joins of channels",
        )


def _described(name: str, kind: str, refused: RefusedError) -> str:
    return f"`{name}` ({kind})" if not refused.reason else f"`{name}` ({kind}: {refused.reason})"


def _hint(kind: str, refused: RefusedError) -> str:
    """Return what to do about a node, with its operation before it, or nothing where its reason says all."""
    if refused.reason and not refused.kind:
        return ""
    plain = kind.rstrip("_")  # of operators that work in place
    hint = _HINTS.get(plain) or HINTS.get(refused.kind or _KINDS.get(plain, plain))
    return f"{kind}: {hint}" if hint else ""
