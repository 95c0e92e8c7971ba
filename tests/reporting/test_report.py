"""`nctool report` without a browser: what the page says, what it leaves out and why, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import nctool
from nctool.errors import UsageError
from nctool.reporting.published import PUBLISHED
from nctool.running import engines
from nctool_models import load_dataset
from tests.support.foreign import Draft, dense_layer
from tests.support.markdown import page_text
from tests.support.runs import train_short

MOST_BYTES = 2_000_000


def data_of(path: Path) -> dict[str, Any]:
    """Return the numbers of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


def figures_of(path: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of a page by the name of their chart; of several, the first."""
    found: dict[str, dict[str, Any]] = {}
    for figure in data_of(path)["figures"]:
        found.setdefault(figure["chart"], figure)
    return found


def rows_of(variant: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a variant of a figure, as the page's script does."""
    columns = {
        name: values if isinstance(values, list) else [values["of"][place] for place in values["at"]]
        for name, values in variant["columns"].items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skipped = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.skipped = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.parts.append(data)


def text_of(path: Path) -> str:
    """Return the words of a page."""
    parser = _Text()
    parser.feed(path.read_text("utf-8"))
    return re.sub(r"\s+", " ", "".join(f"{part} " if part.strip() else " " for part in parser.parts))


# --- a run with a network ---------------------------------------------------------------------------------------------


def test_the_page_says_what_run_sim_verify_and_history_say(page: Path, digits_model: Path) -> None:
    ran, verified = nctool.run_sim(digits_model), nctool.verify(digits_model, engines="reference,fast", samples=16)
    text, figures = text_of(page), figures_of(page)
    assert f"{100 * ran.accuracy['4']:.2f} %" in text
    assert "bit-exact: reference = fast" in text
    pair = verified.statistics[1]
    assert f"on 16 samples of digits/test: {pair.compared_spikes:,} spike values and {pair.logits.compared:,}" in text
    integers = [row for row in rows_of(figures["accuracy"]["of"][""]) if row["curve"].startswith("integers")]
    assert {str(row["at"]): row["value"] for row in integers if str(row["at"]) in ran.accuracy} == {
        step: pytest.approx(accuracy, rel=1e-4) for step, accuracy in ran.accuracy.items()
    }
    losses = [row["value"] for row in rows_of(figures["loss"]["of"][""])]
    assert losses == pytest.approx([epoch.loss for epoch in nctool.history(digits_model.parent).epochs], rel=1e-4)


def test_its_cost_cores_and_layers_are_those_of_the_other_commands(page: Path, digits_model: Path) -> None:
    held, figures = nctool.inspect(digits_model), figures_of(page)
    cost = nctool.run_sim(digits_model, samples=256, cost=True).cost
    operations = rows_of(figures["operations"]["of"][""])
    total = sum(row["value"] for row in operations if row["part"] == "synaptic operations")
    assert total == pytest.approx(cost.total.synaptic_operations, rel=1e-4)
    assert len(rows_of(figures["cores_by_layer"]["of"][""])) == held.cores
    rooms = rows_of(figures["head_room"]["of"][""])
    assert [row["value"] for row in rooms] == pytest.approx([each.head_room_bits for each in held.layers], rel=1e-3)
    for layer in held.layers:
        bars = [row for row in rows_of(figures["weights"]["of"][layer.name]) if row["kind"] == "bar"]
        assert (bars[0]["low"], bars[-1]["high"] >= layer.weight_range[1]) == (layer.weight_range[0] - 0.5, True)
    rates = {row["layer"]: row["value"] for row in rows_of(figures["layer_rates"]["of"][""])}
    spikes = nctool.run_sim(digits_model, samples=256).spikes_per_layer
    assert rates == {
        each.name: pytest.approx(spikes[each.name] / (4 * each.neurons), rel=1e-4) for each in held.layers[:-1]
    }


def test_the_raster_is_the_trace(page: Path, digits_model: Path, tmp_path: Path) -> None:
    raster = figures_of(page)["raster"]["of"]
    number, variant = next(iter(raster.items()))
    nctool.run_sim(digits_model, output=tmp_path / "traces.npz", samples=int(number) + 1)
    with np.load(tmp_path / "traces.npz") as traces:
        spikes = traces["spikes/fc1"][int(number)].reshape(4, -1)
    lines = [line for line in variant["grid"] if line[0] == "fc1"]
    assert [line[1] for line in lines] == ["1", "2", "3", "4"]
    assert {len(line[3]) for line in lines} == {spikes.shape[1]}, "a cell for each neuron"
    found = np.array([[digit != "0" for digit in line[3]] for line in lines])
    np.testing.assert_array_equal(found, spikes)


def test_the_density_counts_every_activation(page: Path, digits_model: Path) -> None:
    density = figures_of(page)["density"]["of"]
    for layer in nctool.inspect(digits_model).layers[:-1]:
        rows = rows_of(density[layer.name])
        assert sum(row["count"] for row in rows) == 64 * layer.neurons
        near = sum(row["count"] for row in rows if abs(row["ann"] - row["snn"]) <= 0.25)
        assert near > 0.9 * 64 * layer.neurons
    assert density["fc2"]["columns"] == {}


def test_mistakes_are_the_wrong_answers_the_most_confident_first(page: Path, digits_model: Path) -> None:
    said = re.findall(r"(\d) taken for (\d), (\d\.\d\d), sample (\d+)", text_of(page))
    assert said
    assert [float(sure) for _, _, sure, _ in said] == sorted((float(sure) for _, _, sure, _ in said), reverse=True)
    digits = load_dataset("digits")
    answers = nctool.open(digits_model)(digits.x_test).argmax(axis=1)
    for label, answer, _, number in said:
        assert (digits.y_test[int(number)], answers[int(number)]) == (int(label), int(answer))


def test_it_is_small_and_whole(page: Path, comparison: Path) -> None:
    for path in (page, comparison):
        assert path.stat().st_size < MOST_BYTES
        source = path.read_text("utf-8")
        markup = re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', markup)
        assert "default-src 'none'" in source


def test_a_page_that_would_be_too_large_offers_fewer_layers_and_samples(
    digits_model: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nctool.reporting.page.MOST_BYTES", page.stat().st_size - 2_000)
    nctool.report(digits_model.parent, tmp_path / "small.html")
    assert (tmp_path / "small.html").stat().st_size < page.stat().st_size - 2_000
    whole, thinned = (figures_of(path) for path in (page, tmp_path / "small.html"))
    assert list(thinned["raster"]["of"]) == list(whole["raster"]["of"])[::2]
    assert list(thinned["weights"]["of"]) == ["conv1", "fc1"]
    assert "one in 2 can be chosen" in text_of(tmp_path / "small.html")


def test_the_same_page_twice(digits_model: Path, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        nctool.report(digits_model, tmp_path / name, verify=2)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_two_networks_share_their_charts_and_their_table(comparison: Path) -> None:
    text, figures = text_of(comparison), figures_of(comparison)
    assert "2 networks side by side" in text
    curves = {row["curve"] for row in rows_of(figures["accuracy"]["of"][""])}
    assert len(curves) == 3
    assert "ANN" in curves
    both = [figure for figure in data_of(comparison)["figures"] if figure["chart"] == "weights"]
    assert [("conv1" in figure["of"]) for figure in both] == [True, True]
    assert "the file does not say" not in text.replace("does not say what a graded", "")


# --- what is left out -------------------------------------------------------------------------------------------------


def test_a_run_without_a_network(digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("*.net"))
    report = nctool.report(run, tmp_path / "run.html")
    assert [(network.path, network.equal) for network in report.networks] == [(None, None)]
    text = text_of(tmp_path / "run.html")
    assert "nothing exported" in text
    assert "bit-exact" not in text
    assert set(figures_of(tmp_path / "run.html")) == {"accuracy", "loss", "accuracies", "theta", "gap"}


def test_a_run_that_goes_on(digits_run: Path, tmp_path: Path) -> None:
    shutil.copy(digits_run / "metrics.jsonl", tmp_path)
    nctool.report(tmp_path, tmp_path / "run.html")
    assert set(figures_of(tmp_path / "run.html")) == {"loss", "accuracies", "theta", "gap"}


def test_a_network_away_from_its_run(other_window: Path, tmp_path: Path) -> None:
    nctool.report(other_window, tmp_path / "one.html")
    text, figures = text_of(tmp_path / "one.html"), figures_of(tmp_path / "one.html")
    assert "its checkpoint is not in the folder of the file" in text
    assert not {"loss", "density", "accuracy"} & set(figures)  # one step is no curve
    assert "final_logits" in figures
    assert "Integers, T = 1" in text


def test_another_checkpoint_beside_a_file(digits_model: Path, tmp_path: Path) -> None:
    train_short(tmp_path / "run", "digits-mlp")
    shutil.copy(digits_model, tmp_path / "run" / "model.net")
    nctool.report(tmp_path / "run", tmp_path / "run.html")
    text = text_of(tmp_path / "run.html")
    assert "the checkpoint beside it is another one than it was exported from" in text
    assert "loss" not in figures_of(tmp_path / "run.html")


@pytest.fixture(scope="module")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted network with maxima, of images that no data set has."""
    torch.manual_seed(0)
    pooled = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(*pooled, nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).eval()
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 12, 12), np.uint8)
    path = tmp_path_factory.mktemp("own") / "own.net"
    nctool.convert(model, images, path, mean=0.5, std=0.25, steps=2)
    return path


def test_a_converted_network_shows_its_known_inputs(own_network: Path, tmp_path: Path) -> None:
    report = nctool.report(own_network, tmp_path / "own.html")
    text, figures = text_of(tmp_path / "own.html"), figures_of(tmp_path / "own.html")
    (network,) = report.networks
    assert (network.equal, network.accuracy, network.samples) == (True, {}, 16)
    assert "on 16 samples of the known inputs of the file" in text
    assert "the samples have no labels (the file names no data set: it was converted from Sequential )" in text
    assert "the file was converted from Sequential , which is not in it" in text
    assert not {"confusion", "accuracy", "density"} & set(figures)
    maxima = [v["text"] for v in figures["weights"]["of"].values() if "a maximum" in v["text"]]
    assert len(maxima) == 1
    assert figures["raster"]["of"]["0"]["image"].startswith("data:image/png;base64,")


def test_its_own_samples_with_labels(own_network: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 3, 12, 12), np.uint8)
    answers = nctool.open(own_network)(images).argmax(axis=1)
    labels = np.where(np.arange(20) < 15, answers, (answers + 1) % 5)
    report = nctool.report(own_network, tmp_path / "own.html", input=images, labels=labels)
    assert report.networks[0].accuracy["2"] == 0.75
    confusion = rows_of(figures_of(tmp_path / "own.html")["confusion"]["of"][""])
    assert sum(row["count"] for row in confusion if row["right"] == "right") == 15
    assert sum(row["count"] for row in confusion) == 20


def test_a_file_of_another_tool(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [dense_layer(rng.integers(-50, 50, shape)) for shape in ((12, 8), (4, 12))]
    path = Draft(layers).write(tmp_path / "other.net")
    report = nctool.report(path, tmp_path / "bare.html")
    assert report.networks[0].equal is None
    text = text_of(tmp_path / "bare.html")
    assert "not compared" in text
    assert "give samples with --input X.npy" in text
    assert set(figures_of(tmp_path / "bare.html")) == {"weights", "thresholds"}
    report = nctool.report(path, tmp_path / "run.html", input=rng.integers(0, 2, (10, 16, 8)))
    assert (report.networks[0].equal, report.networks[0].compared_samples) == (True, 10)
    figures = figures_of(tmp_path / "run.html")
    assert {"raster", "logits", "rates", "layer_rates"} <= set(figures)
    assert not {"head_room", "cores_by_layer", "operations", "errors"} & set(figures)
    rates = [row["value"] for row in rows_of(figures["layer_rates"]["of"][""])]
    assert all(0 <= rate <= 1 for rate in rates)


# --- what is not equal ------------------------------------------------------------------------------------------------


def test_a_file_that_was_changed_is_not_run(digits_model: Path, tmp_path: Path, cli: Any) -> None:
    path = shutil.copy(digits_model, tmp_path / "changed.net")
    with h5py.File(path, "r+") as file:
        file["layer/1/weight"][0, 0, 0, 0] += 1
    ended = cli("report", path, "-o", tmp_path / "changed.html")
    assert ended.code == 1
    assert "DIFFERENT: layer `conv1` is not what was exported: its digest differs" in ended.out
    text = text_of(tmp_path / "changed.html")
    assert "DIFFERENT" in text
    assert "bit-exact" not in text
    assert not {"raster", "accuracy", "operations"} & set(figures_of(tmp_path / "changed.html"))


def test_an_engine_that_loses_a_spike(digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(job: Any) -> Any:
        for trace in reference(job):
            spikes = {name: fired.copy() for name, fired in trace.spikes.items()}
            first = np.unravel_index(np.flatnonzero(spikes["fc1"])[0], spikes["fc1"].shape)
            spikes["fc1"][first] = False
            yield replace(trace, spikes=spikes)

    reference = engines.ENGINES["reference"]
    monkeypatch.setitem(engines.ENGINES, "fast", lossy)
    report = nctool.report(digits_model, tmp_path / "lossy.html", verify=4)
    assert report.networks[0].equal is False
    assert "first divergence: layer fc1 , sample" in text_of(tmp_path / "lossy.html")


def test_nothing_is_compared_where_that_is_not_wanted(digits_model: Path, tmp_path: Path) -> None:
    report = nctool.report(digits_model, tmp_path / "a.html", verify=0)
    assert (report.networks[0].equal, report.networks[0].engines) == (None, ())
    assert "nothing was compared" in text_of(tmp_path / "a.html")
    report = nctool.report(digits_model, tmp_path / "b.html", engines="reference")
    assert report.networks[0].equal is None
    assert "only one engine was named: reference" in text_of(tmp_path / "b.html")


@pytest.mark.lava
def test_lava_is_compared_where_it_is_named(digits_model: Path, tmp_path: Path) -> None:
    report = nctool.report(digits_model, tmp_path / "lava.html", engines="reference,fast,lava", verify=4)
    assert (report.networks[0].equal, report.networks[0].engines) == (True, ("reference", "fast", "lava"))
    text = text_of(tmp_path / "lava.html")
    assert "the 4 samples that ran on it, equal in every spike" in text
    assert "not run here" not in text


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_refused(digits_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    refused = {
        "networks: none given, allowed one or more": {"networks": []},
        "unknown engine `quick`, allowed reference, fast, lava": {"engines": "quick"},
        "samples: 9999 is out of range, allowed 1..359 (digits, test)": {"samples": 9999},
        f"output: `{tmp_path}/mine.html` is there and is no report page of nctool, so it is not replaced": {
            "output": tmp_path / "mine.html"
        },
        f"output: `{digits_model}` is the network `{digits_model}`": {"output": digits_model},
        f"`{tmp_path}` is a folder, allowed: the folder of a training run, or an exported network": {
            "networks": tmp_path
        },
    }
    for message, arguments in refused.items():
        with pytest.raises(UsageError) as caught:
            nctool.report(**{"networks": digits_model, "output": tmp_path / "new.html", **arguments})
        assert caught.value.message == message
    assert not (tmp_path / "new.html").exists()


def test_too_many_networks(digits_model: Path, tmp_path: Path) -> None:
    paths = [shutil.copy(digits_model, tmp_path / f"{number}.net") for number in range(7)]
    with pytest.raises(UsageError) as caught:
        nctool.report(paths, tmp_path / "many.html")
    assert caught.value.message == "7 networks, allowed up to 6 on a page"


def test_a_page_is_replaced_by_a_page(page: Path, digits_model: Path, tmp_path: Path, cli: Any) -> None:
    shutil.copy(page, tmp_path / "report.html")
    shown = cli("report", digits_model, "-o", tmp_path / "report.html", "--verify", 2)
    assert shown.code == 0
    first, second = shown.out.splitlines()
    assert "reference = fast, bit for bit; 2 samples, " in first
    assert re.fullmatch(rf"wrote {tmp_path}/report.html \(1\.\d\d MB\)", second)
    told = cli("report", digits_model, "-o", tmp_path / "report.html", "--verify", 2, "--json").json
    assert set(told) == {"path", "size_bytes", "networks"}
    assert told["networks"][0]["compared_samples"] == 2


# --- published figures ------------------------------------------------------------------------------------------------


def test_published_figures_are_those_of_the_page_of_results() -> None:
    for recipe, by_steps in PUBLISHED.items():
        cells = " | ".join(f"{100 * accuracy:.2f}" for accuracy in by_steps.values())
        assert re.search(rf"\| {recipe} \| [\d.]+ \| {re.escape(cells)} \|", page_text("RESULTS.md")), recipe
        assert list(by_steps) == [1, 2, 4, 8, 16]
