"""Build the torch module of a program of torch's operators, call by call, for the readers of its files.

In: calls with named arguments. Out: what each gives: a value of the network, or a constant that is computed on the way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nctool.errors import first_line
from nctool.importing.builder import Builder
from nctool.importing.convolution import LARGEST_WINDOW
from nctool.importing.problems import Problems
from nctool.importing.torch_layers import HANDLERS, Call
from nctool.importing.values import MISFITS, RefusedError, Value

_ATEN: Any = torch.ops.aten  # type: ignore[attr-defined]
_FOLDED = frozenset(
    {
        "add",
        "alias",
        "clamp",
        "clone",
        "contiguous",
        "detach",
        "div",
        "lift_fresh_copy",
        "mul",
        "neg",
        "permute",
        "reciprocal",
    }
    | {"reshape", "rsqrt", "sqrt", "squeeze", "sub", "t", "transpose", "unsqueeze", "view"}
)
"""Operators on constants that are computed here: none of them makes more numbers than it gets."""

_ON_NUMBERS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "eq", "ne", "lt", "le", "gt", "ge")},
    "__getitem__": operator.getitem,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__not__": operator.not_,
    "len": len,
    "Int": int,
    "dim": len,
    "NumToTensor": int,
    "ScalarImplicit": int,
    "IntImplicit": int,
    "Bool": bool,
}
"""What a forward method computes of sizes."""


class Unread:
    """What a call gives that was refused: whoever reads it is not to blame."""


@dataclass
class Program:
    """A program while it is read.

    Args:
        layers: what is built.
        problems: what was refused.
        known: what each name stands for.
    """

    layers: Builder
    problems: Problems
    known: dict[str, Any] = field(default_factory=dict)

    def call(self, name: str, kind: str, arguments: Mapping[str, Any], outputs: Sequence[str]) -> None:
        """Read a call.

        Args:
            name: what messages call it.
            kind: the operator, `conv2d` or `relu_`.
            arguments: with everything that they name put in.
            outputs: names of what it gives.
        """
        try:
            result = self._result(name, kind, arguments)
        except RefusedError as refused:
            self.problems.add(name, kind, refused)
            result = Unread()
        except MISFITS as error:
            self.problems.add(name, kind, RefusedError(f"does not fit: {first_line(error)}"))
            result = Unread()
        self.known |= dict.fromkeys(outputs, Unread())
        if outputs:
            self.known[outputs[0]] = result

    def _result(self, name: str, kind: str, arguments: Mapping[str, Any]) -> Any:
        plain = kind.removesuffix("_") if kind.removesuffix("_") in HANDLERS else kind
        held = list(_leaves(list(arguments.values())))
        if any(isinstance(it, Unread) for it in held):
            if plain not in HANDLERS and plain not in _FOLDED and plain not in _SIZES:
                raise RefusedError
            return Unread()
        if plain in _SIZES and isinstance(held[0], Value):
            return _size(held[0], arguments)
        if any(isinstance(it, Value) for it in held):
            if plain == "dim":
                return len(held[0].axes)
            if plain not in HANDLERS:
                raise RefusedError
            return HANDLERS[plain](Call(name, plain, arguments), self.layers)
        return _computed(plain, arguments, held)


_SIZES = ("size", "sym_size")


def _size(value: Value, arguments: Mapping[str, Any]) -> Any:
    axis = arguments.get("dim")
    return list(value.seen) if axis is None else value.seen[axis]


def _computed(kind: str, arguments: Mapping[str, Any], held: list[Any]) -> Any:
    """Return what an operator computes of constants."""
    if kind == "arange" and isinstance(arguments.get("end"), int) and arguments["end"] <= LARGEST_WINDOW:
        return torch.arange(arguments["end"], dtype=arguments.get("dtype"))
    if kind == "_to_copy" and isinstance(arguments.get("self"), Tensor):
        return arguments["self"].to(arguments.get("dtype"))
    tensors = any(isinstance(it, Tensor) for it in held)
    try:
        if tensors and kind in _FOLDED:
            with torch.no_grad():
                return getattr(_ATEN, kind)(*arguments.values())
        if not tensors and kind in _ON_NUMBERS:
            return _ON_NUMBERS[kind](*list(arguments.values())[:2])
    except Exception as error:  # whatever an operator says of arguments that do not fit
        raise RefusedError(f"does not fit: {first_line(error)}") from error
    raise RefusedError


def _leaves(value: Any) -> Any:
    """Yield what is in lists of lists."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def module_name(arguments: Mapping[str, str], fallback: str) -> str:
    """Return the name of the module that a call belongs to: that of its weights, if it has some.

    Args:
        arguments: names of the tensors that it takes, by the names of the operator.
        fallback: the name where there are none.
    """
    weight = arguments.get("weight", "").removeprefix("self.")
    stem, _, own = weight.rpartition(".")
    return stem if own.startswith("weight") and stem else fallback
