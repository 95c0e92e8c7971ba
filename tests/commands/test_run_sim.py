"""`nctool run-sim`: accuracies, answers to samples of your own, and data that do not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nctool
from nctool.children import Child, child
from nctool.errors import EngineError, UsageError
from nctool.fast.choice import Choice
from nctool.running.engines import Job
from nctool.running.sharding import summaries_of_workers
from nctool_deploy.netx import read
from nctool_models import load_dataset
from tests.support.runs import assert_error


@pytest.mark.lava
def test_run_sim_on_lava_gives_the_accuracy_of_the_reference(cli, digits_model: Path) -> None:
    reference = cli("run-sim", digits_model, "--samples", 30, "--json").json
    lava = cli("run-sim", digits_model, "--samples", 30, "--engine", "lava", "--json").json
    assert lava["engine"] == "lava"
    assert lava["accuracy"] == reference["accuracy"]
    assert lava["spikes_per_layer"] == reference["spikes_per_layer"]
    assert lava["overflows"] is None


def test_samples_of_your_own_without_labels_get_answers(cli, digits_model: Path, tmp_path: Path) -> None:
    digits = load_dataset("digits")
    np.save(tmp_path / "x.npy", digits.x_test[:25])
    asked = cli("run-sim", digits_model, "--input", tmp_path / "x.npy", "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as traces:
        expected = traces["logits"][:, -1].argmax(axis=1).tolist()
    shown = ", ".join(map(str, expected[:20]))
    assert f"answers, a class for each sample: {shown}, … (25 in --json)\n" in asked.out
    assert asked.out.endswith(f"wrote {tmp_path / 'out.npz'}\n")
    assert cli("run-sim", digits_model, "--input", tmp_path / "x.npy", "--json").json["answers"] == expected
    np.save(tmp_path / "y.npy", digits.y_test[:25])
    labelled = cli("run-sim", digits_model, "--input", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--json")
    assert (labelled.json["answers"], labelled.json["answer_names"]) == ([], [])


def test_answers_go_by_the_names_of_the_classes(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    pixels[labels == 1] = 255
    data, classes = tmp_path / "two.npz", np.array(["dark", "light"])
    np.savez(data, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=classes)
    options = ["--set", "training.epochs=20", "--set", f"data.name={data}", "--set", "training.batch_size=4"]
    assert cli("train", "digits-mlp", "-o", tmp_path / "run", *options).code == 0
    assert cli("export", tmp_path / "run", "-o", tmp_path / "m.net", "--steps", 1).code == 0
    np.save(tmp_path / "x.npy", pixels[:3])
    asked = cli("run-sim", tmp_path / "m.net", "--input", tmp_path / "x.npy")
    assert asked.out.splitlines()[:2] == [
        f"{tmp_path / 'x.npy'}, 3 samples of 1 time step, engine fast",
        "answers, a class for each sample: 0 dark, 1 light, 0 dark",
    ]
    found = cli("run-sim", tmp_path / "m.net", "--input", tmp_path / "x.npy", "--json").json
    assert (found["answers"], found["answer_names"]) == ([0, 1, 0], ["dark", "light", "dark"])


def test_bad_options_of_run_sim_and_verify(cli, digits_model: Path) -> None:
    assert_error(
        cli("run-sim", digits_model, "--engine", "brian"),
        2,
        "error: unknown engine `brian`, allowed reference, fast, lava\n",
    )
    assert_error(
        cli("verify", digits_model, "--engines", "reference,brian"),
        2,
        "error: unknown engine `brian`, allowed reference, fast, lava\n",
    )
    assert_error(
        cli("verify", digits_model, "--engines", ","),
        2,
        "error: no engine to verify\nhint: name them with --engines reference,lava\n",
    )
    assert_error(
        cli("run-sim", digits_model, "--samples", 1000),
        2,
        "error: samples: 1000 is out of range, allowed 1..359 (digits, test)\n",
    )
    assert_error(cli("run-sim", digits_model, "--split", "dev"), 2, "error: unknown split `dev`, allowed test, train\n")


def test_a_data_set_of_the_wrong_shape(cli, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.npz"
    pixels, labels = np.zeros((4, 8, 9), np.uint8), np.array([0, 1, 2, 3], np.uint8)
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    assert_error(
        cli("run-sim", digits_model, "--dataset", path),
        3,
        f"error: data set `{path}`: samples have shape (1, 8, 9), the network takes (1, 8, 8)\n"
        "hint: give the data set that the network was trained on with --dataset\n",
    )


def test_a_missing_data_set(cli, digits_model: Path, tmp_path: Path) -> None:
    ended = cli("run-sim", digits_model, "--dataset", tmp_path / "no.npz")
    assert ended.code == 2
    assert f"`{tmp_path / 'no.npz'}`" in ended.err
    assert len(ended.err.splitlines()) <= 2


def test_training_data_that_is_elsewhere_is_named(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    np.savez(here / "good.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    monkeypatch.chdir(here)
    options = ["--set", "training.epochs=1", "--set", "data.name=good.npz", "--set", "activation.threshold_init=1.0"]
    assert cli("train", "digits-mlp", "-o", "run", *options).code == 0
    assert cli("export", "run", "-o", "m.net").code == 0
    assert cli("run-sim", "m.net", "--json").json["dataset"] == "good.npz/test"
    monkeypatch.chdir(elsewhere)
    text = "error: the network was trained on `good.npz`, which is not here\nhint: name the data with --dataset PATH\n"
    for command in (
        ["run-sim", here / "m.net"],
        ["verify", here / "m.net", "--samples", 20],
        ["explore", here / "run"],
    ):
        assert_error(cli(*command), 2, text)
    missing = cli("run-sim", here / "m.net", "--dataset", "good.npz").err
    assert missing.startswith("error: no data set file `good.npz`\n")


# --- several processes ------------------------------------------------------------------------------------------------


TIMES = ("images_per_second", "steps_per_second")


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in TIMES}


def test_two_workers_report_what_one_process_reports(digits_model: Path):
    expected = nctool.run_sim(digits_model, samples=101).to_json()
    found = nctool.run_sim(digits_model, samples=101, workers=2).to_json()
    assert without_times(found) == without_times(expected)


def test_two_ranks_of_torchrun_report_once_what_one_process_reports(digits_model: Path):
    expected = nctool.run_sim(digits_model, samples=101).to_json()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nctool"]
    command += ["run-sim", str(digits_model), "--samples", "101", "--json"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    assert without_times(json.loads(line)) == json.loads(json.dumps(without_times(expected)))


def test_an_error_in_a_worker_is_the_error_of_the_run(digits_model: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError) as raised:
        nctool.run_sim(digits_model, samples=4, workers=2, device="cuda")
    assert str(raised.value) == 'device `cuda` is not available here\nhint: use device="cpu"'


@pytest.mark.parametrize("is_file", [True, False])
def test_workers_do_not_run_the_script_again(digits_model: Path, tmp_path: Path, is_file: bool):
    """A script needs no guard; nor do workers take a file of the folder where they start for a library."""
    text = f"import nctool; print(nctool.run_sim({str(digits_model)!r}, samples=8, workers=2).samples)"
    script, folder = tmp_path / "script.py", tmp_path / "folder"
    script.write_text(text)
    folder.mkdir()
    (folder / "numpy.py").write_text("raise RuntimeError('a file of the user')")
    ended = subprocess.run(
        [sys.executable, str(script) if is_file else "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder if is_file else tmp_path,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "8\n", "")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (signal.SIGKILL, "ended by SIGKILL)\nhint: use fewer workers: memory may be short"),
        (signal.SIGSEGV, "ended by SIGSEGV)\nhint: run again with workers=1"),
    ],
)
def test_a_worker_that_ends_before_its_time_is_said(digits_model: Path, monkeypatch, number: int, text: str):
    @contextmanager
    def ended(module: str) -> Iterator[Child]:
        with child(module) as found:
            found.process.send_signal(number)
            yield found

    monkeypatch.setattr("nctool.running.sharding.child", ended)
    with pytest.raises(EngineError) as raised:
        nctool.run_sim(digits_model, samples=8, workers=2)
    assert str(raised.value) == f"engine `fast`: a worker ended before its time ({text}"


def test_any_other_error_in_a_worker_has_its_name(digits_model: Path, monkeypatch: pytest.MonkeyPatch):
    content = read(digits_model)
    job = Job(digits_model, content, None)  # type: ignore[arg-type]  # which no engine takes
    with pytest.raises(EngineError) as raised:
        list(summaries_of_workers("fast", [job, job], 2))
    assert str(raised.value) == ("engine `fast`, in a worker: TypeError: object of type 'nonetype' has no len()")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers: 0 is out of range, allowed >= 1"),
        (
            {"workers": 2, "engine": "lava"},
            'engine `lava` starts processes of its own, allowed one worker\nhint: use engine="fast"',
        ),
        ({"workers": 2, "output": Path("x.npz")}, "output `x.npz` is written by one process, allowed one worker"),
    ],
)
def test_workers_that_are_refused(digits_model: Path, options: dict[str, Any], text: str):
    with pytest.raises(UsageError) as raised:
        nctool.run_sim(digits_model, **options)
    assert str(raised.value) == text


def test_workers_beside_torchrun_are_refused(digits_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError) as raised:
        nctool.run_sim(digits_model, workers=2)
    assert str(raised.value) == "workers: 2 beside torchrun, allowed one of both"


def test_it_tells_which_kernels_ran_and_why_others_did_not(digits_model: Path, monkeypatch) -> None:
    kernels = {"conv1": "int8, fused", "conv2": "int8, fused", "fc1": "int8, fused", "fc2": "int8, fused"}
    for workers in (1, 2):
        report = nctool.run_sim(digits_model, samples=20, workers=workers)
        assert (report.kernels, report.notes) == (kernels, ())
    assert nctool.run_sim(digits_model, samples=3, engine="reference").to_json()["kernels"] == {}
    monkeypatch.setattr(
        "nctool.fast.choice.usable", lambda: Choice(fused=True, notes=("no integer kernels: a reason",))
    )
    report = nctool.run_sim(digits_model, samples=20)
    assert report.kernels == dict.fromkeys(kernels, "float32, fused")
    assert report.notes == ("no integer kernels: a reason",)
