"""Read a file of torch.jit.save by torch's own reader of TorchScript, which loads no Python objects.

In: a path and the sizes of an image, which TorchScript does not hold. Out: a `NetworkFile`, or an error that names the
place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nctool.errors import FormatError, UnsupportedError, first_line
from nctool.importing.ends import finished, started
from nctool.importing.network_file import NetworkFile
from nctool.importing.problems import Problems
from nctool.importing.torch_program import Program, Unread, module_name
from nctool.importing.values import BATCH, RefusedError, Sizes

_optimized: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]


def read_script(path: Path, sizes: Sizes) -> NetworkFile:
    """Read a file of torch.jit.save.

    Args:
        path: of the file.
        sizes: of one image, (C, H, W), (C, length) or (features,).

    Raises:
        FormatError: it is damaged.
        UnsupportedError: it holds operators that cannot be converted, all of which are named, or has several inputs.
    """
    module = _loaded(path)
    graph = _frozen(module, path)
    _, *inputs = graph.inputs()
    if len(inputs) != 1 or len(list(graph.outputs())) != 1:
        raise UnsupportedError(
            f"`{path}`: has {len(inputs)} inputs and {len(list(graph.outputs()))} outputs, allowed one of each: the "
            "images and the logits"
        )
    problems = Problems(f"`{path}`")
    program = Program(started("images", (BATCH, *sizes), None, problems), problems)
    program.known[inputs[0].debugName()] = program.layers.images
    _read_nodes(graph, program)
    problems.raise_if_any()
    (output,) = (program.known.get(it.debugName()) for it in graph.outputs())
    network = finished(program.layers, output, problems)
    layers, run = program.layers, _runner(module, program.layers.to_file, path)
    return NetworkFile(network, layers.image_sizes, layers.images.seen[1:], None, run, "torch")


def _loaded(path: Path) -> torch.jit.ScriptModule:
    try:
        with _quiet():
            module: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")
        return module.eval() if hasattr(module, "training") else module
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise FormatError(
            f"`{path}`: truncated, damaged or of a newer torch ({first_line(error)})",
            hint="save the network again, or copy it again",
        ) from error


def _frozen(module: torch.jit.ScriptModule, path: Path) -> Any:
    """Return the graph of a module, with all that it calls and its weights in it."""
    try:
        with _quiet():
            return torch.jit.freeze(module, optimize_numerics=False).inlined_graph
    except RuntimeError as error:
        raise UnsupportedError(
            f"`{path}`: torch cannot freeze it ({first_line(error)})", hint="save the network after .eval()"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what newer versions of torch say of TorchScript: whoever opens a file did not choose it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _read_nodes(block: Any, program: Program) -> None:
    for node in block.nodes():
        try:
            _read_node(node, program)
        except RefusedError as refused:
            program.problems.add(_name(node), node.kind().rpartition("::")[2], refused)
            program.known |= {it.debugName(): Unread() for it in node.outputs()}


def _read_node(node: Any, program: Program) -> None:
    library, _, kind = node.kind().partition("::")
    given = [program.known.get(it.debugName(), Unread()) for it in node.inputs()]
    outputs = [it.debugName() for it in node.outputs()]
    if library == "prim" and kind in _PRIMITIVES:
        program.known |= dict(zip(outputs, _PRIMITIVES[kind](node, given), strict=True))
    elif library == "prim" and kind == "If":
        _read_branch(node, given[0], program)
    elif library in ("aten", "prim"):
        names = _argument_names(node)
        tensors = {name: it.debugName() for name, it in zip(names, node.inputs(), strict=False)}
        arguments = dict(zip(names, given, strict=False))
        program.call(module_name(tensors, _name(node)), kind, arguments, outputs)
        if kind.endswith("_") and not kind.endswith("__"):
            program.known[next(node.inputs()).debugName()] = program.known[outputs[0]]
    else:
        raise RefusedError


def _constant(node: Any, given: list[Any]) -> list[Any]:
    del given
    return [node.output().toIValue()]


def _listed(node: Any, given: list[Any]) -> list[Any]:
    del node
    return [given]


def _unpacked(node: Any, given: list[Any]) -> list[Any]:
    """Return what is in a list; of one that was refused, as much for each."""
    held = given[0]
    return list(held) if isinstance(held, list | tuple) else [Unread()] * len(list(node.outputs()))


_PRIMITIVES: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    "Constant": _constant,
    **dict.fromkeys(("ListConstruct", "TupleConstruct"), _listed),
    **dict.fromkeys(("ListUnpack", "TupleUnpack"), _unpacked),
}


def _read_branch(node: Any, condition: Any, program: Program) -> None:
    """Read the branch that is taken for images of this size."""
    if not isinstance(condition, bool | int):
        raise RefusedError("depends on the images")
    taken = list(node.blocks())[0 if condition else 1]
    _read_nodes(taken, program)
    results = [program.known.get(it.debugName(), Unread()) for it in taken.outputs()]
    program.known |= dict(zip((it.debugName() for it in node.outputs()), results, strict=True))


def _argument_names(node: Any) -> list[str]:
    schema = node.schema()
    if schema == "(no schema)":
        return [str(place) for place, _ in enumerate(node.inputs())]
    return [argument.name for argument in torch._C.parse_schema(schema).arguments]


def _name(node: Any) -> str:
    scope = node.scopeName().rpartition("/")[2].removeprefix("__module.")
    results = [it.debugName() for it in node.outputs()]
    return str(scope or (results[0] if results else node.kind()))


def _runner(
    module: torch.jit.ScriptModule, to_file: Callable[[Tensor], Tensor], path: Path
) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        try:
            with _optimized(False):  # compiling it takes longer than running it
                scores: Tensor = module(to_file(images))
        except RuntimeError as error:
            raise FormatError(f"`{path}`: torch does not run it ({first_line(error)})") from error
        return scores

    return run
