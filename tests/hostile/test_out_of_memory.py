"""Memory that runs out in training: what the message says, and that other errors stay what they are."""

import pytest
import torch

import nctool
from nctool.errors import RangeError
from nctool.training.optimiser import Optimiser
from tests.support.runs import run_command

CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
MESSAGE = "training ran out of memory on `cpu`, with batches of 32 images"
HINT = "hint: lower training.batch_size, or take a smaller network or smaller images"


def train(tmp_path, monkeypatch, failure: Exception) -> None:
    def fail(*_args):
        raise failure

    monkeypatch.setattr(Optimiser, "run_epoch", fail)
    nctool.train("digits-mlp", tmp_path / "run")


@pytest.mark.parametrize(
    "failure",
    [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), RuntimeError(CPU), MemoryError()],
)
def test_memory_that_runs_out_says_what_to_change(tmp_path, monkeypatch, failure):
    with pytest.raises(RangeError) as caught:
        train(tmp_path, monkeypatch, failure)
    assert str(caught.value) == f"{MESSAGE}\n{HINT}"
    assert caught.value.__cause__ is failure


def test_what_torch_says_of_the_cpu_is_what_is_looked_for():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert "DefaultCPUAllocator: can't allocate memory" in str(caught.value)


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    failure = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as caught:
        train(tmp_path, monkeypatch, failure)
    assert caught.value is failure


def test_the_command_shows_no_traceback(tmp_path, monkeypatch, capsys):
    def fail(*_args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Optimiser, "run_epoch", fail)
    ended = run_command(capsys, monkeypatch, "train", "digits-mlp", "-o", tmp_path / "run")
    assert (ended.code, ended.out, ended.err) == (3, "", f"error: {MESSAGE}\n{HINT}\n")
