"""Read a file of torch.export.save: its graph from JSON, its weights as bytes.

torch.export.load is not used: some versions of it run code that a file may hold, and it reads only files of its own
version.

In: an archive. Out: a `NetworkFile`, or an error that names the place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nctool.errors import FormatError, UnsupportedError, first_line
from nctool.importing.archive import Archive
from nctool.importing.ends import finished, started
from nctool.importing.network_file import NetworkFile
from nctool.importing.problems import Problems
from nctool.importing.torch_program import Program, module_name
from nctool.importing.values import BATCH, MISFITS, Sizes

GRAPHS = ("serialized_exported_program.json", "models/model.json")
"""Where the graph is, in files of torch up to 2.6 and of newer ones."""

_WEIGHTS = {
    GRAPHS[0]: ("serialized_state_dict.pt", "serialized_constants.pt"),
    GRAPHS[1]: ("data/weights/model.pt", "data/constants/model.pt"),
}
_CONFIGS = {"data/weights": "model_weights_config.json", "data/constants": "model_constants_config.json"}
_TYPES = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16}
_TYPES |= {7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
_FLOAT = 7
_OPERATORS = "torch.ops.aten."
_ATEN: Any = torch.ops.aten  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Name:
    """A tensor or a number that an earlier node gives."""

    name: str

    def __post_init__(self) -> None:
        _text(self.name)


def _text(it: Any) -> str:
    if not isinstance(it, str):
        raise TypeError("a name is no text")
    return it


@dataclass(frozen=True)
class _Node:
    """A call in the file.

    Args:
        kind, overload: the operator, `conv2d` and `default`.
        arguments: numbers, lists and `_Name`.
        outputs: names of what it gives.
    """

    kind: str
    overload: str
    arguments: Mapping[str, Any]
    outputs: list[str]


@dataclass(frozen=True)
class _Graph:
    """The file, read.

    Args:
        nodes: in order.
        tensors: weights, by the name that the graph gives them.
        called: the same, by the name that the network gave them.
        images, output: names.
        sizes: of the images, the first is `BATCH`.
        batch: number of images that it takes, None for any.
    """

    nodes: list[_Node]
    tensors: dict[str, Tensor]
    called: dict[str, str]
    images: str
    output: str
    sizes: Sizes
    batch: int | None


def read_exported(path: Path, archive: Archive, graph_name: str) -> NetworkFile:
    """Read a file of torch.export.save.

    Raises:
        FormatError: it is damaged, or holds objects beside tensors.
        UnsupportedError: it holds operators that cannot be converted, all of which are named; or it takes something
            else than images of one fixed size.
    """
    try:
        graph = _read(archive, graph_name)
    except MISFITS as error:
        raise archive.damaged(f"{type(error).__name__}: {first_line(error)}") from error
    problems = Problems(f"`{path}`")
    program = Program(started(graph.images, graph.sizes, graph.batch, problems), problems)
    program.known = {**graph.tensors, graph.images: program.layers.images}
    for node in graph.nodes:
        _require_known(node, program.known, archive)
        names = {key: graph.called.get(it.name, "") for key, it in node.arguments.items() if isinstance(it, _Name)}
        name = module_name(names, node.outputs[0] if node.outputs else node.kind)
        program.call(name, node.kind, _resolved(node.arguments, program.known), node.outputs)
        if node.kind.endswith("_") and node.outputs:
            changed = next(_names(list(node.arguments.values())[:1]), "")
            program.known[changed] = program.known[node.outputs[0]]
    problems.raise_if_any()
    network = finished(program.layers, program.known.get(graph.output), problems)
    layers, run = program.layers, _runner(graph, program.layers.to_file, path)
    return NetworkFile(network, layers.image_sizes, layers.images.seen[1:], graph.batch, run, "torch")


def _require_known(node: _Node, known: Mapping[str, Any], archive: Archive) -> None:
    """Refuse a node that reads what no node before it gives."""
    for name in _names(list(node.arguments.values())):
        if name not in known:
            raise archive.damaged(f"nothing gives `{name}`")


def _names(it: Any) -> Iterator[str]:
    if isinstance(it, _Name):
        yield it.name
    elif isinstance(it, list):
        for each in it:
            yield from _names(each)


def _read(archive: Archive, graph_name: str) -> _Graph:
    whole = archive.json(graph_name)["graph_module"]
    graph, signature = whole["graph"], whole["signature"]
    held = _weights(archive, graph_name)
    called: dict[str, str] = {}
    images: list[str] = []
    for spec in signature["input_specs"]:
        ((kind, it),) = spec.items()
        if kind == "user_input":
            images += [] if _only(it["arg"])[0] == "as_none" else [_text(_only(it["arg"])[1]["name"])]
        elif kind in ("parameter", "buffer", "tensor_constant"):
            called[it["arg"]["name"]] = it[f"{kind}_name"]
        else:
            raise UnsupportedError(f"`{archive.path}`: has an input of kind {kind}, allowed images and weights")
    outputs = [_only(it) for it in signature["output_specs"]]
    if len(images) != 1 or [kind for kind, _ in outputs] != ["user_output"]:
        raise UnsupportedError(
            f"`{archive.path}`: has {len(images)} inputs, and gives {', '.join(kind for kind, _ in outputs)}; allowed "
            "images and one output",
            hint="export the network after .eval(), with the logits as its only output",
        )
    sizes, batch = _image_sizes(graph["tensor_values"][images[0]], images[0], archive.path)
    output = _text(_only(outputs[0][1]["arg"])[1]["name"])
    tensors = {name: held[own] for name, own in called.items()}
    return _Graph([_node(it) for it in graph["nodes"]], tensors, called, images[0], output, sizes, batch)


def _only(union: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the one entry of what is one of several kinds."""
    ((kind, it),) = union.items()
    return kind, it


