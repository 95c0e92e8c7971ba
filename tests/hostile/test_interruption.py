"""Long runs: a signal ends one in good order, and nothing that kills one spoils its files."""

import json
import multiprocessing
import signal
import threading

import numpy as np
import pytest
import torch

import nctool
from nctool.errors import SIGNALS, Interrupted, UsageError
from nctool.training import epochs
from nctool.training.checkpoints.state import load_state
from nctool.training.metrics import read_metrics
from tests.support.runs import run_command
from tests.support.small_run import TEXT, halves, small_fit, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "checkpoint.safetensors"


@pytest.fixture(autouse=True)
def handled_signals():
    """Handle signals as a program at a terminal does: a shell's background job starts with SIGINT ignored."""
    handlers = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def at_batch(number, *signals):
    """Return a progress callback that sends signals to this process."""

    def progress(done, total, message=""):
        if done == number:
            for each in signals:
                signal.raise_signal(each)

    return progress


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_ends_the_run_behind_the_batch_and_it_goes_on_to_the_same_bytes(tmp_path, number, code):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Interrupted) as caught:
        small_fit(tmp_path / "run", progress=at_batch(16, number))  # the second batch of epoch 3
    assert caught.value.message == (
        f"stopped by {number.name} after epoch 2 of 4, which `{tmp_path}/run/last.safetensors` holds"
    )
    assert caught.value.hint == "repeat the command with --resume to go on"
    assert caught.value.exit_code == code
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"last.safetensors", "metrics.jsonl"}
    small_fit(tmp_path / "run", resume=True)
    small_fit(tmp_path / "whole")
    assert (tmp_path / "run" / NAME).read_bytes() == (tmp_path / "whole" / NAME).read_bytes()


def test_a_signal_in_the_first_epoch_leaves_nothing_to_resume_and_says_so(tmp_path):
    with pytest.raises(Interrupted) as caught:
        small_fit(tmp_path, progress=at_batch(1, signal.SIGINT))
    assert (caught.value.message, caught.value.hint) == ("stopped by SIGINT before an epoch was complete", None)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_the_last_epoch_is_measured_keeps_that_epoch(tmp_path):
    def on_epoch(metrics, n_epochs):
        if metrics.epoch == n_epochs:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="after epoch 4 of 4"):
        small_fit(tmp_path, on_epoch=on_epoch)
    assert small_fit(tmp_path, resume=True).best_epoch <= 4
    assert len(read_metrics(tmp_path)) == 4


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        small_fit(tmp_path, progress=at_batch(9, signal.SIGTERM, signal.SIGINT))
    assert not isinstance(caught.value, Interrupted)
    assert load_state(tmp_path, small_recipe()).epoch == 1


