"""Fine-tuning: the spiking network itself, at its windows, with rounded weights, from a checkpoint or from nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU, in_mode
from nctool.commands.train import print_train
from nctool.errors import UsageError
from nctool.exporting.convert import design
from nctool.recipe.schema import FinetuneSettings, parse_recipe
from nctool.reference.simulate import simulate
from nctool.training import fit, load_checkpoint, snn_accuracy
from nctool.training.epochs import _is_surely_better
from nctool.training.finetuning import SpikingFinetuning, window_logits
from nctool.training.stages import Task
from nctool.training.weight_grid import WeightGrid
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.netx import read
from nctool_models import restore_model
from tests.support.runs import run_command
from tests.support.small_run import POOLED, epoch_lines, small_data, small_fit, small_model, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
DIRECT = ("training.epochs=0", "finetune.epochs=3", "finetune.steps=[1, 3]", "finetune.learning_rate=0.05")
FINETUNE = ("training.epochs=2", "finetune.epochs=2", "finetune.steps=[1, 3]")


@pytest.mark.parametrize("overrides", [(), (POOLED,)])
def test_logits_are_the_running_mean_of_the_step_wise_network(overrides):
    model, data = small_model(small_recipe(*overrides)).eval(), small_data()
    steps = torch.stack(list(data.normalisation.steps(data.test.images[:7], 3)))
    with in_mode(model, "spiking"):
        logits = torch.stack([model(step) for step in steps])
    expected = torch.stack([logits[: t + 1].mean(dim=0) for t in range(3)])
    torch.testing.assert_close(window_logits(model, {}, steps), expected)


@pytest.mark.parametrize(
    ("first", "features"),
    [
        ([nn.Conv2d(1, 3, 3)], 108),
        ([nn.Flatten(), nn.Linear(64, 3)], 3),
        ([nn.ReLU(), nn.Conv2d(1, 3, 3)], 108),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_constant_input_is_weighed_once_a_window_and_gives_the_same(first, features, layout):
    torch.manual_seed(0)
    model = nn.Sequential(*first, NoisyQuantReLU(4, 1.0), nn.Flatten(), nn.Linear(features, 4)).train()
    images, found = torch.rand(5, 1, 8, 8).to(memory_format=layout), []
    for steps in ([images] * 3, [images, images.clone(), images]):
        model.zero_grad()
        logits = window_logits(model, {}, steps)
        logits[-1].square().sum().backward()
        found.append((logits, [value.grad.clone() for value in model.parameters()]))
    (logits, gradients), (expected, expected_gradients) = found
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradients, expected_gradients)


class WritesIntoItsInput(nn.Module):
    """A skip written in place; dropout in place, or a flattened view of what is changed, before a linear layer."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.second = kind, nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 2, 3)
        self.dense, self.act = nn.Linear(64, 2), NoisyQuantReLU(4, 1.0)

    def forward(self, x):
        if self.kind == "skip":
            x += self.act(self.first(x))
            return self.second(x).flatten(1)
        if self.kind == "view":
            flat = x.flatten(1)
            x.clamp_(max=0.3)
            return self.dense(flat)
        return self.dense(x.mul_(0.5).flatten(1))


@pytest.mark.parametrize("kind", ["skip", "view", "scaled"])
def test_a_model_that_changes_its_input_in_place_is_trained_as_it_is(kind):
    torch.manual_seed(0)
    model, images = WritesIntoItsInput(kind).train(), torch.rand(5, 1, 8, 8)
    before = images.clone()
    expected = window_logits(model, {}, [images.clone() for _ in range(3)])
    assert torch.equal(window_logits(model, {}, [images] * 3), expected)
    assert torch.equal(images, before)


def test_a_constant_input_reaches_the_first_convolution_once():
    model, seen = nn.Sequential(nn.Conv2d(1, 3, 3), NoisyQuantReLU(4, 1.0), nn.Conv2d(3, 2, 3)), []
    images = torch.rand(5, 1, 8, 8)
    with Counted(seen):
        window_logits(model, {}, [images] * 3)
    assert seen == [5, 15]


