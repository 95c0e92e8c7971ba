"""`nctool convert`: the command, its report, and the files that it writes, which take pixels or numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import nctool
from nctool.errors import FormatError, RangeError, UsageError
from nctool.running.images import read_images_alike
from nctool_deploy.netx import Provenance, read
from tests.support.network_files import to_exported, to_onnx, to_script
from tests.support.refusals import refusal

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), np.uint8)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def numbers_of(pixels: np.ndarray) -> np.ndarray:
    column = (-1, 1, 1)
    return ((pixels / 255 - np.reshape(MEAN, column)) / np.reshape(STD, column)).astype(np.float32)


NUMBERS = numbers_of(PIXELS)


def net() -> nn.Module:
    torch.manual_seed(0)
    ends = nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *ends).eval()


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.fc = nn.Conv1d(2, 6, 5, padding=2), nn.AvgPool1d(4), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.conv(x))).flatten(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network, its images, and what was converted of them: to pixels, to numbers."""
    folder = tmp_path_factory.mktemp("convert")
    to_onnx(net(), torch.from_numpy(NUMBERS[:2]), folder / "model.onnx")
    np.save(folder / "x.npy", PIXELS)
    np.save(folder / "numbers.npy", NUMBERS)
    nctool.convert(net(), PIXELS, folder / "pixels.net", mean=MEAN, std=STD)
    nctool.convert(net(), NUMBERS, folder / "numbers.net")
    return folder


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


# --- the command ------------------------------------------------------------------------------------------------------

OPTIONS = ["--mean", "0.5,0.4,0.3", "--std", "0.25,0.2,0.3"]


def test_end_to_end_in_a_process_of_its_own(here, tmp_path):
    command = [sys.executable, "-m", "nctool", "convert", "model.onnx", "--images", "x.npy", *OPTIONS]
    ended = subprocess.run([*command, "-o", tmp_path / "m.net"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0] == "conversion for loihi2, autapse, graded input, T=4"
    assert lines[-2:] == [
        f"wrote {tmp_path / 'm.net'}",
        f"next: nctool run-sim {tmp_path / 'm.net'} --input X.npy   (pixels, uint8)",
    ]
    assert nctool.verify(tmp_path / "m.net", engines="reference,fast").equal


def test_what_a_user_sees(cli, here, tmp_path):
    ended = cli("convert", "model.onnx", "--images", "numbers.npy", "-o", tmp_path / "m.net")
    assert (ended.code, ended.err) == (0, "")
    report = cli("convert", "model.onnx", "--images", "numbers.npy", "-o", tmp_path / "m.net", "--json").json
    for name, loss in report["losses"].items():
        (row,) = [line for line in ended.out.splitlines() if line.startswith(f"choose neurons `{name}`")]
        assert f"{loss:.1%} of what its ReLUs give is lost" in row
    assert "in rows `choose …` and `compare …`, of its spikes\n" in ended.out
    same = report["fidelity"]["same_as_ann"]
    compared = "on 60 of the images that it was converted on"
    assert f"{compared}, {same:.1%} of the answers are the trained network's\n" in ended.out
    assert ended.out.endswith("--input X.npy   (numbers as the trained network takes them)\n")


def test_the_report(here, tmp_path):
    report = nctool.convert("model.onnx", "x.npy", tmp_path / "m.net", mean=MEAN, std=STD, replicas=2, steps=3)
    assert (report.images, report.samples, report.data_dir) == (60, "pixels", None)
    assert (report.target, report.backend, report.steps, report.input) == ("loihi2", "autapse", 3, "graded")
    assert list(report.losses) == list(report.replicas) == list(report.bounds)[:-1]
    assert set(report.replicas.values()) == {2}
    content = read(report.path)
    assert content.provenance == Provenance(model="model.onnx", input_mean=MEAN, input_std=STD)


def test_keys_of_json_are_in_the_page(cli, here, tmp_path):
    report = cli("convert", "model.onnx", "--images", "x.npy", *OPTIONS, "-o", tmp_path / "m.net", "--json").json
    page = (Path(nctool.__file__).parents[2] / "docs/COMMANDS.md").read_text(encoding="utf-8")
    section = page[page.index("## Converting without training") : page.index("## Output and exit codes")]
    assert {"images", "samples", "losses"} <= report.keys()
    assert "same_as_ann" in report["fidelity"]
    documented = ("images", "samples", "losses", "fidelity.same_as_ann", "fidelity.accuracy")
    assert all(f"| `{key}` |" in section for key in documented)


def test_labels_tell_the_accuracy_and_change_nothing(cli, here, tmp_path):
    """Of 80 images, 16 are held out: those are answered by the file and by the trained network."""
    pixels = np.random.default_rng(1).integers(0, 256, (80, 3, 8, 8), np.uint8)
    answers = net()(torch.from_numpy(numbers_of(pixels))).argmax(1).numpy()
    labels = np.where(np.arange(80) < 40, answers, (answers + 1) % 5)
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "y.npy", labels)
    command = ["convert", "model.onnx", "--images", tmp_path / "x.npy", *OPTIONS, "-o"]
    report = cli(*command, tmp_path / "m.net", "--labels", tmp_path / "y.npy", "--json").json
    accuracy = report["fidelity"]["accuracy"]
    held_out = np.arange(4, 80, 5)
    found = nctool.run_sim(tmp_path / "m.net", input=pixels[held_out], labels=labels[held_out])
    assert (report["fidelity"]["images"], accuracy) == (16, {"snn": found.accuracy["4"], "ann": 0.5})
    shown = cli(*command, tmp_path / "again.net", "--labels", tmp_path / "y.npy").out
    told = f"of the labels of these, {accuracy['snn']:.1%} are answered, 50.0% by the trained network\n"
    assert told in shown
    without = cli(*command, tmp_path / "without.net", "--json").json
    assert without["fidelity"]["accuracy"] is None
    assert (tmp_path / "m.net").read_bytes() == (tmp_path / "without.net").read_bytes()


