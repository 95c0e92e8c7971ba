"""ONNX files as torch modules: they give what onnxruntime and the network that was exported give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

import nctool
from nctool.errors import FormatError, UnsupportedError, UsageError
from nctool.importing import open_network, require_same_as_file
from nctool.importing.open_file import read_network
from tests.support.network_files import FILES, graph, node, to_onnx
from tests.support.refusals import refusal, refused

IMAGES = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))
KERNEL = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)


class Branches(nn.Module):
    """Functions, a skip, a join, pooling of each kind, dropout, a view by the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.relu6 = nn.ReLU6(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.fc1 = nn.Linear(8, 5, bias=False)
        self.fc2 = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = torch.cat([self.relu6(self.conv2(x) + x), F.avg_pool2d(x, 3, 1, 1)], dim=1)
        x = x.mean((2, 3)).view(x.size(0), -1)
        return F.log_softmax(self.fc2(self.dropout(F.relu(self.fc1(x)))), dim=1)


def model(kind: type[nn.Module] = Branches) -> nn.Module:
    torch.manual_seed(0)
    net = kind()
    net(IMAGES)  # statistics for the batch norms
    return net.eval()


def same(path: Path, images: Tensor) -> nn.Module:
    """Open a file and compare it with onnxruntime."""
    network = open_network(path)
    require_same_as_file(network, path, images)
    return network


def kinds(network: nn.Module) -> list[str]:
    return [type(module).__name__ for module in network.children()]


# --- files of torch ------------------------------------------------------


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
@pytest.mark.parametrize("any_batch", [True, False])
def test_a_network_of_torch_comes_back(tmp_path: Path, opset: int, any_batch: bool) -> None:
    net = model()
    path = to_onnx(net, IMAGES[:2], tmp_path / "net.onnx", opset_version=opset, any_batch=any_batch)
    network = same(path, IMAGES)
    torch.testing.assert_close(network(IMAGES), net(IMAGES))
    before = ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU6", "AvgPool2d", "AdaptiveAvgPool2d", "Flatten"]
    assert kinds(network) == [*before, "Linear", "ReLU", "Linear", "LogSoftmax"]


def test_batch_norms_that_were_not_folded_stay(tmp_path: Path) -> None:
    net = model()
    path = to_onnx(net, IMAGES, tmp_path / "net.onnx", training=torch.onnx.TrainingMode.PRESERVE)
    network = same(path, IMAGES)
    assert "BatchNorm2d" in kinds(network)
    torch.testing.assert_close(network(IMAGES), net(IMAGES))


def test_what_was_opened_can_be_prepared(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
    prepared = nctool.prepare(open_network(to_onnx(net, IMAGES, tmp_path / "net.onnx")), IMAGES)
    assert prepared(IMAGES).shape == (5, 3)


def test_a_signal_is_an_image_of_one_row(tmp_path: Path) -> None:
    signals = torch.randn(4, 2, 16)
    net = nn.Sequential(
        *(nn.Conv1d(2, 4, 3, stride=2, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    network = same(to_onnx(net, signals, tmp_path / "net.onnx"), signals[:, :, None])
    torch.testing.assert_close(network(signals[:, :, None]), net(signals))
    require_same_as_file(network, tmp_path / "net.onnx", signals)


def test_the_caller_s_random_numbers_stay(tmp_path: Path) -> None:
    path = to_onnx(model(), IMAGES, tmp_path / "net.onnx")
    before = torch.get_rng_state()
    open_network(path)
    assert torch.equal(torch.get_rng_state(), before)


# --- files of Keras and scikit-learn -------------------------------------
# Made once with TensorFlow 2.15 and tf2onnx 1.16, and with scikit-learn 1.7 and skl2onnx 1.20; random weights.


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("keras_cnn", (3, 8, 8)),  # Conv2D 'same', norm, MaxPooling, strided Conv2D 'same', Flatten, Dense, softmax
        ("keras_branches", (3, 8, 8)),  # ReLU(6), DepthwiseConv2D, Add, Concatenate, GlobalAveragePooling, opset 18
        ("keras_mnist", (1, 28, 28)),  # images (28, 28), Reshape, Conv2D, Flatten, Dense
        ("keras_pad", (3, 9, 9)),  # ZeroPadding2D, MaxPooling 'same' of an odd size, AveragePooling
        ("keras_rescale", (3, 8, 8)),  # Rescaling before the first layer
        ("keras_1d", (2, 1, 16)),  # Conv1D and MaxPooling1D on (16, 2)
        ("sklearn_mlp", (6,)),  # MLPClassifier, with the table of classes at the end
        ("sklearn_scaled_mlp", (6,)),  # the same behind StandardScaler
    ],
)
def test_files_of_other_tools_take_channels_first(name: str, shape: tuple[int, ...]) -> None:
    path = FILES / f"{name}.onnx"
    images = torch.randn(70, *shape, generator=torch.Generator().manual_seed(1))
    network = same(path, images)
    allowed = {"Conv2d", "Linear", "BatchNorm2d", "ReLU", "ReLU6", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"}
    assert set(kinds(network)) <= allowed | {"Flatten", "Softmax"}


# --- laws ----------------------------------------------------------------


@given(
    sizes=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
)
def test_uneven_padding_of_a_convolution_becomes_even(
    tmp_path_factory: pytest.TempPathFactory, sizes: tuple[int, int], pads: tuple[int, ...], strides: tuple[int, int]
) -> None:
    nodes = [node("Conv", "images", "kernel", pads=pads, strides=strides), node("Flatten", "conv", to="scores")]
    path = graph(nodes, (2, *sizes), tmp_path_factory.mktemp("net") / "net.onnx", {"kernel": KERNEL})
    assert kinds(same(path, torch.randn(2, 2, *sizes))) == ["Conv2d", "Flatten"]


@pytest.mark.parametrize("kind", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("side", [7, 8])
def test_padding_by_name(tmp_path: Path, kind: str, side: int) -> None:
    nodes = [node("Conv", "images", "kernel", auto_pad=kind, strides=[2, 2]), node("Flatten", "conv", to="scores")]
    same(graph(nodes, (2, side, side), tmp_path / "net.onnx", {"kernel": KERNEL}), torch.randn(3, 2, side, side))


@given(st.permutations([1, 2, 3]), st.booleans())
def test_flattened_in_any_order_of_axes(tmp_path_factory: pytest.TempPathFactory, order: list[int], relu: bool) -> None:
    matrix = np.random.default_rng(0).normal(size=(3 * 4 * 5, 3)).astype(np.float32)
    nodes = [
        node("Conv", "images", "kernel"),
        node("Transpose", "conv", perm=[0, *order]),
        node("Reshape", "transpose", "shape"),
        node("Relu" if relu else "Identity", "reshape", to="kept"),
        node("MatMul", "kept", "matrix"),
        node("Add", "bias", "matmul", to="scores"),
    ]
    weights = {"kernel": KERNEL, "shape": np.array([-1, 60]), "matrix": matrix, "bias": np.ones(3, np.float32)}
    network = same(
        graph(nodes, (2, 6, 7), tmp_path_factory.mktemp("net") / "net.onnx", weights), torch.randn(2, 2, 6, 7)
    )
    assert kinds(network) == ["Conv2d", "Flatten", *["ReLU"] * relu, "Linear"]


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"])
def test_pooling_over_the_image(tmp_path: Path, kind: str) -> None:
    axes = {} if kind.startswith("Global") else {"axes": [2, -1]}
    nodes = [node("Conv", "images", "kernel"), node(kind, "conv", to="p", **axes), node("Flatten", "p", to="scores")]
    network = same(graph(nodes, (2, 6, 7), tmp_path / "net.onnx", {"kernel": KERNEL}), torch.randn(4, 2, 6, 7))
    assert kinds(network) == ["Conv2d", f"Adaptive{'Max' if 'Max' in kind else 'Avg'}Pool2d", "Flatten"]


def test_sizes_that_are_computed_become_a_flatten(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "images", "kernel"),
        node("Shape", "conv"),
        node("Gather", "shape", "zero", axis=0),
        node("Unsqueeze", "gather", "axes"),
        node("Concat", "unsqueeze", "rest", axis=0, to="sizes"),
        node("Reshape", "conv", "sizes", to="scores"),
    ]
    numbers = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    network = same(
        graph(nodes, (2, 6, 7), tmp_path / "net.onnx", {"kernel": KERNEL, **numbers}), torch.randn(4, 2, 6, 7)
    )
    assert kinds(network) == ["Conv2d", "Flatten"]


def test_images_are_scaled_in_the_first_weights(tmp_path: Path) -> None:
    nodes = [
        node("Sub", "images", "mean"),
        node("Div", "sub", "std"),
        node("Conv", "div", "kernel", to="c"),
        node("Flatten", "c", to="scores"),
    ]
    weights = {"kernel": KERNEL, "mean": np.float32([[[0.5]], [[0.4]]]), "std": np.float32([[[0.2]], [[0.3]]])}
    assert kinds(same(graph(nodes, (2, 6, 7), tmp_path / "net.onnx", weights), torch.rand(4, 2, 6, 7))) == [
        "Conv2d",
        "Flatten",
    ]
    nodes[2] = node("Conv", "div", "kernel", to="c", pads=[1] * 4)
    said = refusal(UnsupportedError, open_network, graph(nodes, (2, 6, 7), tmp_path / "padded.onnx", weights))
    assert said.endswith(
        "padded.onnx`: cannot be converted: `images` (input: scales or shifts the images in the network)\n"
        "hint: input: let normalisation, and the weights of the layer behind it, take constants"
    )


# --- what is refused -----------------------------------------------------


def test_all_that_cannot_be_converted_is_named_at_once(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "images", "kernel"),
        node("Sigmoid", "conv"),
        node("Mul", "conv", "sigmoid"),
        node("LeakyRelu", "mul"),
        node("Clip", "leakyrelu", "low", "high"),
        node("Flatten", "clip", to="scores"),
    ]
    weights = {"kernel": KERNEL, "low": np.float32(-1), "high": np.float32(1)}
    said = refusal(UnsupportedError, open_network, graph(nodes, (2, 6, 7), tmp_path / "net.onnx", weights))
    assert "`the_Sigmoid` (Sigmoid), `the_LeakyRelu` (LeakyRelu)\n" in said
    assert "hint: Sigmoid: behind a hidden layer use nn.ReLU" in said
    assert "LeakyRelu: replace it by nn.ReLU" in said


def test_a_dynamic_size_is_named(tmp_path: Path) -> None:
    path = graph([node("Flatten", "images", to="scores")], (2, "height", 7), tmp_path / "net.onnx")
    assert refusal(UnsupportedError, open_network, path) == (
        f"`{path}`: axis 2 (`height`) of input `images` has no fixed size\n"
        "hint: export with fixed sizes: only the first axis, that of the images, may be dynamic"
    )


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [node("Relu", "images", to="a"), node("Flatten", "images", to="b")]
    path = graph(nodes, (2, 6, 7), tmp_path / "net.onnx", outputs=("a", "b"))
    assert "has 2 outputs (`a`, `b`), allowed one" in refusal(UnsupportedError, open_network, path)


def test_images_of_another_type(tmp_path: Path) -> None:
    path = graph(
        [node("Flatten", "images", to="scores")], (2, 6, 7), tmp_path / "net.onnx", elem_type=TensorProto.UINT8
    )
    assert "input `images` is UINT8, allowed FLOAT" in refusal(UnsupportedError, open_network, path)


def test_other_images_than_the_network_takes() -> None:
    path = FILES / "keras_cnn.onnx"
    network = open_network(path)
    said = refusal(UsageError, require_same_as_file, network, path, torch.randn(2, 3, 9, 9))
    assert "images: have shape (3, 9, 9), the network of" in said and "takes (3, 8, 8)" in said


def test_a_wrong_answer_is_refused() -> None:
    read = read_network(FILES / "keras_cnn.onnx")
    images = torch.randn(4, 3, 8, 8)
    read.require_same(images, "here")
    last = [module for module in read.network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias = nn.Parameter(torch.zeros(3))
        last.bias[1] += 0.01
    error = refused(FormatError, read.require_same, images, "here")
    assert error.message.startswith("here: the network read from it differs from onnxruntime: by 0.00")
    with torch.no_grad():
        last.bias[:] = torch.nan
    assert "by nan in score" in refused(FormatError, read.require_same, images, "here").message


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    assert refusal(UsageError, open_network, FILES / "keras_cnn.onnx") == (
        f'ONNX files need the package `{missing}`, which is not installed\nhint: pip install "nctool[onnx]"'
    )


def test_weights_are_those_of_the_file() -> None:
    import onnx

    held = onnx.load(FILES / "keras_pad.onnx").graph.initializer
    kernels = [torch.from_numpy(np.array(numpy_helper.to_array(tensor))) for tensor in held if len(tensor.dims) == 4]
    conv = next(m for m in open_network(FILES / "keras_pad.onnx").modules() if isinstance(m, nn.Conv2d))
    assert any(torch.equal(conv.weight, kernel) for kernel in kernels)
