"""The job for a machine with a GPU, rehearsed on the CPU: it runs to its end, and tells what is wrong."""

import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nctool.errors import RangeError

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "benchmarks" / "gpu", ROOT / "benchmarks", ROOT]


@pytest.fixture
def module(monkeypatch):
    """Load a module of the job by its name."""
    for folder in reversed(FOLDERS):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module


@pytest.fixture
def record(module, tmp_path):
    progress = module("_progress")
    return progress.Record(tmp_path, progress.Budget(60.0))


def packed_images(path: Path, n_train: int, n_test: int) -> Path:
    """Write an .npz of JPEG files of ten classes, sorted by class as the real one is: grey of its class, with noise."""
    rng, content = np.random.default_rng(0), {"classes": np.array([f"class {label}" for label in range(10)])}
    for split, number in (("train", n_train), ("test", n_test)):
        labels = np.sort(np.arange(number) % 10).astype(np.uint8)
        pixels = (25 * labels[:, None, None, None] + rng.integers(0, 25, (number, 32, 32, 3))).astype(np.uint8)
        files = [_jpeg(image) for image in pixels]
        content |= {
            f"{split}_jpeg": np.frombuffer(b"".join(files), np.uint8),
            f"{split}_offsets": np.cumsum([0, *map(len, files)]),
            f"{split}_labels": labels,
        }
    np.savez(path, **content)
    return path


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--data", "none.npz"], "none.npz: no .npz file that can be read"),
        (["--data", "few.npz"], "few.npz: `train_offsets` are no bounds of 19 files, as many as labels"),
        (["--data", "empty.npz"], "empty.npz: misses the key `classes`"),
        (["--data", "good.npz", "--set", "training.foo=3"], "`training.foo`"),
        (["--data", "good.npz", "--minutes", "nan"], "--minutes nan: allowed: a number above 0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(module, tmp_path, monkeypatch, capsys, options, text):
    monkeypatch.chdir(tmp_path)
    with np.load(packed_images(tmp_path / "good.npz", 20, 10)) as good:
        np.savez("few.npz", **{**good, "train_labels": good["train_labels"][1:]})
    np.savez("empty.npz", numbers=np.arange(3))
    monkeypatch.setattr(sys, "argv", ["job.py", "--device", "cpu", "--out", "out", *options])
    with pytest.raises(SystemExit) as caught:
        module("job").main()
    assert caught.value.code == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_rehearsal_on_random_images_runs_all_stages(tmp_path):
    packed, out = packed_images(tmp_path / "images.npz", 1000, 100), tmp_path / "out"
    command = [sys.executable, str(FOLDERS[0] / "job.py"), "--data", str(packed), "--out", str(out)]
    paths = os.pathsep.join([*map(str, FOLDERS[1:]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "--device", "cpu", "--tiny", "--minutes", "0.5", "--commit", "abc"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["failed"] == []
    assert result["exact"]["equal"] and result["same"]["equal"]
    assert result["exact"]["networks"]["random"] >= 6 and result["exact"]["networks"]["real"] >= 2
    assert all(times["time_ratio"] > 0 for times in result["speed"]["step"].values())
    for run, windows in {"trained": 1, "tuned-124": 3, "tuned-1": 1, "tuned-2": 1}.items():
        assert result["plan"]["runs"][run]["epochs"] == result[run]["epochs"] == 1
        assert len(result[run]["checkpoint_sha256"]) == 64
        metrics = json.loads((out / "runs" / run / "metrics.jsonl").read_text())
        assert len(metrics["validation_accuracy_snn"]) == windows
    first = result["integers"]["exports"][0]
    assert list(first["accuracy"]) == ["1", "2", "4", "8"]
    assert first["images"] == 100 and first["overflows"] == 0
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {"machine", "exact", "speed", "plan", "trained", "integers", "same"} <= {line["stage"] for line in lines}
    table = (out / "table.md").read_text()
    assert "| tuned-124, integers, autapse, exported for T=8, " in table
    assert "test images: equal, bit for bit" in table
    assert f"commit {result['machine']['commit']}." in table and result["machine"]["commit"] == "abc"
    assert "| training step | with noise, ms | ReLU, ms | with noise / ReLU |" in table
    assert (out / "log.txt").read_text() == done.stderr


def test_images_are_decoded_in_their_order_and_a_tenth_has_every_class(module, tmp_path):
    paths = module("_images").write_data_sets(packed_images(tmp_path / "images.npz", 100, 30), tmp_path, tiny=False)
    with np.load(paths["whole"]) as whole, np.load(paths["tenth"]) as tenth:
        assert whole["x_train"].shape == (100, 32, 32, 3)
        shades = whole["x_train"].mean(axis=(1, 2, 3)) // 25
        np.testing.assert_array_equal(shades, whole["y_train"])
        assert len(whole["x_test"]) == len(tenth["x_test"]) == 30
        assert tenth["y_train"].tolist() == list(range(10))


def test_a_file_of_other_keys_is_refused(module, tmp_path):
    np.savez(tmp_path / "other.npz", classes=np.arange(3))
    with pytest.raises(ValueError, match="misses the key `train_jpeg`, allowed: a file that holds classes, train_jpeg"):
        module("_images").write_data_sets(tmp_path / "other.npz", tmp_path, tiny=False)


def test_a_difference_of_the_engines_is_told(module, tmp_path, monkeypatch):
    exact, progress = module("_exact"), module("_progress")
    record = progress.Record(tmp_path, progress.Budget(0.0))

    class Wrong(exact.FastEngine):
        def traces(self, samples):
            for trace in super().traces(samples):
                trace.logits[0, 0, 0] += 1
                yield trace

    monkeypatch.setattr(exact, "FastEngine", Wrong)
    monkeypatch.setattr(exact, "real_cases", lambda tiny: iter(()))
    exact.compare("cpu", True, record, ready=lambda: None)
    assert not record.found["exact"]["equal"]
    assert len(record.found["exact"]["differences"]) == record.found["exact"]["networks"]["random"] == 6
    assert "logit is" in record.found["exact"]["differences"][0]


def test_a_stage_that_fails_does_not_keep_the_others_from_running(module, record):
    stages = module("job").Stages(record)
    assert stages.run("exact", lambda: 1 / 0) is None
    assert stages.run("speed", lambda: 3) == 3
    assert stages.failed == ["exact"]
    assert record.found["failed exact"] == {"error": "ZeroDivisionError: division by zero"}
    assert "ZeroDivisionError" in (record.folder / "log.txt").read_text()


def test_each_stage_hands_on_the_time_that_it_does_not_need(module):
    progress = module("_progress")
    budget = progress.Budget(600.0)
    names = list(progress.SHARES)
    assert budget.left(names[0]) == pytest.approx(6.0, abs=1.0)
    assert budget.left("train") == pytest.approx(600 * sum(progress.SHARES[n] for n in names[:6]), abs=1.0)
    assert 0 < 1 - sum(progress.SHARES.values()) < 0.1


@pytest.mark.parametrize(("seconds", "epochs"), [(270.0, 77), (1.0, 10), (1e6, 200)])
def test_epochs_are_as_many_as_the_time_allows(module, seconds, epochs):
    training = module("_training")
    assert training._planned(3.5, seconds, training.FEWEST, training.MOST).epochs == epochs


def test_training_that_diverges_begins_anew_at_a_lower_rate(module, record, monkeypatch):
    training, asked = module("_training"), []

    def train(job, name, epochs, on_epoch):
        asked.append((epochs, job.overrides.get("training.learning_rate")))
        if len(asked) == 1:
            raise RangeError("training diverged: loss is nan in epoch 1, batch 3")

    monkeypatch.setattr(training.Job, "train", train)
    monkeypatch.setattr(training, "_note", lambda *_: None)
    training.train(training.Job("cpu", True, record.folder, {}, {}, record), training.Planned(30, 1.0))
    assert asked == [(30, None), (int(0.9 * 0.69 * 60), training.LOWER_RATE)]
    assert "loss is nan in epoch 1, batch 3: begun anew" in (record.folder / "log.txt").read_text()


def test_epochs_that_take_longer_than_planned_begin_anew_with_fewer(module, record):
    training, asked = module("_training"), []

    def train(name, epochs, on_epoch):
        asked.append(epochs)
        for epoch in range(1, epochs + 1):
            on_epoch(metrics(epoch), epochs)
        return "report"

    def metrics(epoch):
        numbers = {"validation_accuracy_ann": 0.5, "validation_accuracy_snn": {"4": 0.4}}
        return SimpleNamespace(epoch=epoch, loss=1.0, seconds=2.5, seconds_noise=0.1, **numbers)

    noted = []
    job = SimpleNamespace(train=train, record=record)
    original, training._note = training._note, lambda _, name, report: noted.append((name, report))
    try:
        training.train(job, training.Planned(30, 1.0))
    finally:
        training._note = original
    assert asked == [30, int(0.9 * 0.69 * 60 / 2.5)]
    assert noted == [("trained", "report")]