@pytest.mark.parametrize("name", ["{}.png", "class{}/a.png"])
def test_a_folder_of_images_is_the_array_of_their_pixels(name, tmp_path):
    """By the order of their names; images may lie in the folders of their classes."""
    for number, pixels in enumerate(PIXELS[:9]):
        file = tmp_path / "images" / name.format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file)
    options = {"mean": MEAN, "std": STD}
    nctool.convert(net(), tmp_path / "images", tmp_path / "folder.net", **options)
    nctool.convert(net(), PIXELS[:9], tmp_path / "array.net", **options)
    assert (tmp_path / "folder.net").read_bytes() == (tmp_path / "array.net").read_bytes()


@pytest.mark.vision
def test_a_converted_network_runs_on_a_folder_data_set(folder, tmp_path):
    """It knows no names of classes, so that no folder has wrong ones."""
    for number, pixels in enumerate(PIXELS[:10]):
        for split in ("train", "test"):
            file = tmp_path / split / f"class{number % 5}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(file)
    report = nctool.run_sim(folder / "pixels.net", dataset=tmp_path)
    assert (report.samples, set(report.accuracy)) == (10, {"1", "2", "4"})


def test_what_is_changed_in_files_is_noted(tmp_path):
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(PIXELS[:9]):
        image = Image.fromarray(pixels.transpose(1, 2, 0)).convert("RGBA" if number < 2 else "RGB")
        image.save(tmp_path / "images" / f"{number}.png")
    report = nctool.convert(net(), tmp_path / "images", tmp_path / "m.net", mean=MEAN, std=STD)
    assert "2 images, `0.png` the first: made RGB from RGBA" in report.notes


@pytest.mark.parametrize("content", [b"", b"\x89PNG no image"])
def test_a_file_that_is_no_image_keeps_its_hint(content, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        nctool.convert(net(), tmp_path / "images", tmp_path / "m.net", mean=MEAN, std=STD)
    assert caught.value.hint == "move it out of there, or fetch it anew"


def test_files_of_other_channels_are_told_what_they_are(tmp_path):
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(PIXELS[:9]):
        Image.fromarray(pixels[0]).save(tmp_path / "images" / f"{number}.png")
    with pytest.raises(UsageError) as caught:
        nctool.convert(net(), tmp_path / "images", tmp_path / "m.net", mean=0.5, std=0.5)
    assert caught.value.hint == (
        "the files are taken as they are, 1x8x8: make them grey or RGB, of the size that it takes"
    )


@pytest.mark.parametrize(
    ("files", "shape"),
    [
        ({"a.png": "L", "b.png": "1"}, (2, 1, 4, 4)),
        ({"a.png": "L", "b.png": "RGB"}, (2, 3, 4, 4)),
        ({"cats/a.png": "L", "dogs/b.png": "LA", "dogs/.hidden": None}, (2, 1, 4, 4)),
    ],
)
def test_images_are_grey_where_all_of_them_are(files, shape, tmp_path):
    for name, mode in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"") if mode is None else Image.new(mode, (4, 4)).save(tmp_path / name)
    assert read_images_alike(tmp_path).pixels.shape == shape