class Counted(TorchFunctionMode):
    """Notes the rows of what is convolved."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.conv2d:
            self.seen.append(len(args[0]))
        return function(*args, **(kwargs or {}))


def test_the_loss_is_the_mean_over_the_windows():
    recipe, data = small_recipe(*FINETUNE), small_data()
    model = small_model(recipe).eval()
    stage = SpikingFinetuning(Task(model, data, data.held_out, data.normalisation, recipe, None), recipe.finetune)
    batch = data.train.first(9)
    loss, _ = stage.loss(batch.images, batch.labels)
    model.load_state_dict(stage.weights())
    with in_mode(model, "spiking"):
        logits = torch.stack([model(step) for step in data.normalisation.steps(batch.images, 3)])
    losses = [functional.cross_entropy(logits[:t].mean(dim=0), batch.labels) for t in (1, 3)]
    torch.testing.assert_close(loss.detach(), sum(losses) / 2)


def test_a_network_with_maximum_pooling_is_fine_tuned_as_it_is_exported(tmp_path):
    """The rounded float network of the checkpoint, step by step, answers as the integers do."""
    small_fit(tmp_path / "run", (POOLED, *FINETUNE))
    nctool.export(tmp_path / "run", tmp_path / "m.net", target="lava", steps=3)
    model, data = restore_model(load_checkpoint(tmp_path / "run")), small_data()
    with in_mode(model, "spiking"):
        wanted = sum(model(step) for step in data.normalisation.steps(data.test.images, 3)).argmax(1).numpy()
    network = read(tmp_path / "m.net").network
    assert [population.is_maximum for population in network.populations] == [False, False, True, False, False]
    found = simulate(network, data.test.images.numpy()).logits[:, -1].argmax(1)
    assert (found == wanted).mean() > 0.95


def test_the_stages_follow_each_other(tmp_path):
    result = small_fit(tmp_path, FINETUNE)
    lines = epoch_lines(tmp_path)
    assert [(line["epoch"], line["stage"]) for line in lines] == [
        (1, "train"), (2, "train"), (3, "finetune"), (4, "finetune"),
    ]  # fmt: skip
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.05, 0.025, 0.02, 0.01])
    assert [list(line["validation_accuracy_snn"]) for line in lines] == [["4"], ["4"], ["1", "3"], ["1", "3"]]
    scores = {line["epoch"]: sum(line["validation_accuracy_snn"].values()) for line in lines[2:]}
    best = max(scores, key=lambda epoch: (scores[epoch], epoch))
    assert result.best_epoch == (2 if result.kept_start else best)


def spoilt(tmp_path, folder, **options):
    """Fine-tune a trained network on wrong labels, with right ones held out."""
    recipe, data = small_recipe(*FINETUNE, "training.epochs=4", "finetune.weight_bits=4"), small_data()
    small_fit(tmp_path / "trained", ("training.epochs=4",))
    model = restore_model(load_checkpoint(tmp_path / "trained"))
    wrong = replace(data, train=replace(data.train, labels=1 - data.train.labels))
    return fit(model, wrong, recipe, tmp_path / folder, trained=True, **options)


def test_a_start_that_no_epoch_comes_up_to_is_kept(tmp_path):
    """As it was; it is measured with weights on the grid of the chip, as every epoch is."""
    result, data = spoilt(tmp_path, "run"), small_data()
    assert (result.kept_start, result.best_epoch) == (True, 4)
    model = restore_model(load_checkpoint(tmp_path / "trained"))
    with WeightGrid(model, data.normalisation(data.held_out.images[:1]), 4).applied():
        start = snn_accuracy(model, data.held_out, data.normalisation, (1, 3))
    kept = load_checkpoint(tmp_path / "run").state
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    lines = epoch_lines(tmp_path / "run")
    assert sum(start.values()) > max(sum(line["validation_accuracy_snn"].values()) for line in lines)


def test_a_start_is_kept_after_an_interruption_too(tmp_path):
    def progress(done, total, message=""):
        if message.startswith("epoch 6/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoilt(tmp_path, "cut", progress=progress)
    assert spoilt(tmp_path, "cut", resume=True).kept_start
    spoilt(tmp_path, "whole")
    name = "checkpoint.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_epoch_that_is_better_than_the_start_is_taken(tmp_path):
    assert not small_fit(tmp_path / "fresh", DIRECT).kept_start
    assert not small_fit(tmp_path / "one").kept_start


def test_a_start_that_was_converted_is_kept_unless_an_epoch_is_better_by_more_than_chance(tmp_path):
    """With nothing learned, every epoch is exactly as good as the start."""
    recipe = small_recipe(*FINETUNE, "finetune.learning_rate=1e-30", "training.weight_decay=0")
    for ratios in (None, torch.ones(12)):
        small_fit(tmp_path / "trained", ("training.epochs=4", "model.batch_norm=false"))
        model = small_model(small_recipe("model.batch_norm=false"))
        model.load_state_dict(load_checkpoint(tmp_path / "trained").state)
        model.act1.register_buffer("ratios", ratios)
        result = fit(model, small_data(), recipe, tmp_path / "run", trained=True)
        assert result.kept_start == (ratios is not None)


@pytest.mark.parametrize(
    ("errors", "at_start", "is_better"), [(0, 1, False), (0, 2, True), (3, 8, True), (5, 8, False), (8, 5, False)]
)
def test_an_epoch_is_better_than_the_start_by_more_than_chance(errors, at_start, is_better):
    assert _is_surely_better(1 - errors / 100, 1 - at_start / 100, 100) == is_better


def test_the_checkpoint_holds_the_rounded_weights_of_the_chosen_epoch(tmp_path):
    result = small_fit(tmp_path, [*DIRECT, "finetune.weight_bits=3"])
    loaded, data = load_checkpoint(tmp_path), small_data()
    for name in ("fc1", "fc2", "fc3"):
        weight = loaded.state[f"{name}.weight"]
        rows = weight.reshape(1, -1) if name == "fc3" else weight
        assert all(len(torch.unique((row / row.abs().max()).mul(3).round(decimals=3))) <= 7 for row in rows)
    model = restore_model(loaded)
    chosen = epoch_lines(tmp_path)[result.best_epoch - 1]["validation_accuracy_snn"]
    assert snn_accuracy(model, data.held_out, data.normalisation, (1, 3)) == {int(t): a for t, a in chosen.items()}


def test_two_and_two_epochs_equal_four(tmp_path):
    def interrupt(epoch):
        def progress(done, total, message=""):
            if message.startswith(f"epoch {epoch}/"):
                raise KeyboardInterrupt

        return progress

    small_fit(tmp_path / "whole", FINETUNE)
    for epoch in (3, 4):  # at the border of the stages, and within the second
        parts = tmp_path / f"parts{epoch}"
        with pytest.raises(KeyboardInterrupt):
            small_fit(parts, FINETUNE, progress=interrupt(epoch))
        small_fit(parts, FINETUNE, resume=True)
        whole = (tmp_path / "whole" / "checkpoint.safetensors").read_bytes()
        assert (parts / "checkpoint.safetensors").read_bytes() == whole


def test_direct_training_starts_from_fresh_weights(tmp_path):
    result = small_fit(tmp_path, ["training.epochs=0", "finetune.epochs=6", "finetune.learning_rate=0.05"])
    assert {line["stage"] for line in epoch_lines(tmp_path)} == {"finetune"}
    assert result.accuracy_snn["4"] > 0.8


def test_a_network_of_neurons_that_are_reset_to_zero_is_fine_tuned_too(tmp_path):
    result = small_fit(tmp_path, [*FINETUNE, "activation.reset=zero"])
    assert result.accuracy_snn["4"] > 0.7


def test_rate_coded_input_is_trained_on_its_spikes(tmp_path):
    result = small_fit(tmp_path, [*FINETUNE, "input.coding=rate"])
    assert result.accuracy_snn["4"] > 0.7


class Branches(nn.Module):
    """A network of one's own: a skip around a convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.out = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(96, 2)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.stem(x))
        return self.out(torch.flatten(self.relu(self.conv(x) + x), 1))