def test_a_run_in_another_thread_leaves_the_signals_alone(tmp_path):
    seen = []

    def look(done, total, message=""):
        seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=small_fit, args=(tmp_path,), kwargs={"progress": look})
    thread.start()
    thread.join()
    assert (tmp_path / NAME).exists()
    assert set(seen) == {signal.getsignal(signal.SIGINT)}


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        small_fit(tmp_path, progress=at_batch(3, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(read_metrics(tmp_path)) == 4


def test_an_old_run_is_kept_until_the_new_one_in_its_folder_has_an_epoch(tmp_path):
    small_fit(tmp_path)
    with pytest.raises(Interrupted):
        small_fit(tmp_path, progress=at_batch(3, signal.SIGINT))
    assert (load_state(tmp_path, small_recipe()).epoch, len(read_metrics(tmp_path))) == (4, 4)


def test_what_the_first_epoch_of_a_new_run_leaves_of_an_old_one_is_nothing(tmp_path):
    """Else the old network would be exported in place of the new one."""
    small_fit(tmp_path)
    with pytest.raises(Interrupted):
        small_fit(tmp_path, ["activation.levels=8"], progress=at_batch(8, signal.SIGINT))
    assert {path.name for path in tmp_path.iterdir()} == {"last.safetensors", "metrics.jsonl"}
    assert load_state(tmp_path, small_recipe("activation.levels=8")).epoch == 1


def test_an_unfinished_run_is_gone_on_with_but_not_replaced(tmp_path):
    with pytest.raises(Interrupted):
        small_fit(tmp_path, progress=at_batch(16, signal.SIGINT))
    with pytest.raises(UsageError) as caught:
        nctool.train("digits-mlp", tmp_path)
    assert str(caught.value) == (
        f"`{tmp_path}` holds a run that is not finished\n"
        "hint: continue it with resume=True, choose another folder with output, or replace it with overwrite=True"
    )
    assert load_state(tmp_path, small_recipe()).epoch == 2


def test_an_unfinished_run_is_replaced_where_that_is_wanted_once_an_epoch_is_done(tmp_path):
    with pytest.raises(Interrupted):
        small_fit(tmp_path, progress=at_batch(16, signal.SIGINT))
    with pytest.raises(Interrupted):
        small_fit(tmp_path, ["activation.levels=8"], progress=at_batch(3, signal.SIGINT))
    assert load_state(tmp_path, small_recipe()).epoch == 2
    small_fit(tmp_path, ["activation.levels=8"])
    small_fit(tmp_path / "alone", ["activation.levels=8"])
    assert (tmp_path / NAME).read_bytes() == (tmp_path / "alone" / NAME).read_bytes()
    assert [each.epoch for each in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_line_that_a_power_cut_left_half_written_is_dropped(tmp_path):
    with pytest.raises(Interrupted):
        small_fit(tmp_path, progress=at_batch(16, signal.SIGINT))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    small_fit(tmp_path, resume=True)
    assert [line.epoch for line in read_metrics(tmp_path)] == [1, 3, 4]


def test_a_run_that_is_killed_again_and_again_ends_with_the_bytes_of_one_that_was_not(tmp_path):
    many = ["training.epochs=16"]
    small_fit(tmp_path / "whole", many)
    folder = tmp_path / "killed"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["nctool.training", "nctool_models"])
    for batch in (16, None, 42, 64):  # another moment of an epoch each time
        run = processes.Process(target=fit_until_killed, args=(folder, many, batch))
        run.start()
        run.join()
        assert run.exitcode == -signal.SIGKILL
        assert abs(load_state(folder, small_recipe(*many)).epoch - len(read_metrics(folder))) <= 1
    small_fit(folder, many, resume=True)
    assert (folder / NAME).read_bytes() == (tmp_path / "whole" / NAME).read_bytes()
    assert [line.epoch for line in read_metrics(folder)] == list(range(1, 17))
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def fit_until_killed(folder, overrides, batch):
    """Go on in a process of its own up to a batch, or to between the line and the state of an epoch.

    It has as many threads as the test: the bytes depend on their number.
    """
    torch.set_num_threads(1)
    if batch is None:
        epochs.save_state = lambda *_: signal.raise_signal(signal.SIGKILL)
    small_fit(folder, overrides, resume=folder.exists(), progress=at_batch(batch, signal.SIGKILL))


@pytest.fixture
def recipe_file(tmp_path):
    train, test = halves(100, 0), halves(60, 2)
    arrays = {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(tmp_path / "halves.npz", **{name: tensor.numpy().squeeze() for name, tensor in arrays.items()})
    path = tmp_path / "small.toml"
    path.write_text(TEXT.replace('"halves"', json.dumps(str(tmp_path / "halves.npz"))))
    return path


def test_the_command_writes_a_line_for_each_epoch_and_says_how_to_go_on(tmp_path, recipe_file, capsys, monkeypatch):
    run = tmp_path / "run"
    command = ["train", recipe_file, "-o", run, "--set", "training.epochs=2", "--json"]
    whole = run_command(capsys, monkeypatch, *command)
    assert whole.code == 0
    assert whole.json["best_epoch"] in (1, 2)
    (first, _), lines = read_metrics(run), whole.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        f"train: epoch 1/2, loss {first.loss:.4f}, training accuracy {first.training_accuracy:.2%}, "
        f"held out {first.held_out()}, {first.seconds:.1f} s, 0:00:"
    )
    assert lines[1].endswith(" s, 0:00:00 left")

    def stop(self, metrics, n_epochs):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("nctool.commands.command.EpochLines.__call__", stop)
    ended = run_command(capsys, monkeypatch, *command, "--overwrite")
    assert (ended.code, ended.out) == (143, "")
    assert ended.err == (
        f"error: stopped by SIGTERM after epoch 1 of 2, which `{run}/last.safetensors` holds\n"
        "hint: repeat the command with --resume to go on\n"
    )