def test_images_of_two_sizes_are_refused(tmp_path):
    tmp_path = tmp_path / "images"
    tmp_path.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "b.png")
    with pytest.raises(FormatError) as caught:
        nctool.convert(net(), tmp_path, tmp_path.parent / "m.net", mean=MEAN, std=STD)
    assert caught.value.message.endswith(
        f"b.png`: got an image of 9x8 (height x width), allowed: 8x8 as in `{tmp_path / 'a.png'}`"
    )
    assert caught.value.hint == "bring all images to the size that the network takes"


def test_labels_stay_with_the_images_that_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("nctool.exporting.calibration_images.MOST_IMAGES", 70)
    answers = net()(torch.from_numpy(numbers_of(many := np.repeat(PIXELS, 2, axis=0)))).argmax(1).numpy()
    report = nctool.convert(net(), many, tmp_path / "m.net", labels=answers, mean=MEAN, std=STD)
    assert (report.fidelity.images, report.fidelity.accuracy.ann) == (14, 1.0)


@pytest.mark.parametrize(
    ("labels", "error", "text"),
    [
        (np.zeros(59, int), FormatError, "`labels`: labels are int64 (59,), allowed class numbers for 60 samples"),
        (np.zeros(61, int), FormatError, "`labels`: labels are int64 (61,), allowed class numbers for 60 samples"),
        (np.zeros(60), FormatError, "`labels`: labels are float64 (60,), allowed class numbers for 60 samples"),
        (np.full(60, 5), RangeError, "`labels`: label 5, the network has 5 classes"),
        (np.full(60, -1), FormatError, "`labels`: labels reach from -1 to -1, allowed 0..2147483647"),
    ],
)
def test_labels_that_are_not_those_of_the_images(tmp_path, labels, error, text):
    with pytest.raises(error) as caught:
        nctool.convert(net(), NUMBERS, tmp_path / "m.net", labels=labels)
    assert caught.value.message == text
    assert not list(tmp_path.iterdir())


def test_options_that_differ_by_backend(here, tmp_path):
    for backend, expected in {"autapse": (4, 1), "population": (1, 4), "zero-reset": (4, 1)}.items():
        report = nctool.convert(net(), NUMBERS, tmp_path / "m.net", backend=backend)
        assert (report.backend, report.steps, set(report.replicas.values())) == (backend, expected[0], {expected[1]})
        assert nctool.verify(report.path, engines="reference,fast").equal