def test_a_network_of_your_own_with_a_skip_is_fine_tuned(tmp_path):
    torch.manual_seed(0)
    data, recipe = small_data(), small_recipe(*FINETUNE)
    model = nctool.prepare(Branches(), data.normalisation(data.train.images))
    result = fit(model, data, recipe, tmp_path)
    assert result.accuracy_snn["1"] > 0.8


# --- a ReLU network, and thresholds balanced on data ------------------------------------------------------------------


def test_a_relu_network_gets_its_thresholds_from_data(tmp_path):
    result = small_fit(tmp_path, ["activation.function=relu", "noise.source=none"])
    assert result.accuracy_ann > 0.8
    assert result.accuracy_snn["16"] > 0.7
    assert result.sigma == {"act1": 0.0, "act2": 0.0}
    model, data = restore_model(load_checkpoint(tmp_path)), small_data()
    seen = []
    handle = model.act1.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        model(data.normalisation(data.calibration(3).images))
    handle.remove()
    positive = seen[0][seen[0] > 0].numpy()
    assert result.theta["act1"] == pytest.approx(float(np.quantile(positive, 0.999)), rel=1e-5)


# --- from a checkpoint ------------------------------------------------------------------------------------------------

QUICK = {"finetune.epochs": 1, "finetune.weight_bits": 4}


