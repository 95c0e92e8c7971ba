"""`verify` finds what changed, and names exactly the layer that changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import nctool
from nctool.errors import FormatError
from nctool.ir.network import IntNetwork, Population
from nctool.ir.repeat import NO_REPEAT
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace, join
from nctool.running.engines import ENGINES, Job
from nctool.verification.counts import PairCounts, compare_traces
from nctool.verification.divergence import first_divergence
from nctool_deploy.lava import engine
from nctool_deploy.netx import read
from nctool_deploy.netx.metadata import group_digest
from tests.support.runs import assert_error

LAYERS = ("conv1", "conv2", "fc1", "fc2")


def corrupt(network: IntNetwork, layer: str, index: tuple[int, ...], value: int) -> IntNetwork:
    """Return `network` with one weight of one layer replaced."""

    def changed(population: Population) -> Population:
        weight = population.synapses[0].weight.copy()
        weight[index] = value
        return replace(population, synapses=(replace(population.synapses[0], weight=weight, repeat=NO_REPEAT),))

    populations = tuple(changed(p) if p.name == layer else p for p in network.populations)
    return replace(network, populations=populations)


def visible_corruption(network: IntNetwork, layer: str, pixels: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Find one weight of `layer` and a value that changes what the layer does on `pixels`."""
    weight = next(p for p in network.populations if p.name == layer).synapses[0].weight
    expected = simulate(network, pixels)
    for flat in np.argsort(-np.abs(weight.reshape(-1)), kind="stable")[:200]:
        index = tuple(int(i) for i in np.unravel_index(flat, weight.shape))
        value = -int(weight[index])
        actual = simulate(corrupt(network, layer, index, value), pixels)
        if first_divergence(network, expected, actual, ("a", "b")) is not None:
            return index, value
    raise AssertionError(f"no weight of {layer} matters on these samples")


@pytest.mark.parametrize("layer", LAYERS)
def test_one_changed_weight_in_the_file_is_found_in_its_layer(digits_model: Path, tmp_path: Path, layer: str) -> None:
    content = read(digits_model)
    index, value = visible_corruption(content.network, layer, content.known_answers.pixels)
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    number = next(record.layer for record in content.metadata.populations if record.name == layer)
    with h5py.File(path, "r+") as file:
        file[f"layer/{number}/weight"][index] = value
    report = nctool.verify(path, engines=["reference"])
    assert not report.equal
    found = report.first_divergence
    assert found is not None
    assert (found.layer, found.expected_by, found.actual_by) == (layer, "file", "reference")
    assert found.quantity == ("logit" if layer == "fc2" else "spike")
    assert found.expected != found.actual
    with pytest.raises(FormatError, match=f"layer `{layer}` is not what was exported"):
        read(path)


