"""The activation's kernels for a GPU: Triton interprets them on the CPU, and compiles them for GPUs."""

import importlib.metadata
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from nctool.activation import gpu_trial

CUDA = torch.device("cuda", 0)


def triton_is_new() -> bool:
    """Say whether there is a Triton whose interpreter takes tensors of the CPU."""
    try:
        return int(importlib.metadata.version("triton").partition(".")[0]) >= 3
    except importlib.metadata.PackageNotFoundError:
        return False


needs_triton = pytest.mark.skipif(not triton_is_new(), reason="needs Triton 3 or later: pip install triton")


def in_python(code: str, *, interpret: bool = True) -> object:
    """Return what `found` is after some lines, in a process where Triton interprets kernels, or compiles them."""
    begin = "import json, torch\nfrom nctool.activation import gpu_kernels, gpu_trial, staircase\n"
    environment = {**os.environ, "TRITON_INTERPRET": "1"} if interpret else dict(os.environ)
    command = [sys.executable, "-c", f"{begin}{code}\nprint(json.dumps(found))"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
def test_interpreted_kernels_compute_what_torch_does():
    code = 'found = [gpu_trial.first_difference(gpu_kernels, torch.device("cpu"), kind) for kind in gpu_trial.TYPES]'
    assert in_python(code) == [None, None]


AS_IN_TRAINING = """
def run(kernels, z, noise=None):
    staircase.kernels_for = lambda tensor: kernels
    staircase.compiled_loops = lambda tensor: None
    z, theta = z.clone().requires_grad_(), torch.tensor(1.3, requires_grad=True)
    torch.manual_seed(0)
    output = staircase.activate(z, theta, 4, "subtract", noise)
    output.backward(torch.linspace(-1, 2, z.numel()).view_as(z))
    return output.detach(), z.grad, theta.grad
"""


@needs_triton
def test_activations_and_gradients_are_those_of_torch_in_every_memory_format():
    code = f"""{AS_IN_TRAINING}
found = []
for layout in (torch.contiguous_format, torch.channels_last):
    z = torch.randn(6, 5, 9, 7, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
    (a, b, c), (x, y, w) = run(gpu_kernels, z), run(None, z)
    found.append([torch.equal(a, x), torch.equal(b, y), bool((c - w).abs() < 1e-4 * w.abs()), a.stride() == z.stride()])
"""
    assert in_python(code) == [[True] * 4] * 2


@needs_triton
def test_rows_of_a_batch_have_the_noise_of_the_whole_batch_and_no_number_stays_none():
    code = f"""{AS_IN_TRAINING}
z, sigma = torch.randn(7, 3, 5, 3), torch.tensor(0.25)
whole = run(gpu_kernels, z, staircase.Noise(sigma))[0]
part = run(gpu_kernels, z[2:5], staircase.Noise(sigma, staircase.Rows(2, 3, 7)))[0]
z[3, 1, 2, 1] = float("nan")
found = [torch.equal(part, whole[2:5]), int(run(gpu_kernels, z)[0].isnan().sum())]
"""
    assert in_python(code) == [True, 1]


WRONG = {
    "Triton gives wrong activations": "gpu_kernels._right(z, threshold, levels + 1, *rest)",
    "Triton gives wrong codes": "gpu_kernels._right(z, threshold, levels, 2 * rest[0], *rest[1:])",
    "Triton gives wrong noise": "gpu_kernels._right(z, threshold, levels, rest[0], None, *rest[2:])",
}


@needs_triton
def test_kernels_that_compute_something_else_are_noticed():
    code = f"""
gpu_kernels._right, found = gpu_kernels.staircase, []
for wrong in {list(WRONG.values())!r}:
    gpu_kernels.staircase = eval("lambda z, threshold, levels, *rest: " + wrong)
    found.append(gpu_trial.first_difference(gpu_kernels, torch.device("cpu"), torch.float32))
gpu_kernels.staircase, right = gpu_kernels._right, gpu_kernels.gradients
gpu_kernels.gradients = lambda code, upstream, by_input, scale: right(code, upstream, by_input, 2 * scale)
found.append(gpu_trial.first_difference(gpu_kernels, torch.device("cpu"), torch.float32))
"""
    assert in_python(code) == [*WRONG, "Triton gives wrong gradients"]


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus(capability):
    code = f"""
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

def size(kernel, types, constants):
    signature = {{name: types.get(name, "constexpr") for name in kernel.arg_names}}
    source = ASTSource(kernel, signature, constants)
    return len(compile(source, target=GPUTarget("cuda", {capability}, 32)).asm["cubin"])

found = []
for kind in ("bf16", "fp32"):
    types = {{name: "*" + kind for name in ("z", "output", "upstream", "by_input")}} | {{"code": "*i8"}}
    types |= dict.fromkeys(("thresholds", "sigmas", "sums"), "*fp32") | dict.fromkeys(("levels", "scale"), "fp32")
    types |= dict.fromkeys(("seed", "first", "n"), "i32")
    constants = {{"has_noise": True, "has_code": True, "counters": gpu_kernels.COUNTERS}}
    found.append(size(gpu_kernels._staircase, types, constants) > 0)
    found.append(size(gpu_kernels._gradients, types, {{"size": gpu_kernels.GRADIENTS}}) > 0)
"""
    assert in_python(code, interpret=False) == [True] * 4


def test_a_cpu_has_no_kernels_of_a_gpu():
    assert gpu_trial.kernels_for(torch.zeros(3)) is None


def on_a_gpu(dtype=torch.float32, numel=5):
    return SimpleNamespace(device=CUDA, dtype=dtype, numel=lambda: numel)


@pytest.fixture(autouse=True)
def fresh():
    """Forget trials of other tests."""
    gpu_trial.failure.cache_clear()
    yield
    gpu_trial.failure.cache_clear()


def test_kernels_that_passed_their_trial_are_used_for_types_that_were_tried(monkeypatch):
    kernels = SimpleNamespace()
    monkeypatch.setattr(gpu_trial, "_kernels", lambda: kernels)
    monkeypatch.setattr(gpu_trial, "first_difference", lambda *_: None)
    assert gpu_trial.kernels_for(on_a_gpu()) is kernels
    assert gpu_trial.kernels_for(on_a_gpu(torch.float64)) is None
    assert gpu_trial.kernels_for(on_a_gpu(numel=2**31)) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("No module named 'triton'"), "Triton is not there (No module named 'triton')"),
        (RuntimeError("Failed to find C compiler.\nmore"), "Triton cannot compile them (Failed to find C compiler.)"),
    ],
)
def test_torch_does_where_kernels_cannot_be_made(monkeypatch, error, reason):
    def fail(*_):
        raise error

    monkeypatch.setattr(gpu_trial, "_kernels", fail)
    assert gpu_trial.kernels_for(on_a_gpu()) is None
    assert gpu_trial.failure(CUDA, torch.float32).lower() == reason.lower()