def test_a_checkpoint_is_fine_tuned_into_another_folder(digits_run, tmp_path):
    before = (digits_run / "checkpoint.safetensors").read_bytes()
    report = nctool.finetune(digits_run, tmp_path / "tuned", overrides=QUICK)
    assert (digits_run / "checkpoint.safetensors").read_bytes() == before
    assert report.accuracy_snn["1"] > load_checkpoint(digits_run).results["accuracy_snn"]["1"] - 0.03
    recipe = load_checkpoint(tmp_path / "tuned").recipe
    assert recipe.finetune == FinetuneSettings(epochs=1, steps=(1, 2, 4), weight_bits=4, learning_rate=0.02)
    assert [line["epoch"] for line in epoch_lines(tmp_path / "tuned")] == [4]


def test_an_export_takes_window_and_bits_of_the_fine_tuning(digits_run, tmp_path):
    nctool.finetune(digits_run, tmp_path, overrides=QUICK | {"finetune.steps": [2, 1]})
    exported = nctool.export(tmp_path, tmp_path / "m.net", target="lava")
    assert exported.steps == 2
    assert nctool.inspect(tmp_path / "m.net").weight_bits == 4
    network = read(tmp_path / "m.net").network
    state = load_checkpoint(tmp_path).state["fc2.weight"]
    largest = float(state.abs().max())
    np.testing.assert_array_equal(network.readout.synapses[0].weight, np.rint(state.double().numpy() * 7 / largest))


@pytest.mark.parametrize("pooling", [(), (POOLED, "finetune.steps=[1]")])
def test_replicas_are_fine_tuned_as_they_are_exported(pooling, tmp_path):
    """The rounded float network of the checkpoint has the accuracy that is reported, and answers as the integers do."""
    report = small_fit(tmp_path / "run", (*FINETUNE, "finetune.replicas=3", *pooling))
    exported = nctool.export(tmp_path / "run", tmp_path / "m.net", target="lava")
    assert set(exported.replicas.values()) == {3}
    model, data = restore_model(load_checkpoint(tmp_path / "run")), small_data()
    with in_mode(model, "spiking", replicas=3):
        logits = [model(step) for step in data.normalisation.steps(data.test.images, exported.steps)]
    assert report.accuracy_snn["1"] == pytest.approx(float((logits[0].argmax(1) == data.test.labels).double().mean()))
    found = simulate(read(tmp_path / "m.net").network, data.test.images.numpy()).logits[:, -1].argmax(1)
    assert (found == sum(logits).argmax(1).numpy()).mean() > 0.95


@pytest.mark.parametrize(("said", "exported"), [((), 2), (("finetune.replicas=1",), 1), (("finetune.replicas=3",), 3)])
def test_the_replicas_of_fine_tuning_are_exported_before_those_of_the_chip(said, exported):
    recipe = small_recipe(*FINETUNE, "noise.source=chip", "chip.replicas=2", *said)
    loaded = SimpleNamespace(recipe=parse_recipe(recipe.to_toml()))
    chosen = design(loaded, find_backend("autapse"), None, None, None, None)
    assert (chosen.replicas, recipe.finetune.replicas) == (exported, exported)


