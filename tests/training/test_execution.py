"""Precision, determinism and memory format of a training run: followed, refused where useless, undone afterwards."""

import sys

import pytest
import torch
from torch import nn

from nctool import cpu
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.errors import UsageError
from nctool.progress import no_progress
from nctool.recipe.schema import parse_recipe
from nctool.training import LabelledImages, Normalisation, TrainingData, fit, load_checkpoint
from nctool.training.execution import execution, require_execution
from nctool.training.interruption import Interruption
from nctool.training.optimiser import Optimiser
from nctool.training.stages import NoisyTraining, Task
from nctool_models import build_model
from tests.support.small_run import small_data, small_fit, small_model, small_recipe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Spy(NoisyTraining):
    """Notes what holds while a batch is trained on."""

    def loss(self, images, labels):
        self.is_deterministic = torch.are_deterministic_algorithms_enabled()
        return super().loss(images, labels)


def one_epoch(recipe, types):
    """Train one epoch outside `fit`, which refuses bfloat16 on some CPUs; note the types that leave each layer."""
    model, data = small_model(recipe), small_data()
    for layer in model:
        layer.register_forward_hook(lambda module, _, output: types.add((type(module).__name__, output.dtype)))
    task = Task(model, data, data.held_out, data.normalisation, recipe, None)
    Optimiser(task, data.train, NoisyTraining(task), 0).run_epoch(1, no_progress, Interruption())
    return model


def test_bfloat16_is_the_type_between_layers_only():
    types: set[tuple[str, torch.dtype]] = set()
    model = one_epoch(small_recipe("training.precision=bfloat16"), types)
    assert ("Linear", torch.bfloat16) in types
    assert {kind for name, kind in types if name == NoisyQuantReLU.__name__} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_float32_is_the_type_of_every_layer_otherwise():
    types: set[tuple[str, torch.dtype]] = set()
    one_epoch(small_recipe(), types)
    assert {kind for _, kind in types} == {torch.float32}


@pytest.fixture(params=[True, False])
def cpu_has_bfloat16(request, monkeypatch) -> bool:
    monkeypatch.setattr("nctool.training.execution.cpu_has_bfloat16", lambda: request.param)
    return request.param


def test_bfloat16_on_a_cpu_needs_one_that_has_it(tmp_path, cpu_has_bfloat16):
    if cpu_has_bfloat16:
        assert small_fit(tmp_path, ["training.precision=bfloat16"]).accuracy_ann > 0
        return
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, ["training.precision=bfloat16"])
    assert str(caught.value) == (
        "`training.precision` is bfloat16, but the CPU of this machine has none: allowed: float32, auto\n"
        "hint: set training.precision=auto: bfloat16 where the device has it"
    )


def test_a_report_says_what_auto_was(tmp_path, cpu_has_bfloat16):
    assert small_fit(tmp_path / "auto", ["training.precision=auto"]).precision == (
        "bfloat16" if cpu_has_bfloat16 else "float32"
    )
    assert small_fit(tmp_path / "float32").precision == "float32"


def test_auto_is_bfloat16_where_the_device_has_it(cpu_has_bfloat16):
    types: set[tuple[str, torch.dtype]] = set()
    one_epoch(small_recipe("training.precision=auto"), types)
    assert ("Linear", torch.bfloat16 if cpu_has_bfloat16 else torch.float32) in types
    with execution(nn.Flatten(), 1, small_recipe("training.precision=auto").training, CPU):
        pass  # is never refused


@pytest.mark.parametrize(
    ("features", "has"),
    [
        (("avx2", "avx512bf16"), True),
        (("amx-bf16",), True),
        (("neon", "bf16"), True),
        (("avx512f",), False),
        (None, False),
    ],
)
def test_a_processor_has_bfloat16_by_its_instructions(monkeypatch, features, has):
    monkeypatch.setattr(cpu, "features", lambda: features)
    assert cpu.has_bfloat16() is has


def test_a_broken_library_of_llvm_is_no_internal_error(monkeypatch, tmp_path):
    (tmp_path / "llvmlite.py").write_text("raise OSError('libLLVM is broken')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llvmlite", raising=False)
    cpu.features.cache_clear()
    assert cpu.features() is None
    cpu.features.cache_clear()


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_bfloat16_needs_a_gpu_that_has_it(monkeypatch, has_bfloat16):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if has_bfloat16 else (7, 5))
    settings = small_recipe("training.precision=bfloat16").training
    if has_bfloat16:
        require_execution(settings, CUDA)
        return
    with pytest.raises(UsageError) as caught:
        require_execution(settings, CUDA)
    assert str(caught.value).startswith("`training.precision` is bfloat16, but the CUDA of this machine has none: ")


@pytest.mark.parametrize("workspace", [None, ":1:1", ":4096:8"])
def test_a_gpu_repeats_only_with_the_workspace_that_cublas_needs(monkeypatch, workspace):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    settings = small_recipe("training.deterministic=true").training
    if workspace == ":4096:8":
        require_execution(settings, CUDA)
        return
    with pytest.raises(UsageError) as caught:
        require_execution(settings, CUDA)
    assert str(caught.value) == (
        f"`training.deterministic` is true, but CUBLAS_WORKSPACE_CONFIG is {workspace or 'not set'}, "
        "allowed: :4096:8, :16:8\n"
        "hint: start again with CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"
    )


@pytest.mark.parametrize("asked", [False, True])
def test_determinism_holds_during_the_run_and_is_restored(monkeypatch, tmp_path, asked):
    spies = []
    monkeypatch.setattr("nctool.training.loop.first_stage", lambda task: spies.append(Spy(task)) or spies[-1])
    small_fit(tmp_path, [f"training.deterministic={str(asked).lower()}"])
    assert spies[0].is_deterministic is asked
    assert not torch.are_deterministic_algorithms_enabled()


def test_determinism_is_restored_after_an_error():
    settings = small_recipe("training.deterministic=true").training
    with pytest.raises(ZeroDivisionError), execution(nn.Flatten(), 1, settings, CPU):
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("channels", "is_last"), [(1, False), (3, True)])
def test_images_of_several_channels_are_trained_with_channels_last(channels, is_last):
    model = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), NoisyQuantReLU(4, 2.0))
    images = torch.randn(4, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = model.eval()(images)
    with execution(model, channels, small_recipe().training, CPU):
        output = model(images)
        assert output.is_contiguous(memory_format=torch.channels_last) is is_last
    torch.testing.assert_close(output, expected)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


COLOUR = """
name = "colour"
[data]
name = "noise"
[model]
architecture = "cnn"
channels = [4, 4]
hidden = 8
[training]
epochs = 1
batch_size = 8
[finetune]
epochs = 1
steps = [1, 2]
"""


def test_both_stages_train_colour_images_and_one_seed_gives_the_same_bytes(tmp_path):
    recipe, generator = parse_recipe(COLOUR), torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 3, 8, 8), generator=generator, dtype=torch.uint8)
    split = LabelledImages(images, torch.randint(2, (24,), generator=generator))
    data = TrainingData("noise", ("a", "b"), split, split, split, Normalisation((0.5,) * 3, (0.25,) * 3))
    for name in "ab":
        model = build_model(recipe.model, (3, 8, 8), 2, recipe.activation, seed=1)
        fit(model, data, recipe, tmp_path / name)
        assert all(parameter.is_contiguous() for parameter in model.parameters())
    first, second = (load_checkpoint(tmp_path / name).state for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
