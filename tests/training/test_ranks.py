"""Several processes train what one trains: the same loss, σ, θ and accuracies, by torchrun with gloo on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from nctool.activation.noisy_quant import NoisyQuantReLU, in_mode
from nctool.errors import EngineError, UsageError
from nctool.torchrun import rank_and_size
from nctool.training.distributed.global_batch import GlobalBatch
from nctool.training.distributed.global_batch_norm import global_batch_norm
from nctool.training.distributed.ranks import Ranks
from nctool.training.metrics import read_metrics
from tests.support.small_run import POOLED, small_fit

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH_STAGES = (
    "training.epochs=2", "training.crop_padding=1", "training.horizontal_flip=true", "training.batch_size=14",
    "model.dropout=0.1", "finetune.epochs=2", "finetune.steps=[1, 3]", "training.resized_crop=0.5",
    "training.schedule=one-cycle", "noise.images=augmented",
)  # fmt: skip
"""100 images in batches of 14 leave a last one of 2: of three processes, one has no row of it."""

MAXIMA = (*(override for override in BOTH_STAGES if not override.startswith("model.")), POOLED)
"""The same with convolutions and maximum pooling."""

SCRIPT = """
import sys
from pathlib import Path
from nctool.commands.application import main
from nctool.errors import RangeError
from nctool.torchrun import rank_and_size
from nctool.training import stages
from tests.support.small_run import POOLED, small_fit

folder, start, kind, *overrides = sys.argv[1:]

def fail(*_):
    raise RangeError("rank 1 has had enough", "ask it why")

def run():
    small_fit(Path(folder), overrides, resume=start == "resume")
    return 0

if kind == "fail" and rank_and_size()[0] == 1:
    stages.augment = fail
main(run)
"""


def torchrun(tmp_path, n_processes, *arguments):
    """Run `small_fit` in several processes; return the finished command."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )


@pytest.mark.parametrize("overrides", [BOTH_STAGES, MAXIMA], ids=["dense", "maxima"])
def test_a_run_that_one_process_began_goes_on_in_three_with_the_same_numbers(tmp_path, overrides):
    def stop(metrics, n_epochs):
        raise KeyboardInterrupt

    small_fit(tmp_path / "alone", overrides)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path / "three", overrides, on_epoch=stop)
    ended = torchrun(tmp_path, 3, tmp_path / "three", "resume", "run", *overrides)
    assert ended.returncode == 0, ended.stderr
    alone, three = read_metrics(tmp_path / "alone"), read_metrics(tmp_path / "three")
    assert [line.epoch for line in three] == [1, 2, 3, 4]
    assert alone[0].sigma["act2"] > 0  # there was noise in the epochs to come
    for a, b in zip(alone, three, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.sigma == pytest.approx(a.sigma, rel=1e-5)
        assert b.theta == pytest.approx(a.theta, rel=1e-5)
        assert b.training_accuracy == a.training_accuracy
        assert (b.validation_accuracy_ann, b.validation_accuracy_snn) == (
            a.validation_accuracy_ann,
            a.validation_accuracy_snn,
        )
    small_fit(tmp_path / "three", overrides, resume=True)  # and back to one


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path):
    ended = torchrun(tmp_path, 2, tmp_path / "run", "new", "fail")
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert "error: rank 1 has had enough\nhint: ask it why\n" in ended.stderr
    exchange = "error: the exchange with the other processes of torchrun failed: "
    assert all(line.startswith(exchange) for line in errors if line != "error: rank 1 has had enough")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_is_told_without_the_other_processes(tmp_path, rank):
    """With nobody there who would answer."""
    environment = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "nctool", "export", "nope", "-o", "m.net"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | environment,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: no checkpoint at `nope`\nhint: `nctool train RECIPE -o DIR` makes one\n"


