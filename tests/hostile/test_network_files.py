"""Network files of other tools that are damaged, lie, reach out of their folder or would run code: one error."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from nctool.errors import FormatError, NctoolError, UnsupportedError, UsageError
from nctool.importing import open_network
from nctool.importing.open_file import read_network
from tests.support.network_files import FILES, graph, node, to_exported, to_script
from tests.support.refusals import refusal, refused

CNN = FILES / "keras_cnn.onnx"
NET = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
ROWS = torch.zeros(2, 6)


class Trap:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of each kind, by suffix."""
    folder = tmp_path_factory.mktemp("saved")
    return {
        ".onnx": CNN.read_bytes(),
        ".pt2": to_exported(NET, ROWS, folder / "net.pt2").read_bytes(),
        ".pt": to_script(NET, ROWS, folder / "net.pt").read_bytes(),
    }


def fails_cleanly(path: Path) -> None:
    """Open a file that may be damaged: an error of nctool, or a network that can be compared."""
    try:
        read = read_network(path, (6,) if path.suffix == ".pt" else None)
        read.require_same(torch.zeros(1, *read.sizes), "here")
    except NctoolError:
        pass


# --- damage --------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
@given(data=st.data())
def test_truncated_or_changed_bytes(
    saved: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    content = bytearray(saved[suffix])
    path = tmp_path_factory.mktemp("damaged") / f"net{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    fails_cleanly(path)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    fails_cleanly(path)


@pytest.mark.parametrize("content", [b"", b"\0", b"no network", b"PK\x03\x04 no zip", bytes(100), "ä".encode()])
def test_what_is_no_network(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert f"`{path}`: truncated" in refusal(FormatError, open_network, path)


def test_no_file(tmp_path: Path) -> None:
    assert refusal(UsageError, open_network, tmp_path / "net.onnx").endswith("net.onnx`: no such file or directory")
    os.mkfifo(tmp_path / "pipe")
    assert "it is a pipe" in refusal(UsageError, open_network, tmp_path / "pipe")


def changed(path: Path, saved: bytes, change: Any) -> Path:
    """Write a file of torch.export whose graph was changed."""
    with zipfile.ZipFile(io.BytesIO(saved)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(("serialized_exported_program.json", "models/model.json")):
                program = json.loads(content)
                change(program["graph_module"])
                content = json.dumps(program).encode()
            new.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.pop("graph"),
        lambda it: it["graph"]["nodes"].__setitem__(0, None),
        lambda it: it["graph"]["nodes"].pop(0),
        lambda it: it["graph"]["nodes"][0]["inputs"][0]["arg"].__setitem__("as_tensor", {"name": ["x"]}),
        lambda it: it["graph"]["nodes"][0]["inputs"].pop(0),
        lambda it: it["graph"]["nodes"][0].__setitem__("target", "torch.ops.aten.nothing.default"),
        lambda it: it["graph"]["nodes"][0].__setitem__("target", "os.system"),
        lambda it: it["signature"]["input_specs"].pop(0),
    ],
)
def test_a_graph_that_makes_no_sense(tmp_path: Path, saved: dict[str, bytes], change: Any) -> None:
    with pytest.raises((FormatError, UnsupportedError)):
        open_network(changed(tmp_path / "net.pt2", saved[".pt2"], change))


# --- code ----------------------------------------------------------------


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "net.pt"
    torch.save(Trap(trap), path)
    assert refusal(UnsupportedError, open_network, path) == (
        f"`{path}`: holds Python objects, and would run code when it is loaded\n"
        "hint: load it yourself if you trust it, torch.load(path, weights_only=False), and give the module; or export "
        "the network to ONNX or with torch.export.save"
    )
    path.write_bytes(pickle.dumps(Trap(trap)))
    refusal(UnsupportedError, open_network, path)
    torch.save(NET, path)
    refusal(UnsupportedError, open_network, path)
    assert not trap.exists()


def test_pickles_in_an_exported_program_are_not_loaded(tmp_path: Path, saved: dict[str, bytes]) -> None:
    trap, buffer = tmp_path / "trap", io.BytesIO()
    torch.save({"0.weight": Trap(trap)}, buffer)
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(io.BytesIO(saved[".pt2"])) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("weights_config.json"):  # of newer versions of torch
                config = json.loads(content)
                for payload in config["config"].values():
                    payload["use_pickle"] = True
                content = json.dumps(config).encode()
            is_pickle = name.endswith(".pt") or "/weight_" in name
            new.writestr(name, buffer.getvalue() if is_pickle else content)
    assert "run code when it is loaded" in refusal(FormatError, open_network, path)
    assert not trap.exists()


def test_expressions_in_an_exported_program_are_not_computed(tmp_path: Path, saved: dict[str, bytes]) -> None:
    trap = tmp_path / "trap"

    def change(it: dict[str, Any]) -> None:
        for meta in it["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"__import__('os').mkdir({str(trap)!r})"

    open_network(changed(tmp_path / "net.pt2", saved[".pt2"], change))
    assert not trap.exists()


# --- files of weights, and of other tools --------------------------------


def test_weights_without_a_network(tmp_path: Path) -> None:
    torch.save(NET.state_dict(), tmp_path / "net.pth")
    save_file(NET.state_dict(), tmp_path / "net.safetensors")
    for name, kind in (("net.pth", "a state dict"), ("net.safetensors", "a safetensors file")):
        assert refusal(UnsupportedError, open_network, tmp_path / name) == (
            f"`{tmp_path / name}`: is {kind}: it holds weights, and no network\n"
            "hint: build the network in Python, load the weights into it and give the module; or export it to ONNX"
        )


def test_files_of_keras(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}")
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20))
    (tmp_path / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(20))
    for name in ("net.keras", "net.h5", "net.tflite"):
        assert "tf2onnx" in refusal(UnsupportedError, open_network, tmp_path / name)