def test_an_activation_in_two_places_is_refused(tmp_path):
    """Its spiking neurons would share one potential, and the accuracy would be that of another network."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.act = nn.Linear(16, 16), nn.Linear(16, 16), NoisyQuantReLU(4, 1.0)
            self.last = nn.Linear(16, 2)

        def forward(self, x):
            return self.last(self.act(self.two(self.act(self.one(x.flatten(1))))))

    with pytest.raises(UsageError, match=r"^model: activation `act` is used 2 times in a forward pass"):
        fit(Twice(), small_data(), small_recipe(), tmp_path)


def test_replicas_follow_the_chip():
    assert (
        small_recipe(
            *FINETUNE, "noise.source=chip", "chip.replicas=2", "finetune.activation_bits=4", "finetune.steps=[1]"
        ).finetune.replicas
        == 1
    )
    recipe = small_recipe(*FINETUNE, "noise.source=chip", "chip.replicas=2")
    assert recipe.finetune.replicas == 2
    assert small_recipe(*FINETUNE, "noise.source=chip", "chip.replicas=2", "finetune.replicas=1").finetune.replicas == 1


@pytest.mark.parametrize(
    ("pool", "features"),
    [
        (nn.MaxPool2d(2), 3),
        (nn.AdaptiveMaxPool2d(2), 12),
        (lambda x: functional.max_pool2d(x, 2), 3),
        (lambda x: x.amax((2, 3)), 3),
        (lambda x: functional.max_pool2d(x, 2, return_indices=True)[0], 3),
        (lambda x: x.flatten(2).topk(1).values, 3),
    ],
)
def test_maxima_of_several_replicas_are_refused_in_longer_windows(pool, features):
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(1, 3, 3), NoisyQuantReLU(4, 1.0), nn.Linear(features, 2)

        def forward(self, x):
            return self.fc(torch.flatten(pool(self.act(self.conv(x))), 1))

    model, data, recipe = Pooled(), small_data(), small_recipe()
    task = Task(model, data, data.held_out, data.normalisation, recipe, None)
    model(data.normalisation(data.held_out.images))
    with pytest.raises(UsageError, match=r"the network computes `\w+`, and finetune.replicas is 2: allowed: .*\[1\]"):
        SpikingFinetuning(task, FinetuneSettings(replicas=2, steps=(1, 2)))
    SpikingFinetuning(task, FinetuneSettings(replicas=2, steps=(1,)))
    SpikingFinetuning(task, FinetuneSettings(replicas=1, steps=(1, 2)))


def test_layers_that_share_a_weight_are_fine_tuned():
    """The shared weight has one grid, that of the layer where it is used last."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten = nn.Flatten()
            self.one, self.two, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.two.weight = self.one.weight
            self.first, self.second = NoisyQuantReLU(4, 1.0), NoisyQuantReLU(4, 1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.second(self.two(self.first(self.one(self.flatten(x))))))

    net, images = Tied(), torch.rand(6, 1, 8, 8)
    weights = WeightGrid(net, images, 4).weights()
    assert list(weights) == ["two.weight", "out.weight"]
    window_logits(net, weights, images.expand(2, *images.shape)).sum().backward()
    assert net.one.weight.grad is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"activation.levels": 8},
            "overrides changes what the network was trained as, allowed: keys of finetune, training, data\n"
            "hint: `nctool.train()` makes another network",
        ),
        (
            {"data.validation_fraction": 0.2},
            "overrides changes `data.validation_fraction` to 0.2, allowed: 0.1, as in training",
        ),
        (
            {"data.mean": [0.5], "data.std": [0.25]},
            "overrides changes `data.mean` to [0.5], allowed: none, as in training\n"
            "hint: images are normalised as in training",
        ),
        (
            {"training.epochs": 2},
            "overrides changes `training.epochs` to 2, allowed: 3, as in training\n"
            "hint: fine-tuning lasts `finetune.epochs`",
        ),
        (
            {"training.learning_rate": 0.1},
            "overrides changes `training.learning_rate` to 0.1, allowed: 0.05, as in training\n"
            "hint: that of fine-tuning is `finetune.learning_rate`",
        ),
        (
            {"training.schedule": "one-cycle"},
            'overrides changes `training.schedule` to "one-cycle", allowed: "cosine", as in training\n'
            "hint: the learning rate of fine-tuning falls by a cosine",
        ),
    ],
)
def test_the_network_and_its_held_out_images_are_as_trained(digits_run, tmp_path, overrides, message):
    with pytest.raises(UsageError) as caught:
        nctool.finetune(digits_run, tmp_path, overrides=overrides)
    assert str(caught.value) == message


def test_a_checkpoint_is_not_overwritten(digits_run):
    with pytest.raises(UsageError) as caught:
        nctool.finetune(digits_run, digits_run)
    assert str(caught.value) == f"output `{digits_run}` holds the checkpoint itself, allowed: another folder"


def test_another_data_set_is_refused(digits_run, tmp_path):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    path = tmp_path / "other.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(UsageError) as caught:
        nctool.finetune(digits_run, tmp_path / "run", overrides={"data.name": path})
    assert str(caught.value) == (
        f"data set `{path}` has images (1, 8, 8) of 2 classes, allowed: (1, 8, 8) of 10 classes, those of the "
        "checkpoint\n"
        'hint: name the data set that it was trained on with overrides={"data.name": "NAME"}'
    )


def test_the_command(digits_run, tmp_path, capsys, monkeypatch):
    options = ["--set", "finetune.epochs=1", "--set", "finetune.steps=[1]", "--json"]
    done = run_command(capsys, monkeypatch, "finetune", digits_run, "-o", tmp_path / "run", *options)
    assert done.code == 0
    assert done.json["accuracy_snn"]["1"] > 0.7
    assert done.json["path"] == str(tmp_path / "run")


def test_people_are_told_that_the_start_was_kept(tmp_path, capsys):
    print_train(spoilt(tmp_path, "run"))
    told = capsys.readouterr().out
    assert "the start of fine-tuning chosen on held-out training data" in told
    assert "no epoch of fine-tuning was better: more images, or a lower finetune.learning_rate, may help" in told