def test_code_that_builds_a_network(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", PIXELS)
    Path("nets.py").write_text(
        "import torch\nfrom torch import nn\nprint('building')\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))\n",
        encoding="utf-8",
    )
    ended = cli("convert", "nets.py:build", "--images", "x.npy", *OPTIONS, "-o", "m.net", "--json")
    assert ended.code == 0
    assert ended.json["losses"].keys() == {"1"}
    assert read(Path("m.net")).provenance.model == "nets.py:build"


@pytest.mark.parametrize("save", [to_onnx, to_exported, to_script])
def test_every_kind_of_file_gives_the_network_of_the_module(tmp_path, save):
    path = save(net(), torch.from_numpy(NUMBERS[:2]), tmp_path / "model")
    of_file, of_module = (nctool.convert(each, NUMBERS, tmp_path / "m.net") for each in (path, net()))
    assert of_file.fidelity.same_as_ann == of_module.fidelity.same_as_ann
    assert list(of_file.losses.values()) == pytest.approx(list(of_module.losses.values()), rel=1e-3)


def test_progress_is_told(here, tmp_path):
    told: list[tuple[int, int, str]] = []
    nctool.convert(net(), NUMBERS, tmp_path / "m.net", progress=lambda *message: told.append(message))
    texts = [text for _, _, text in told]
    assert texts[0] == "reading the network"
    assert texts[-1] == "running known inputs, and writing"
    assert {"converting `0`", "converting `3`", "converting `6`"} <= set(texts)
    assert all(0 <= done <= total for done, total, _ in told)


def test_the_module_is_left_as_it_was(tmp_path):
    """Bit for bit, its modes, gradients and hooks, also where the conversion fails."""
    model = net().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = [dict(vars(module)) for module in model.modules()]
    random = torch.get_rng_state()
    nctool.convert(model, NUMBERS, tmp_path / "m.net")
    refusal(UsageError, nctool.convert, model, NUMBERS, tmp_path / "m.net", replicas=65)
    assert [dict(vars(module)) for module in model.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


# --- files ------------------------------------------------------------------------------------------------------------


def test_metadata_of_trained_networks_stay_as_they_were(digits_model, folder):
    """No key was added to their files; a converted one says what it was converted from, and what it takes."""
    keys = {}
    for name, path in {
        "trained": digits_model,
        "pixels": folder / "pixels.net",
        "numbers": folder / "numbers.net",
    }.items():
        with h5py.File(path) as file:
            keys[name] = list(json.loads(file["nctool/metadata"][()])["provenance"])
    trained = ["recipe", "seed", "dataset", "checkpoint_sha256", "input_mean", "input_std", "classes"]
    assert keys == {
        "trained": trained,
        "pixels": ["input_mean", "input_std", "classes", "model"],
        "numbers": ["input_mean", "input_std", "classes", "model", "samples"],
    }


def test_what_a_file_takes_is_read_back(folder):
    pixels, numbers = (read(folder / name).provenance for name in ("pixels.net", "numbers.net"))
    assert (pixels.samples, pixels.input_mean, pixels.model) == ("pixels", MEAN, "Sequential")
    assert (numbers.samples, numbers.recipe, numbers.dataset) == ("numbers", None, None)


def test_numbers_are_run_as_the_pixels_that_they_are(folder, tmp_path):
    """All 256 steps of the range: the same network, and the same answers as of the pixels in the file."""
    low, width = NUMBERS.min((0, 2, 3)), np.ptp(NUMBERS, (0, 2, 3))
    pixels = np.rint(255 * ((NUMBERS - low[:, None, None]) / width[:, None, None])).astype(np.uint8)
    content = read(folder / "numbers.net")
    fitted, found = content.fit(NUMBERS, "x")
    assert fitted is content
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found, PIXELS)  # whose darkest and brightest are 0 and 255 in each channel
    np.testing.assert_array_equal(content.known_answers.pixels, found[:16])
    report = nctool.run_sim(folder / "numbers.net", input=NUMBERS.astype(np.float64))
    assert report.answers.tolist() == nctool.run_sim(folder / "pixels.net", input=PIXELS).answers.tolist()


@pytest.mark.parametrize("file", ["numbers.net", "pixels.net"])
def test_files_run_are_verified_and_traced(folder, tmp_path, file):
    values = NUMBERS if file == "numbers.net" else PIXELS
    report = nctool.run_sim(folder / file, input=values[:7], output=tmp_path / "t.npz", cost=True)
    assert (report.samples, len(report.answers)) == (7, 7)
    with np.load(tmp_path / "t.npz") as traces:
        assert sorted(traces.files) == ["logits", "spikes/0", "spikes/3"]
    assert nctool.run_sim(folder / file, input=values[:7], labels=report.answers).accuracy["4"] == 1.0
    verified = nctool.verify(folder / file, engines="reference,fast", input=values[:7])
    assert (verified.equal, verified.samples) == (True, 7)


def test_inspect_shows_where_a_network_came_from(cli, folder):
    shown = cli("inspect", folder / "numbers.net").out
    assert shown.endswith("model: Sequential\nsamples: numbers\n")
    assert "classes" not in shown
    assert cli("inspect", folder / "pixels.net", "--json").json["provenance"] == {
        "input_mean": list(MEAN),
        "input_std": list(STD),
        "classes": [],
        "model": "Sequential",
    }


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["autapse", "population", "zero-reset"])
def test_lava_agrees(tmp_path, backend):
    report = nctool.convert(net(), NUMBERS, tmp_path / "m.net", backend=backend)
    assert nctool.verify(report.path, engines="reference,fast,lava", samples=3).equal