def test_a_change_that_no_trace_shows_is_found_by_its_digest(digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    network = read(path).network
    with h5py.File(path, "r+") as file:
        weight = file["layer/1/weight"]
        weight[0, 0, 0, 0] = weight[0, 0, 0, 0] + 1
    changed = read(path, check_digests=False)
    assert changed.network != network
    assert changed.changed_layers == ("conv1",)
    report = nctool.verify(path, engines=["reference"])
    assert not report.equal
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "conv1"


@pytest.mark.lava
@pytest.mark.parametrize("layer", ["conv2", "fc2"])
def test_one_changed_weight_in_memory_is_found_in_its_layer_on_lava(digits_model: Path, layer: str) -> None:
    content = read(digits_model)
    pixels = content.known_answers.pixels[:3]
    index, value = visible_corruption(content.network, layer, pixels)
    (lava,) = engine.stream(digits_model, content.network, pixels)
    assert first_divergence(content.network, simulate(content.network, pixels), lava, ("reference", "lava")) is None
    found = first_divergence(
        content.network, simulate(corrupt(content.network, layer, index, value), pixels), lava, ("reference", "lava")
    )
    assert found is not None
    assert found.layer == layer


def test_a_sound_file_is_equal_to_its_known_answers(digits_model: Path) -> None:
    report = nctool.verify(digits_model, engines=["reference"])
    assert report.equal
    assert report.samples == report.known_answers == 16
    network = read(digits_model).network
    neurons = sum(p.n_neurons for p in network.populations[:-1])
    assert report.compared_spikes == 16 * network.n_steps * neurons
    assert report.compared_logits == 16 * network.n_steps * 10


@pytest.mark.parametrize("engines", [["reference", "lava"], ["lava"]])
def test_a_file_that_is_not_what_was_exported_is_not_run(
    digits_model: Path, tmp_path: Path, engines: list[str]
) -> None:
    """Lava would refuse the file; the answer is *different*, not a failed engine."""
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    digest = read(path).metadata.populations[1].digest
    with h5py.File(path, "r+") as file:
        text = file["nctool/metadata"]
        text[()] = text[()].replace(digest.encode(), digest[::-1].encode())
    report = nctool.verify(path, engines=engines, layers=tmp_path / "traces.npz")
    assert (report.equal, report.samples, report.known_answers) == (False, 0, 16)
    assert str(report.first_divergence) == "layer `conv2` is not what was exported: its content differs"
    outcomes = {(check.group, check.name): check.outcome for check in report.checks}
    assert [name for name, outcome in outcomes.items() if outcome == "failed"] == [
        ("file", "conv2"),
        ("file", "/nctool"),
    ]
    not_run = [name for name, outcome in outcomes.items() if outcome == "not run"]
    assert not_run == [("reference = lava", layer) for layer in ("conv1", "conv2", "fc1", "fc2 logits")] * (
        len(engines) - 1
    )


def reverse_classes(metadata: dict) -> None:
    metadata["provenance"]["classes"].reverse()


def narrow_a_proved_bound(metadata: dict) -> None:
    metadata["populations"][0]["bound"].update(kind="proved", low=-1, high=1)


def edited(model: Path, path: Path, change: Callable[[dict], object]) -> Path:
    """Copy a model and change its metadata."""
    shutil.copy(model, path)
    with h5py.File(path, "r+") as file:
        metadata = json.loads(file["nctool/metadata"][()])
        change(metadata)
        del file["nctool/metadata"]
        file["nctool/metadata"] = np.bytes_(json.dumps(metadata).encode())
    return path


def outcomes_of_the_file(path: Path) -> dict[str, tuple[str, str]]:
    report = nctool.verify(path, engines=["reference"])
    return {check.name: (check.outcome, check.text) for check in report.checks if check.group == "file"}


def test_every_part_of_a_sound_file_is_checked(digits_model: Path) -> None:
    assert outcomes_of_the_file(digits_model) == dict.fromkeys(
        ("input", *LAYERS, "/nctool", "proved bounds"), ("passed", "")
    )


def test_changed_metadata_are_different(digits_model: Path, tmp_path: Path) -> None:
    """`run-sim --input` would have shown the wrong names, and every trace is as exported."""
    path = edited(digits_model, tmp_path / "changed.net", reverse_classes)
    report = nctool.verify(path, engines=["reference", "fast"])
    assert (report.equal, report.samples) == (False, 0)
    assert str(report.first_divergence) == "group `/nctool` is not what was exported: its content differs"
    failed = [(check.name, check.text) for check in report.checks if check.outcome == "failed"]
    assert failed == [("/nctool", "group `/nctool` is not what was exported: its digest differs")]
    with pytest.raises(FormatError, match="group `/nctool` is not what was exported: its digest differs"):
        nctool.run_sim(path, input=read(digits_model).known_answers.pixels)


def test_a_false_proof_is_different(digits_model: Path, tmp_path: Path) -> None:
    path = edited(digits_model, tmp_path / "changed.net", narrow_a_proved_bound)
    with h5py.File(path, "r+") as file:
        file["nctool/digest"][()] = np.bytes_(group_digest(file["nctool"]))
    report = nctool.verify(path, engines=["reference"])
    assert not report.equal
    assert str(report.first_divergence) == "layer `conv1` is not what was exported: its bound differs"
    failed = [(check.name, check.text) for check in report.checks if check.outcome == "failed"]
    assert failed == [("proved bounds", "layer `conv1` can leave its bound, although the file calls it proved")]


def test_an_older_file_runs_and_verify_says_what_is_not_covered(digits_model: Path, tmp_path: Path) -> None:
    path = edited(digits_model, tmp_path / "older.net", reverse_classes)
    with h5py.File(path, "r+") as file:
        del file["nctool/digest"]
        file["nctool/version"][()] = 1
    report = nctool.verify(path, engines=["reference", "fast"])
    assert (report.equal, report.samples) == (True, 16)
    (check,) = (check for check in report.checks if check.outcome == "not run")
    assert (check.group, check.name) == ("file", "/nctool")
    assert check.text == (
        "an older nctool wrote no digest of `/nctool`: class names, target, weight bits and calibrated bounds may have "
        "changed"
    )
    assert nctool.run_sim(path, input=read(path).known_answers.pixels).samples == 16


def test_an_overflow_is_never_equal(digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "overflow.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        bias = file["layer/1/bias"]
        bias[...] = np.full(bias.shape, -(2**17), np.int32)
    report = nctool.verify(path, engines=["reference"])
    assert not report.equal


@pytest.mark.lava
def test_lava_and_reference_agree_on_a_trained_network(digits_model: Path) -> None:
    report = nctool.verify(digits_model, engines=["reference", "lava"], samples=40)
    assert report.equal, report.first_divergence
    assert report.samples == 40
    assert report.overflows == 0


# --- an engine that differs ---------------------------------------------


def odd(pixels: np.ndarray) -> np.ndarray:
    """Pick the samples that the broken engine gets wrong, whatever chunk they are in."""
    return pixels.reshape(len(pixels), -1).sum(axis=1) % 2 == 1


def broken(job: Job) -> Iterator[Trace]:
    """Run the network, but on odd samples with 1 more on the bias of class 3."""
    readout = job.network.readout
    wrong = replace(readout, bias=readout.bias + (np.arange(10) == 3))
    wrong_network = replace(job.network, populations=(*job.network.populations[:-1], wrong))
    for k, is_odd in enumerate(odd(job.pixels)):
        yield simulate(wrong_network if is_odd else job.network, job.pixels[k : k + 1])


@pytest.fixture
def broken_fast(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The fast engine is the broken one; returns the sizes of the chunks that it is given."""
    sizes: list[int] = []

    def run(job: Job) -> Iterator[Trace]:
        sizes.append(len(job.pixels))
        return broken(job)

    monkeypatch.setitem(ENGINES, "fast", run)
    return sizes


def whole(model: Path) -> PairCounts:
    """Compare the broken engine on all known inputs at once."""
    content = read(model)
    pixels = content.known_answers.pixels
    actual = join(broken(Job(model, content, pixels)))
    return compare_traces(content.network, simulate(content.network, pixels), actual, ("reference", "fast"))


def test_the_broken_engine_is_wrong_on_some_samples_but_not_on_the_first(digits_model: Path) -> None:
    wrong = odd(read(digits_model).known_answers.pixels)
    assert not wrong[:2].any() and 2 <= wrong.sum() <= 14


@pytest.mark.parametrize("chunk", [1, 3, 500])
def test_all_differences_are_counted_whatever_the_chunks(
    digits_model: Path, monkeypatch: pytest.MonkeyPatch, broken_fast: list[int], chunk: int
) -> None:
    monkeypatch.setattr(engine, "MAX_SAMPLES_PER_RUN", chunk)
    report = nctool.verify(digits_model, engines=["reference", "fast"], all_differences=True)
    assert report.samples == sum(broken_fast) == 16
    assert max(broken_fast) == min(chunk, 16)
    assert report.statistics[1] == whole(digits_model)
    wrong = np.flatnonzero(odd(read(digits_model).known_answers.pixels))
    logits = report.statistics[1].logits
    assert (logits.samples, logits.first_step, logits.differing) == (len(wrong), 1, 4 * len(wrong))
    assert logits.magnitudes == {"1": len(wrong), "2": 2 * len(wrong), "4": len(wrong)}
    found = report.first_divergence
    assert (found.layer, found.sample, found.step, found.neuron) == ("fc2", wrong[0], 1, (3,))


def test_the_first_chunk_that_differs_is_the_last_one(
    digits_model: Path, monkeypatch: pytest.MonkeyPatch, broken_fast: list[int]
) -> None:
    monkeypatch.setattr(engine, "MAX_SAMPLES_PER_RUN", 2)
    report = nctool.verify(digits_model, engines=["reference", "fast"])
    chunks = int(np.flatnonzero(odd(read(digits_model).known_answers.pixels))[0]) // 2 + 1
    assert len(broken_fast) == chunks > 1
    assert report.samples == report.statistics[1].samples == 2 * chunks


def test_every_engine_runs_the_chunk_that_differs(
    digits_model: Path, monkeypatch: pytest.MonkeyPatch, broken_fast: list[int]
) -> None:
    """So that it can be seen which of three engines is the odd one out."""
    monkeypatch.setitem(ENGINES, "lava", lambda job: iter([simulate(job.network, job.pixels)]))
    report = nctool.verify(digits_model, engines=["reference", "fast", "lava"])
    assert [(pair.actual_by, pair.equal) for pair in report.statistics] == [
        ("reference", True),
        ("fast", False),
        ("lava", True),
    ]
    failed = [(check.group, check.name) for check in report.checks if check.outcome == "failed"]
    assert failed == [("reference = fast", "fc2 logits")]


def test_the_first_divergence_comes_with_its_neighbourhood(digits_model: Path, broken_fast: list[int]) -> None:
    report = nctool.verify(digits_model, engines=["reference", "fast"])
    found = json.loads(json.dumps(report.to_json()))["first_divergence"]
    near, content = found["neighbourhood"], read(digits_model)
    pixels = content.known_answers.pixels[found["sample"]][np.newaxis]
    expected = int(simulate(content.network, pixels).logits[0, 0, 3])
    assert (found["expected"], found["actual"]) == (expected, expected + 1)
    assert near["kind"] == "readout"
    assert near["drive"] == near["rules"]["values"] == near["expected"]["values"] == [expected]
    assert near["actual"] == {"name": "fast", "values": [expected + 1], "potentials": [expected + 1]}
    assert near["inputs_agree"] is True
    assert {each["source"] for each in near["inputs"]} == {"fc1"}
    added = sum(each["contribution"] for each in near["inputs"])
    assert added + near["more_contribution"] + near["bias"] == expected


def test_engines_that_keep_no_potentials_say_so_and_the_rules_give_them(
    digits_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipped(job: Job) -> Iterator[Trace]:
        trace = simulate(job.network, job.pixels)
        spikes = trace.spikes["conv2"].copy()
        spikes[1, 2, 3, 4, 5] ^= True
        yield replace(trace, spikes={**trace.spikes, "conv2": spikes})

    monkeypatch.setitem(ENGINES, "lava", flipped)
    report = nctool.verify(digits_model, engines=["fast", "lava"])
    assert report.first_divergence is not None
    near, network = report.first_divergence.neighbourhood, read(digits_model).network
    assert near is not None and near.rules is not None
    assert near.expected.potentials is near.actual.potentials is None
    trace = simulate(network, read(digits_model).known_answers.pixels, potentials=True)
    assert near.rules.potentials == tuple(trace.potentials["conv2"][1, :3, 3, 4, 5].tolist())
    assert near.rules.values == near.expected.values != near.actual.values


def test_traces_of_different_shapes_have_no_neighbourhood(digits_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "fast", lambda job: iter([simulate(job.network, job.pixels, n_steps=3)]))
    report = nctool.verify(digits_model, engines=["reference", "fast"])
    assert report.first_divergence is not None
    assert report.first_divergence.expected == "shape (16, 4, 16, 8, 8)"
    assert report.first_divergence.neighbourhood is None


def test_an_overflow_is_counted_once_however_many_engines_see_it(
    digits_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(job: Job) -> Iterator[Trace]:
        yield replace(simulate(job.network, job.pixels), overflows={"fc1": 7})

    monkeypatch.setitem(ENGINES, "reference", overflowing)
    monkeypatch.setitem(ENGINES, "fast", overflowing)
    report = nctool.verify(digits_model, engines=["reference", "fast"])
    assert (report.equal, report.overflows, report.first_divergence) == (False, 7, None)
    assert [(check.name, check.text) for check in report.checks if check.group == "overflow"] == [
        (name, f"7 accumulated inputs left the accumulator in `{name}`, allowed 0") for name in ("reference", "fast")
    ]


def test_an_engine_that_cannot_count_overflows_is_not_said_to_have_none(
    digits_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "lava", lambda job: iter([replace(simulate(job.network, job.pixels), overflows={})]))
    (check,) = (c for c in nctool.verify(digits_model, engines=["lava"]).checks if c.group == "overflow")
    assert (check.name, check.outcome, check.text) == ("lava", "not run", "no engine that was run counts them")


# --- the command ------------------------------------------------------------------------------------------------------


def test_verify_exits_1_on_a_difference(cli, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["layer/1/weight"][...] = -file["layer/1/weight"][...]
    ended = cli("verify", path, "--engines", "reference")
    assert ended.code == 1
    assert "DIFFERENT" in ended.out
    assert "first divergence: layer `conv1`, sample 0, step 1, neuron (" in ended.out
    divergence = cli("verify", path, "--engines", "reference", "--json").json["first_divergence"]
    assert {"layer", "sample", "step", "neuron", "expected", "actual"} <= set(divergence)


def test_verify_shows_what_drove_the_neuron_and_how_much_differs(cli, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["layer/2/weight"][...] = -file["layer/2/weight"][...]
    ended = cli("verify", path, "--engines", "reference,fast")
    lines = ended.out.splitlines()
    assert lines[0] == "DIFFERENT: file ≠ reference"
    assert lines[2:4] == [
        "layer `conv2` is not what was exported: its digest differs",
        "not run: reference = fast: the file is not what was exported",
    ]
    assert lines[4].startswith("first divergence: layer `conv2`, sample 0, step 1, neuron (")
    assert lines[5].startswith("the neuron: integrate-and-fire, threshold ")
    assert lines[6] == "its window, potentials before fire:"
    assert " ".join(lines[7].split()) == ("step drive potential file spike file potential reference spike reference")
    assert "not kept" in lines[8]
    assert lines[9].startswith("by the rules it is ") and lines[9].endswith(", as in `reference`")
    assert lines[10].endswith(" inputs were active at step 1, largest first; both sides agree on all of them:")
    assert lines[11].split()[:4] == ["source", "neuron", "value", "weight"]
    assert "`file` ≠ `reference` on 16 samples:" in lines
    last = {line.split()[0] for line in lines[lines.index("`file` ≠ `reference` on 16 samples:") + 2 :]}
    assert {"conv1", "conv2", "fc1", "fc2"} <= last


def test_verify_names_the_engines_that_differ(cli, digits_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from nctool.reference.simulate import simulate
    from nctool.running.engines import ENGINES

    def higher(job):
        trace = simulate(job.network, job.pixels)
        return iter([replace(trace, logits=trace.logits + 1000 * (np.arange(10) == 3))])

    monkeypatch.setitem(ENGINES, "lava", higher)
    out = cli("verify", digits_model, "--samples", 16).out
    assert out.startswith("DIFFERENT: reference ≠ lava\n16 samples, ")
    assert "first divergence: layer `fc2`, sample 0, step 1, neuron (3,): logit is " in out
    assert "by 512..1023: 64; " in out and " predictions change" in out


def test_verify_writes_its_files_when_engines_differ_too(cli, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["layer/1/weight"][...] = -file["layer/1/weight"][...]
    options = ["--junit", tmp_path / "out.xml", "--layers", tmp_path / "traces.npz"]
    assert cli("verify", path, "--engines", "reference", *options).code == 1
    assert b"<failure " in (tmp_path / "out.xml").read_bytes()
    assert np.load(tmp_path / "traces.npz")["engines"].tolist() == ["file", "reference"]


@pytest.mark.parametrize("option", ["--junit", "--layers"])
def test_outputs_of_verify_that_cannot_be_written_are_refused_before_the_run(
    cli, digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def run(*_: object) -> None:
        raise AssertionError("an engine ran")

    monkeypatch.setattr("nctool.verification.compare.compare_known_answers", run)
    hint = f"hint: choose another place with {option}, or make the folder and give yourself the right to write there\n"
    (tmp_path / "file").touch()
    for path, reason in [
        (tmp_path / "no" / "out", "no such file or directory"),
        (tmp_path / "file" / "out", "not a directory"),
        (tmp_path, "is a directory"),
        (Path("/dev/null"), "it is a device, a pipe or a socket"),
    ]:
        ended = cli("verify", digits_model, option, path)
        assert_error(ended, 2, f"error: cannot write `{path}`: {reason}\n{hint}")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_outputs_of_verify_overwrite_neither_an_input_nor_each_other(cli, digits_model: Path, tmp_path: Path) -> None:
    path, hint = tmp_path / "out", "hint: give it a file of its own\n"
    for options, text in [
        (["--junit", digits_model], f"--junit: `{digits_model}` is the model"),
        (["--layers", path, "--dataset", path], f"--layers: `{path}` is the data set"),
        (["--layers", path, "--junit", path], f"--junit: `{path}` is the file of --layers"),
    ]:
        assert_error(cli("verify", digits_model, *options), 2, f"error: {text}\n{hint}")
    assert not list(tmp_path.iterdir())


def test_traces_that_are_too_large_are_refused_before_the_run(
    cli, digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nctool.verification.trace_file.MAX_BYTES", 10**6)
    ended = cli("verify", digits_model, "--engines", "reference,fast", "--layers", tmp_path / "traces.npz")
    assert_error(
        ended,
        2,
        "error: --layers: the traces of 16 samples in 2 engines take 2,023,424 bytes, allowed 1,000,000\n"
        "hint: give --samples 7, or fewer engines\n",
    )
    assert not list(tmp_path.iterdir())