# --- weights outside of the file -----------------------------------------


def outside(path: Path, location: str, **entries: str) -> Path:
    """Write a network whose matrix is in another file."""
    matrix = np.ones((6, 3), np.float32)
    graph([node("MatMul", "images", "matrix", to="scores")], (6,), path, {"matrix": matrix})
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_network_are_read(tmp_path: Path) -> None:
    (tmp_path / "net.data").write_bytes(bytes(8) + np.arange(18, dtype=np.float32).tobytes())
    network = open_network(outside(tmp_path / "net.onnx", "net.data", offset="8", length="72"))
    assert network(torch.ones(1, 6)).tolist() == [[45, 51, 57]]


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "folder/../../secret", "link", "", "\0", "folder/link"]
)
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "net"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(72))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises((FormatError, UsageError)) as caught:
        open_network(outside(folder / "net.onnx", location))
    assert "weights `matrix`" in caught.value.message


def test_weights_that_are_missing_or_short(tmp_path: Path) -> None:
    path = outside(tmp_path / "net.onnx", "net.data")
    assert "which holds weights of `net.onnx`" in refusal(UsageError, open_network, path)
    os.mkfifo(tmp_path / "net.data")
    assert "it is a pipe" in refusal(UsageError, open_network, path)
    (tmp_path / "net.data").unlink()
    (tmp_path / "net.data").write_bytes(bytes(71))
    assert "take 72 bytes from 0, `net.data` has 71" in refusal(FormatError, open_network, path)
    for entries in ({"offset": "-8"}, {"length": "8"}, {"offset": "x"}, {"offset": str(2**70)}):
        refused(FormatError, open_network, outside(tmp_path / "net.onnx", "net.data", **entries))


# --- claims --------------------------------------------------------------


def test_claims_of_huge_images_take_no_memory(tmp_path: Path) -> None:
    path = graph([node("Flatten", "images", to="scores")], (2**20, 2**20), tmp_path / "net.onnx")
    assert "for each image, allowed" in refusal(UnsupportedError, open_network, path)
    nodes = [node("Pad", "images", "pads"), node("Flatten", "pad", to="scores")]
    pads = {"pads": np.array([0, 0, 2**15, 2**15, 0, 0, 0, 0])}
    path = graph(nodes, (1, 8, 8), tmp_path / "net.onnx", pads)
    assert "for each image, allowed" in refusal(UnsupportedError, open_network, path)


def test_a_bias_that_does_not_fit(tmp_path: Path) -> None:
    nodes = [node("Conv", "images", "kernel", "bias"), node("Flatten", "conv", to="scores")]
    weights = {"kernel": np.ones((3, 1, 1, 1), np.float32), "bias": np.ones(2, np.float32)}
    path = graph(nodes, (1, 8, 8), tmp_path / "net.onnx", weights)
    assert "(Conv: has bias of (2,), allowed (3,))" in refusal(UnsupportedError, open_network, path)


@pytest.mark.parametrize("name", ["strides", "dilations"])
def test_windows_beyond_what_torch_holds_do_not_end_the_process(tmp_path: Path, name: str) -> None:
    nodes = [node("Conv", "images", "kernel", **{name: [2**62, 1]}), node("Flatten", "conv", to="scores")]
    path = graph(nodes, (1, 8, 8), tmp_path / "net.onnx", {"kernel": np.ones((3, 1, 1, 1), np.float32)})
    assert "allowed up to 32768" in refusal(UnsupportedError, open_network, path)


@pytest.mark.parametrize("number", [-5, 2**40])
def test_claims_of_huge_batches_take_no_memory(tmp_path: Path, number: int) -> None:
    path = graph([node("Flatten", "images", to="scores")], (6,), tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = number
    path.write_bytes(model.SerializeToString())
    said = f"cannot be converted: `images` (input: takes {number} images of (6,) at once"
    assert said in refusal(UnsupportedError, open_network, path)


def test_claims_of_huge_constants_take_no_memory(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", "size"), node("Add", "images", "constantofshape", to="scores")]
    path = graph(nodes, (6,), tmp_path / "net.onnx", {"size": np.array([2**20, 2**20])})
    assert "makes a constant of more than" in refusal(UnsupportedError, open_network, path)


def test_weights_that_are_fewer_than_claimed(tmp_path: Path) -> None:
    path = graph(
        [node("MatMul", "images", "m", to="scores")], (6,), tmp_path / "net.onnx", {"m": np.ones((6, 3), "f4")}
    )
    model = onnx.load(path)
    model.graph.initializer[0].dims[:] = [2**40, 2**40]
    path.write_bytes(model.SerializeToString())
    refused(FormatError, open_network, path)


def test_an_opset_from_the_future(tmp_path: Path) -> None:
    path = graph([node("Flatten", "images", to="scores")], (6,), tmp_path / "net.onnx", opset=999)
    assert "written with opset 999, allowed up to" in refusal(UnsupportedError, open_network, path)