def _image_sizes(meta: Mapping[str, Any], name: str, path: Path) -> tuple[Sizes, int | None]:
    if meta["dtype"] != _FLOAT or len(meta["sizes"]) < 2:
        raise UnsupportedError(
            f"`{path}`: input `{name}` is no float32 images", hint="export the network in float32, with images (N, ...)"
        )
    first, *rest = meta["sizes"]
    for axis, size in enumerate(rest, start=1):
        if "as_int" not in size:
            raise UnsupportedError(
                f"`{path}`: axis {axis} of input `{name}` has no fixed size",
                hint="export with fixed sizes: only the first axis, that of the images, may be dynamic",
            )
    return (BATCH, *(int(size["as_int"]) for size in rest)), int(first["as_int"]) if "as_int" in first else None


# --- weights --------------------------------------------------------------------------------------------------------
def _weights(archive: Archive, graph_name: str) -> dict[str, Tensor]:
    """Return all tensors of the file by the names that the network gave them."""
    kind = next(it for it in GRAPHS if graph_name.endswith(it))
    found: dict[str, Tensor] = {}
    for ending in _WEIGHTS[kind]:
        member = archive.find(ending)
        found |= archive.tensors(member) if member else {}
    for folder, ending in _CONFIGS.items():
        config = archive.find(f"{folder}/{ending}")
        if config:
            found |= {name: _raw(archive, config, it) for name, it in archive.json(config)["config"].items()}
    return found


def _raw(archive: Archive, config: str, payload: Mapping[str, Any]) -> Tensor:
    """Return a tensor whose bytes are a member of their own."""
    byteorder = archive.find("byteorder")
    if byteorder and archive.read(byteorder).decode("ascii", "replace").strip() != sys.byteorder:
        raise archive.damaged("the order of its bytes is not that of this machine")
    if payload.get("use_pickle") or not payload.get("tensor_meta"):
        raise FormatError(
            f"`{archive.path}`: `{payload['path_name']}` is an object, and could run code when it is loaded",
            hint="export a network whose constants are tensors",
        )
    meta = payload["tensor_meta"]
    content = archive.read(f"{config.rpartition('/')[0]}/{payload['path_name']}")
    dtype = _TYPES[meta["dtype"]]
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
    sizes, strides = ([int(size["as_int"]) for size in meta[key]] for key in ("sizes", "strides"))
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"]))


# --- nodes ----------------------------------------------------------------------------------------------------------
def _node(it: Mapping[str, Any]) -> _Node:
    target = it["target"]
    kind, _, overload = target.removeprefix(_OPERATORS).partition(".")
    if not target.startswith(_OPERATORS):
        kind, overload = target.rpartition(".")[2], ""
    arguments = {argument["name"]: _argument(argument["arg"]) for argument in it["inputs"]}
    outputs = [name for output in it["outputs"] for name in _output_names(*_only(output))]
    return _Node(kind, overload or "default", arguments, outputs)


def _output_names(kind: str, it: Any) -> list[str]:
    if kind == "as_none":
        return []
    if kind == "as_tensors":
        return [_text(each["name"]) for each in it]
    return [_text(it["as_name"] if "as_name" in it else it["name"])]


def _argument(union: Mapping[str, Any]) -> Any:
    kind, it = _only(union)
    if kind not in _ARGUMENTS:
        raise ValueError(f"an argument is of kind {kind}")
    return _ARGUMENTS[kind](it)


def _named(union: Mapping[str, Any]) -> Any:
    kind, it = _only(union)
    if kind in ("as_name", "as_tensor"):
        return _Name(it if isinstance(it, str) else it["name"])
    return None if kind == "as_none" else it


def _plain(it: Any) -> Any:
    return it


def _nothing(it: Any) -> None:
    del it  # where a tensor lies does not change its numbers


_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("as_none", "as_memory_format", "as_layout", "as_device"), _nothing),
    **dict.fromkeys(("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools"), _plain),
    "as_scalar_type": lambda it: _TYPES.get(it, str(it)),
    "as_tensor": lambda it: _Name(it["name"]),
    "as_tensors": lambda it: [_Name(each["name"]) for each in it],
    **dict.fromkeys(("as_optional_tensor", "as_sym_int"), _named),
    **dict.fromkeys(("as_optional_tensors", "as_sym_ints"), lambda it: [_named(each) for each in it]),
}
"""What an argument of each kind is."""


def _resolved(arguments: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Put in what names stand for."""

    def put(it: Any) -> Any:
        if isinstance(it, _Name):
            return known[it.name]
        return [put(each) for each in it] if isinstance(it, list) else it

    return {name: put(it) for name, it in arguments.items()}


def _runner(graph: _Graph, to_file: Callable[[Tensor], Tensor], path: Path) -> Callable[[Tensor], Tensor]:
    """Return what calls the operators of the file one by one, as it says."""

    def run(images: Tensor) -> Tensor:
        known: dict[str, Any] = {**graph.tensors, graph.images: to_file(images)}
        try:
            for node in graph.nodes:
                overload = getattr(getattr(_ATEN, node.kind), node.overload)
                result = overload(**_resolved(node.arguments, known))
                results = result if isinstance(result, tuple | list) else (result,)
                known |= dict(zip(node.outputs, results, strict=False))
        except MISFITS as error:
            raise FormatError(f"`{path}`: torch does not run it ({first_line(error)})") from error
        scores: Tensor = known[graph.output]
        return scores

    return run