# --- sequences and features -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape"),
    [(Sequences(), (2, 32)), (nn.Sequential(nn.Linear(13, 20), nn.ReLU(), nn.Linear(20, 3)), (13,))],
    ids=["sequences", "features"],
)
@pytest.mark.parametrize("kind", ["numbers", "pixels"])
def test_samples_that_are_no_images(tmp_path, model, shape, kind):
    values = np.random.default_rng(0).normal(size=(50, *shape)).astype(np.float32)
    options: dict[str, Any] = {}
    if kind == "pixels":
        values, options = (127 + 40 * values).clip(0, 255).astype(np.uint8), {"mean": [0.5], "std": [0.25]}
    report = nctool.convert(model, values, tmp_path / "m.net", **options)
    assert report.samples == kind
    assert len(nctool.run_sim(report.path, input=values[:5]).answers) == 5
    verified = nctool.verify(report.path, engines="reference,fast", input=values[:20])
    assert (verified.equal, verified.samples) == (True, 20)


# --- samples that a file of numbers or of pixels does not take --------------------------------------------------------


def with_number(value: float) -> np.ndarray:
    values = NUMBERS[:4].copy()
    values[2, 1, 3, 3] = value
    return values


def test_numbers_a_little_outside_are_clipped(folder):
    content, top = read(folder / "numbers.net"), float(NUMBERS[:, 1].max())
    width = top - float(NUMBERS[:, 1].min())
    _, found = content.fit(with_number(top + 0.49 * width), "x")
    assert found[2, 1, 3, 3] == 255


@pytest.mark.parametrize(
    ("number", "shown"), [(6.0, "6"), (-1e30, "-1e+30"), (float("nan"), "nan"), (float("-inf"), "-inf")]
)
def test_numbers_far_outside_are_named(folder, number, shown):
    assert refusal(RangeError, nctool.run_sim, folder / "numbers.net", input=with_number(number)) == (
        f"`input`: holds {shown} in channel 1 of sample 2, the network was converted on -2..3 there\n"
        "hint: normalise the samples as those that the network was converted on"
    )


def test_images_that_were_not_normalised(folder):
    text = refusal(RangeError, nctool.run_sim, folder / "numbers.net", input=PIXELS.astype(np.float32))
    assert text.startswith("`input`: holds ")
    assert text.endswith("hint: normalise the samples as those that the network was converted on")


TO_NUMBERS = (
    "the network was converted on numbers, normalised as it takes them: give the same; or convert it on uint8 pixels, "
    "with mean and std"
)


@pytest.mark.parametrize(
    ("file", "values", "text"),
    [
        (
            "numbers.net",
            PIXELS[:4],
            f"`input`: holds uint8 (4, 3, 8, 8), allowed floats (samples, 3, 8, 8)\nhint: {TO_NUMBERS}",
        ),
        (
            "numbers.net",
            NUMBERS[:4, :, 1:],
            "`input`: holds float32 (4, 3, 7, 8), allowed floats (samples, 3, 8, 8)\n"
            "hint: the network was converted on numbers, normalised as it takes them: give the same",
        ),
        (
            "pixels.net",
            NUMBERS[:4],
            "`input`: holds float32 (4, 3, 8, 8), allowed uint8 (samples, 3, 8, 8)\n"
            "hint: pixels are 0..255, before any normalisation; these reach from -2 to 3",
        ),
    ],
)
def test_samples_of_the_other_kind(folder, file, values, text):
    for command in (nctool.run_sim, nctool.verify):
        assert refusal(RangeError, command, folder / file, input=values) == text


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("numbers.net", 'give samples with input="X.npy", normalised as the images of the conversion'),
        ("pixels.net", 'give samples with input="X.npy", or a data set of pixels with dataset'),
    ],
)
def test_a_file_that_names_no_data_set(folder, file, hint):
    expected = f"the file names no data set: it was converted from `Sequential`\nhint: {hint}"
    assert refusal(UsageError, nctool.run_sim, folder / file) == expected
    assert refusal(UsageError, nctool.verify, folder / file, engines="fast", samples=100) == expected


def test_a_data_set_holds_pixels(folder, tmp_path):
    labels = np.zeros(60, np.int64)
    np.savez(tmp_path / "d.npz", x_train=PIXELS, y_train=labels, x_test=PIXELS, y_test=labels, layout="NCHW")
    path = tmp_path / "d.npz"
    assert nctool.run_sim(folder / "pixels.net", dataset=path).samples == 60
    assert refusal(UsageError, nctool.run_sim, folder / "numbers.net", dataset=path) == (
        f"data set `{path}`: holds pixels, the network takes the numbers that it was converted on\n"
        'hint: give samples with input="X.npy", normalised as the images of the conversion'
    )
