"""Let a forward method call what Python or torch would refuse to call with a stand-in for a tensor, or with its size.

torch.fx records a call where torch or Python hands it over. `len(x)` must be a number, and some functions of torch ask
for numbers before they look whether an argument stands for a tensor.

In: a torch module that is about to be traced. Out: while the block runs, its forward methods find other functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

_ASK_FOR_NUMBERS = (functional.avg_pool2d, functional.avg_pool1d, functional.adaptive_avg_pool1d, torch.reshape)


@contextmanager
def all_recorded(model: nn.Module) -> Iterator[None]:
    """Record every call of a size and with a size while the block runs; afterwards all names are as before."""
    own = [getattr(type(module).forward, "__globals__", {}) for module in model.modules()]
    spaces = {id(space): space for space in (*own, vars(torch), vars(functional))}
    recorders = {id(function): _recorder(function) for function in _ASK_FOR_NUMBERS}
    before = [
        (space, name, value) for space in spaces.values() for name, value in space.items() if id(value) in recorders
    ]
    measured = [space for space in spaces.values() if any(space is one for one in own) and "len" not in space]
    try:
        for space, name, value in before:
            space[name] = recorders[id(value)]
        for space in measured:
            space["len"] = _length
        yield
    finally:
        for space, name, value in before:
            space[name] = value
        for space in measured:
            del space["len"]


def _recorder(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that records its call where an argument stands for a tensor or a size."""

    @wraps(function)
    def record(*arguments: Any, **named: Any) -> Any:
        proxies: list[fx.Proxy] = []
        fx.node.map_aggregate((arguments, named), lambda value: _collect(value, proxies))
        if not proxies:
            return function(*arguments, **named)
        return proxies[0].tracer.create_proxy("call_function", function, arguments, named)

    return record


def _collect(value: Any, proxies: list[fx.Proxy]) -> Any:
    if isinstance(value, fx.Proxy):
        proxies.append(value)
    return value


def _length(value: Any) -> Any:
    return value.size(0) if isinstance(value, fx.Proxy) else len(value)
