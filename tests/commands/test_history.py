"""`nctool history`: what a run measured, as a table, as JSON and as a figure."""

import json
from dataclasses import asdict, replace

import pytest

import nctool
from nctool.errors import FormatError, UsageError
from nctool.figures import history as history_figure
from nctool.training import load_checkpoint
from nctool.training.checkpoints.state import load_state, save_state
from nctool.training.metrics import read_metrics
from tests.support.small_run import small_fit

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    small_fit(folder, ["training.epochs=2", "finetune.epochs=2", "finetune.steps=[3, 1]"])
    return folder


def test_the_report_is_metrics_jsonl(cli, run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = load_checkpoint(run).results["best_epoch"]
    assert nctool.history(run).to_json() == {"path": str(run), "epochs": lines, "best_epoch": best}
    assert cli("history", run, "--json").json["epochs"] == lines


def test_the_table_has_a_row_for_each_epoch_and_marks_the_chosen_one(cli, run):
    *lines, last = cli("history", run).out.splitlines()[2:]
    best = load_checkpoint(run).results["best_epoch"]
    for line, each in zip(lines, read_metrics(run), strict=True):
        mark = "*" if each.epoch == best else ""
        shown = [f"{each.epoch}{mark}", each.stage, f"{each.loss:.4f}", f"{each.training_accuracy:.2%}"]
        assert line.split()[:4] == shown
    assert last == "* chosen on held-out images"


def test_the_best_epoch_so_far_of_a_run_that_goes_on_is_that_of_its_state(run, tmp_path):
    for name in ("metrics.jsonl", "last.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert nctool.history(tmp_path).best_epoch == nctool.history(run).best_epoch
    (tmp_path / "last.safetensors").unlink()
    assert nctool.history(tmp_path).best_epoch is None


def test_the_start_of_fine_tuning_is_no_epoch_of_it(cli, run, tmp_path):
    """The run of `nctool finetune` has the epochs behind those of the training: of two, 3 and 4."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[2:]))
    save_state(
        tmp_path, replace(load_state(run, load_checkpoint(run).recipe), best_epoch=2), load_checkpoint(run).recipe
    )
    ended = cli("history", tmp_path)
    assert "*" not in ended.out
    assert ended.out.splitlines()[-1] == "chosen: the network that fine-tuning started with"
    assert nctool.history(tmp_path).best_epoch == 2


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "last.safetensors"])
def test_a_file_that_is_cut_off_does_not_say_which_epoch_was_chosen(run, tmp_path, name):
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    (tmp_path / name).write_bytes((run / name).read_bytes()[:-1])
    with pytest.raises(FormatError) as caught:
        nctool.history(tmp_path)
    assert str(caught.value) == f"`{tmp_path / name}` is truncated or no safetensors file"


def test_a_line_that_is_being_written_is_left_out(run, tmp_path):
    text = (run / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[:-5])
    assert [each.epoch for each in nctool.history(tmp_path).epochs] == [1, 2, 3]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")])
def test_a_figure_has_the_same_bytes_each_time(run, tmp_path, suffix, start):
    for name in "ab":
        nctool.history(run, plot=tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith(start)


def test_accuracies_are_by_windows_in_order_and_missing_where_a_stage_has_none(run):
    curves = history_figure.accuracies(read_metrics(run))
    names = ["training", "held out, ANN", "held out, SNN T=1", "held out, SNN T=3", "held out, SNN T=4"]
    assert list(curves) == names
    assert list(curves["held out, SNN T=1"]) == [3, 4]
    assert list(curves["training"]) == [1, 2, 3, 4]


def test_many_epochs_of_many_layers_are_drawn(run, tmp_path):
    layers = {f"act{number}": 1.0 + number for number in range(34)}
    epochs = [replace(read_metrics(run)[0], epoch=epoch, theta=layers, gap=layers) for epoch in range(1, 101)]
    history_figure.prepare(tmp_path / "many.svg")(epochs)
    assert (tmp_path / "many.svg").stat().st_size > 10_000


def test_layers_that_only_some_epochs_have_are_drawn(run, tmp_path):
    first, *others = read_metrics(run)
    changed = [replace(each, theta={"new": 1.0}, gap={"new": 1.0}) for each in others]
    lines = [json.dumps(asdict(each)) + "\n" for each in (first, *changed)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert len(nctool.history(tmp_path, plot=tmp_path / "h.svg").epochs) == 4
    assert (tmp_path / "h.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("epoch", "0", "epoch"),
        ("epoch", "1" + 400 * "0", "epoch"),
        ("epoch", "Infinity", "epoch"),
        ("loss", "Infinity", "loss"),
        ("loss", "1e400", "loss"),
        ("theta", '{"a": NaN}', "theta.a"),
        ("validation_accuracy_snn", '{"four": 0.5}', "validation_accuracy_snn.four.[key]"),
        ("validation_accuracy_snn", '{"-4": 0.5}', "validation_accuracy_snn.-4.[key]"),
    ],
)
def test_numbers_that_no_epoch_has_are_refused(run, tmp_path, key, value, where):
    content = json.loads((run / "metrics.jsonl").read_text().splitlines()[0]) | {key: "VALUE"}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(content).replace('"VALUE"', value) + "\n")
    with pytest.raises(FormatError) as caught:
        nctool.history(tmp_path, plot=tmp_path / "h.svg")
    assert str(caught.value) == f"`{tmp_path}/metrics.jsonl`, line 1: {where} is not what nctool writes"
    assert not (tmp_path / "h.svg").exists()


def test_what_is_refused(run, tmp_path):
    with pytest.raises(UsageError) as missing:
        nctool.history(tmp_path)
    assert str(missing.value) == (
        f'no `{tmp_path}/metrics.jsonl`\nhint: `nctool.train("RECIPE", output="DIR")` makes one'
    )
    with pytest.raises(UsageError) as suffix:
        nctool.history(run, plot=tmp_path / "h.gif")
    assert str(suffix.value) == f"plot `{tmp_path}/h.gif`: ends in `.gif`, allowed .png, .svg, .pdf"
    (tmp_path / "metrics.jsonl").write_text('{"epoch": "x"}\n')
    with pytest.raises(FormatError) as bad:
        nctool.history(tmp_path)
    assert str(bad.value) == f"`{tmp_path}/metrics.jsonl`, line 1: epoch is not what nctool writes"
