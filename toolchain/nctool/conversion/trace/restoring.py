"""Run a module of the user and leave it as it was: its modes, attributes and numbers, and the random generators.

In: a torch module. Out: an UnsupportedError where its forward method changes weights or draws random numbers in
evaluation mode: what is read from such a module is another network.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nctool.conversion.trace.hints import unsupported


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, without gradients; on exit all is as it was.

    Raises:
        UnsupportedError: what ran inside changed a parameter or a buffer, or drew random numbers.
    """
    with restored(model) as before:
        model.eval()
        for module in model.modules():
            vars(module).pop("_compiled_call_impl", None)  # the same forward method, compiled
        with torch.no_grad():
            yield
        before.require_unchanged()


@contextmanager
def restored(model: nn.Module) -> Iterator[State]:
    """Restore a module on exit, also by an error, whatever the block did with it."""
    before = State(model)
    try:
        yield before
    finally:
        before.put_back()


class State:
    """What a module holds, a copy of its numbers, and the state of the random generators.

    Args:
        model: whose state it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._attributes = [(module, dict(vars(module))) for module in model.modules()]
        tables = (
            value for _, attributes in self._attributes for value in attributes.values() if isinstance(value, dict)
        )
        self._tables = [(table, dict(table)) for table in tables]
        self._tensors = {name: (tensor, tensor.data, tensor.data.clone()) for name, tensor in _tensors(model).items()}
        self._generators = _Generators({tensor.device for tensor, _, _ in self._tensors.values() if tensor.is_cuda})

    def require_unchanged(self) -> None:
        """Refuse with an UnsupportedError a module that changed its weights or drew random numbers."""
        kind, tensors = type(self._model).__name__, _tensors(self._model)
        for name, (_, _, copy) in self._tensors.items():
            if name not in tensors or not _equal(tensors[name].data, copy):
                raise unsupported(
                    f"model `{kind}` (its forward method changes `{name}`)",
                    "change it once, before nctool.prepare, and take the change out of the forward method",
                )
        if self.drew():
            raise unsupported(
                f"model `{kind}` (its forward method draws random numbers in evaluation mode)",
                "draw them in training mode only: nn.Dropout(p), or functional.dropout(x, p, self.training)",
            )

    def drew(self) -> bool:
        """Return whether random numbers were drawn since."""
        return self._generators.moved()

    def put_back(self) -> None:
        """Restore all attributes, numbers and generators."""
        for module, attributes in self._attributes:
            vars(module).clear()
            vars(module).update(attributes)
        for table, content in self._tables:  # the very dictionaries: the handle of a hook knows that of its module
            table.clear()
            table.update(content)
        for tensor, data, copy in self._tensors.values():
            tensor.data = data
            if not torch.equal(data, copy):
                data.copy_(copy)
        self._generators.put_back()


class _Generators:
    """States of the random generators that a forward method may draw from.

    Args:
        devices: whose generators count beside those of the host.
    """

    def __init__(self, devices: set[torch.device]) -> None:
        self._devices = devices
        self._before = self._states()

    def moved(self) -> bool:
        """Return whether a generator gave numbers since."""
        return not all(_same_state(*pair) for pair in zip(self._before, self._states(), strict=True))

    def put_back(self) -> None:
        """Restore the states of all generators."""
        python, numpy, host, *cuda = self._before
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - networks of users draw from NumPy's global generator
        torch.set_rng_state(host)
        for device, state in zip(self._devices, cuda, strict=True):
            torch.cuda.set_rng_state(state, device)

    def _states(self) -> list[Any]:
        cuda = [torch.cuda.get_rng_state(device) for device in self._devices]
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
        return [random.getstate(), numpy, torch.get_rng_state(), *cuda]


def _same_state(before: Any, now: Any) -> bool:
    if isinstance(before, dict):
        return all(_same_state(value, now[key]) for key, value in before.items())
    return bool((before == now).all()) if isinstance(before, np.ndarray | Tensor) else bool(before == now)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _equal(before: Tensor, now: Tensor) -> bool:
    """Return whether two tensors hold the same numbers; one that is no number is the same as another such."""
    if before.dtype != now.dtype or before.shape != now.shape:
        return False
    return torch.equal(before, now) or bool(((before == now) | (before.isnan() & now.isnan())).all())