def test_an_exchange_without_a_meeting_place_is_no_bug(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(EngineError) as caught:
        small_fit(tmp_path)
    assert str(caught.value) == (
        "the exchange with the other processes of torchrun failed: error initializing torch.distributed using env:// "
        "rendezvous: environment variable master_addr expected, but not set\n"
        "hint: the error of the process that ended first says why; without torchrun, unset RANK and WORLD_SIZE"
    )


@pytest.mark.parametrize("text", ["", "first", "-1", "1.0"])
def test_a_rank_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("RANK", text)
    with pytest.raises(UsageError) as caught:
        rank_and_size()
    assert str(caught.value) == f"`RANK` in the environment is `{text}`, allowed: a number\nhint: torchrun sets it"


# --- the parts, in one process ----------------------------------------------------------------------------------------


def test_the_shares_of_a_batch_are_the_batch():
    shares = [list(range(10))[Ranks(rank, 4).rows(10)] for rank in range(4)]
    assert shares == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    assert [list(Ranks(rank, 2).own("abcde")) for rank in range(2)] == [["a", "c", "e"], ["b", "d"]]


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_channels", [(), (torch.tensor([1.0, 0.25, 4.0]), torch.tensor([0.4, 0.0, -0.4]))])
def test_noise_and_dropout_are_the_rows_of_those_of_the_whole_batch(rank, layout, of_channels):
    model = nn.Sequential(NoisyQuantReLU(4, 20.0, "subtract", *of_channels), nn.Dropout(0.3))
    model[0].sigma.fill_(0.5)
    images = torch.randn(2, 3, 4, 4).to(memory_format=layout)
    torch.manual_seed(5)
    whole = model(images)
    ranks = Ranks(rank, 3)  # the first has no row
    torch.manual_seed(5)
    with GlobalBatch(model, 2, ranks.rows(2)):
        part = model(images[ranks.rows(2)])
    assert torch.equal(part, whole[ranks.rows(2)])
    assert model[0].training
    torch.manual_seed(5)
    assert torch.equal(model(images), whole)  # nothing of it is left behind


def test_dropout_in_a_window_is_that_of_each_time_step():
    model = nn.Sequential(NoisyQuantReLU(4, 2.0), nn.Dropout(0.3))
    steps = torch.randn(3, 4, 5)
    ranks = Ranks(1, 2)
    torch.manual_seed(5)
    with in_mode(model, "window", 3):
        whole = model(steps.flatten(0, 1)).unflatten(0, (3, 4))
        torch.manual_seed(5)
        with GlobalBatch(model, 4, ranks.rows(4)):
            part = model(steps[:, ranks.rows(4)].flatten(0, 1)).unflatten(0, (3, 2))
    assert torch.equal(part, whole[:, ranks.rows(4)])


def test_the_parts_of_a_loss_add_up_to_it():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    model, parts = nn.Identity(), []
    for ranks in (Ranks(0, 2), Ranks(1, 2)):
        with GlobalBatch(model, 5, ranks.rows(5)):
            parts.append(functional.cross_entropy(logits[ranks.rows(5)], labels[ranks.rows(5)]))
    torch.testing.assert_close(sum(parts), functional.cross_entropy(logits, labels))


@pytest.fixture
def nobody_else(monkeypatch):
    """What one process exchanges with itself; a process group would have threads that a test cannot end for sure."""
    module = "nctool.training.distributed.global_batch_norm"
    monkeypatch.setattr(f"{module}.total", lambda values: values)
    monkeypatch.setattr(f"{module}.gathered", lambda values: values.unsqueeze(0))


@pytest.mark.usefixtures("nobody_else")
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_one_process_is_that_of_torch(shape, affine):
    x = torch.randn(shape, dtype=torch.float32).mul_(3).add_(1)
    upstream = torch.randn(shape)
    results = []
    for function in (functional.batch_norm, global_batch_norm):
        inputs = x.clone().requires_grad_()
        scale = [torch.tensor(values).requires_grad_() for values in ([0.5, 2.0, -1.0], [0.1, 0.2, 0.3])]
        mean, var = torch.full((3,), 0.2), torch.full((3,), 2.0)
        output = function(inputs, mean, var, *(scale if affine else (None, None)), True, 0.3, 1e-3)
        output.backward(upstream)
        results.append([output.detach(), inputs.grad, mean, var, *(value.grad for value in scale if affine)])
    for expected, result in zip(*results, strict=True):
        torch.testing.assert_close(result, expected)


def test_a_gpu_named_for_all_processes_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, device="cuda:0")
    assert str(caught.value) == "device `cuda:0` for all processes of torchrun, allowed: cuda, a GPU for each"
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, device="cuda")
    assert str(caught.value) == (
        "process 1 of this machine has no GPU of its own, there are 1\nhint: start 1 with --nproc-per-node"
    )
