"""The event file of `--tensorboard`: the numbers of metrics.jsonl as curves, also behind an interruption."""

import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import nctool
from nctool.errors import UsageError
from nctool.figures.tensorboard import with_events
from nctool.progress import no_progress, no_report
from nctool.training.metrics import read_metrics
from tests.support.small_run import small_fit

pytestmark = pytest.mark.usefixtures("one_thread")


def curves(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}


def fit_with_events(folder, progress=no_progress, **options):
    with with_events(True, folder, no_report) as on_epoch:
        small_fit(folder, progress=progress, on_epoch=on_epoch, **options)


def expected(folder, number):
    return [(line.epoch, pytest.approx(number(line), rel=1e-6)) for line in read_metrics(folder)]


def test_every_number_of_every_epoch_is_a_point_of_a_curve(tmp_path):
    fit_with_events(tmp_path)
    found = curves(tmp_path)
    assert set(found) == {
        "loss", "learning rate", "accuracy/training", "accuracy/held out, ANN", "accuracy/held out, SNN T=4",
        "sigma/act1", "sigma/act2", "gap/act1", "gap/act2", "theta/act1", "theta/act2",
    }  # fmt: skip
    assert found["loss"] == expected(tmp_path, lambda line: line.loss)
    assert found["learning rate"] == expected(tmp_path, lambda line: line.learning_rate)
    assert found["accuracy/training"] == expected(tmp_path, lambda line: line.training_accuracy)
    assert found["accuracy/held out, ANN"] == expected(tmp_path, lambda line: line.validation_accuracy_ann)
    assert found["accuracy/held out, SNN T=4"] == expected(tmp_path, lambda line: line.validation_accuracy_snn["4"])
    assert found["sigma/act2"] == expected(tmp_path, lambda line: line.sigma["act2"])
    assert found["gap/act2"] == expected(tmp_path, lambda line: line.gap["act2"])
    assert found["theta/act1"] == expected(tmp_path, lambda line: line.theta["act1"])


def test_a_resumed_run_goes_on_with_its_curves(tmp_path):
    def stop(done, total, message=""):
        if message.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_with_events(tmp_path, stop)
    fit_with_events(tmp_path, resume=True)
    assert curves(tmp_path)["loss"] == expected(tmp_path, lambda line: line.loss)


def test_the_commands_take_the_option(cli, digits_run, tmp_path):
    for command in (["train", "digits-mlp", "--set", "training.epochs=1"], ["finetune", digits_run]):
        run = tmp_path / command[0]
        options = ["--set", "finetune.epochs=1"] if command[0] == "finetune" else []
        assert cli(*command, *options, "-o", run, "--tensorboard").code == 0
        assert len(curves(run)["loss"]) == 1


def test_a_missing_library_is_named_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError) as caught:
        nctool.train("digits-mlp", tmp_path / "run", tensorboard=True)
    assert str(caught.value) == 'tensorboard=True needs tensorboard\nhint: pip install "nctool[tensorboard]"'
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_said_with_the_folder(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.flush", full)
    with pytest.raises(UsageError) as caught:
        fit_with_events(tmp_path)
    assert caught.value.message == f"cannot write `{tmp_path}/tensorboard`: no space left on device"
