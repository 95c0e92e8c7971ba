"""Training: noise, evaluation, selection, determinism, interruption and failure."""

import io
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.errors import FormatError, RangeError, UsageError
from nctool.progress import no_progress, progress_bar
from nctool.recipe.schema import TrainingSettings
from nctool.training import (
    LabelledImages,
    Normalisation,
    ann_accuracy,
    fit,
    load_checkpoint,
    measure_held_out,
    snn_accuracy,
)
from nctool.training.images.augment import augment
from nctool.training.noise import affordable_images
from nctool.training.optimiser import Optimiser
from nctool.training.schedule import rate
from nctool.training.stages import NoisyTraining, Task
from nctool_models import build_model, load_dataset, load_recipe, restore_model, training_data
from tests.support.small_run import epoch_lines, halves, small_data, small_fit, small_model, small_recipe
from tests.support.terminal import stderr_terminal

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = Normalisation((0.0,), (1.0,))
RUN_FILES = {"checkpoint.safetensors", "recipe.toml", "metrics.jsonl", "last.safetensors"}


def without_time(lines):
    return [{key: value for key, value in line.items() if not key.startswith("seconds")} for line in lines]


def interrupt_before(epoch):
    """Return a progress callback that presses Ctrl-C at the first batch of an epoch."""

    def progress(done, total, message=""):
        if message.startswith(f"epoch {epoch}/"):
            raise KeyboardInterrupt

    return progress


# --- data -------------------------------------------------------------------------------------------------------------


def test_normalisation_by_hand():
    images = torch.tensor([[[[0, 51]], [[255, 102]]]], dtype=torch.uint8)
    got = Normalisation((0.2, 0.4), (0.5, 0.2))(images)
    torch.testing.assert_close(got, torch.tensor([[[[-0.4, 0.0]], [[3.0, 0.0]]]]))


IMAGES = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
LABELS = torch.zeros(2, dtype=torch.int64)
EMPTY = "a split holds no images\nhint: change data.validation_fraction or use more images"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, "images are torch.float32 (2, 1, 4, 4), allowed: torch.uint8 (N, C, H, W)"),
        (IMAGES[:, 0], LABELS, "images are torch.uint8 (2, 4, 4), allowed: torch.uint8 (N, C, H, W)"),
        (IMAGES[:1], LABELS, "labels are torch.int64 (2,), allowed: torch.int64 (1,)"),
        (IMAGES, LABELS.float(), "labels are torch.float32 (2,), allowed: torch.int64 (2,)"),
        (IMAGES[:0], LABELS[:0], EMPTY),
    ],
)
def test_wrong_splits_are_refused(images, labels, message):
    with pytest.raises(UsageError) as caught:
        LabelledImages(images, labels)
    assert str(caught.value) == message


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_nothing_is_changed_when_the_recipe_asks_for_nothing():
    images = halves(5, 0).images
    assert augment(images, TrainingSettings(epochs=1)) is images


def test_a_crop_is_a_window_of_the_padded_image():
    torch.manual_seed(0)
    images = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 1, 3, 4).repeat(200, 1, 1, 1)
    padded = nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    windows = {tuple(padded[y : y + 3, x : x + 4].flatten().tolist()) for y in range(3) for x in range(3)}
    got = {tuple(image.flatten().tolist()) for image in augment(images, TrainingSettings(epochs=1, crop_padding=1))}
    assert got == windows


def test_a_flip_mirrors_about_half_of_the_images():
    torch.manual_seed(0)
    images = torch.tensor([1, 2, 3], dtype=torch.uint8).reshape(1, 1, 1, 3).repeat(400, 1, 1, 1)
    rows = [
        tuple(image.flatten().tolist()) for image in augment(images, TrainingSettings(epochs=1, horizontal_flip=True))
    ]
    assert set(rows) == {(1, 2, 3), (3, 2, 1)}
    assert 150 < rows.count((3, 2, 1)) < 250


def test_a_cutout_blacks_out_a_square_that_may_reach_over_the_border():
    torch.manual_seed(0)
    images = torch.full((300, 2, 4, 4), 9, dtype=torch.uint8)
    got = augment(images, TrainingSettings(epochs=1, cutout=2))
    assert torch.equal(got[:, 0], got[:, 1])
    assert torch.equal(images, torch.full_like(images, 9))
    black = {tuple((image == 0).nonzero().flatten().tolist()) for image in got[:, 0]}
    squares = {
        tuple(k for y in (cy - 1, cy) for x in (cx - 1, cx) if y >= 0 and x >= 0 for k in (y, x))
        for cy in range(4)
        for cx in range(4)
    }
    assert black == squares


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_the_gap_by_hand():
    """θ = 2, L = 4, T = 1: an input of 1 gives q = 1 and one spike (2), an input of 0 gives 0 and 0.

    The gap is −1 for half of the elements and 0 for the others: variance 1/4.
    """
    model = nn.Sequential(nn.Flatten(), NoisyQuantReLU(4, 2.0))
    images = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8).reshape(2, 1, 1, 2)
    report = measure_held_out(model, LabelledImages(images, torch.tensor([0, 0])), PLAIN, n_steps=1)
    assert report.sigma == {"1": 0.5}
    assert (report.accuracy_ann, report.accuracy_snn) == (0.5, 0.5)


def test_the_gap_is_that_of_separate_runs_and_the_mode_stays():
    recipe, data = small_recipe(), small_data()
    model = small_model(recipe)
    report = measure_held_out(model, data.held_out, data.normalisation, n_steps=3)
    assert model.training
    head = nn.Sequential(*list(model)[: list(dict(model.named_children())).index("act2") + 1])
    images = data.normalisation(data.held_out.images)
    with in_mode(head, "spiking"):
        rate = sum(head(images) for _ in range(3)) / 3
    gap = head.eval()(images).detach() - rate
    assert report.sigma["act2"] == pytest.approx(float(gap.std(correction=0)), rel=1e-5)
    assert report.accuracy_ann == ann_accuracy(model, data.held_out, data.normalisation)
    assert report.accuracy_snn == snn_accuracy(model, data.held_out, data.normalisation, [3])[3]


@pytest.mark.parametrize("batch_size", [1, 7, 59, 60])
def test_batches_make_no_difference_to_the_gap_whatever_is_left_for_the_last(batch_size):
    model, split = small_model(small_recipe()), small_data().held_out
    whole = measure_held_out(model, split, PLAIN, n_steps=3)
    parts = measure_held_out(model, split, PLAIN, n_steps=3, batch_size=batch_size)
    assert parts.sigma == pytest.approx(whole.sigma, rel=1e-5)
    assert (parts.accuracy_ann, parts.accuracy_snn) == (whole.accuracy_ann, whole.accuracy_snn)


def test_only_so_many_held_out_images_are_used(monkeypatch):
    monkeypatch.setattr("nctool.training.noise.MAX_IMAGES", 10)
    model, split = small_model(small_recipe()), halves(60, 1)
    few = measure_held_out(model, split.first(10), PLAIN, n_steps=2)
    assert measure_held_out(model, split, PLAIN, n_steps=2) == few


@pytest.mark.parametrize(
    ("n_train", "n_steps", "n_images"),
    [(45_000, 4, 810), (54_000, 16, 285), (1400, 4, 256), (1_200_000, 4, 5000)],
)
def test_an_estimate_takes_a_small_part_of_an_epoch_and_a_few_hundred_images_at_least(n_train, n_steps, n_images):
    """45,000 images are 135,000 forward passes of training, and 3 % of them 4,050: five for each held-out image."""
    assert affordable_images(n_train, n_steps) == n_images


def test_a_run_measures_as_many_held_out_images_as_it_can_afford(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("nctool.training.stages.affordable_images", lambda n_train, n_steps: n_train // n_steps)
    monkeypatch.setattr(
        "nctool.training.stages.measure_held_out",
        lambda model, split, *rest, **options: (
            seen.append(len(split)) or measure_held_out(model, split, *rest, **options)
        ),
    )
    small_fit(tmp_path, ["training.epochs=1"])
    assert seen == [25]
    assert 0 < epoch_lines(tmp_path)[0]["seconds_noise"] < epoch_lines(tmp_path)[0]["seconds"]


def test_noise_may_be_measured_on_changed_images_and_accuracies_on_clean_ones():
    recipe, data = small_recipe("training.cutout=4", "noise.images=augmented"), small_data()
    task = Task(small_model(recipe), data, data.held_out, data.normalisation, recipe, None)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    outcomes = [NoisyTraining(task).end_epoch(epoch) for epoch in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    clean = measure_held_out(task.model, data.held_out, data.normalisation, recipe.noise.steps)
    assert outcomes[0] == outcomes[1]  # seed and epoch alone say which images
    assert outcomes[0].gap != outcomes[2].gap
    for outcome in outcomes:
        assert outcome.gap != clean.sigma
        assert (outcome.accuracy_ann, outcome.accuracy_snn[4]) == (clean.accuracy_ann, clean.accuracy_snn)
    assert {name: float(layer.sigma) for name, layer in activations(task.model).items()} == pytest.approx(
        outcomes[2].gap
    )


def test_the_changed_images_of_the_noise_are_those_of_training(monkeypatch):
    """With every image black there is nothing to see but the biases; the gap of black images is the one found."""
    recipe, data = small_recipe("training.cutout=256", "noise.images=augmented"), small_data()
    task = Task(small_model(recipe), data, data.held_out, data.normalisation, recipe, None)
    # A square of 256 pixels covers an image of 4x4 wherever its centre is.
    black = LabelledImages(torch.zeros_like(data.held_out.images), data.held_out.labels)
    expected = measure_held_out(task.model, black, data.normalisation, recipe.noise.steps, batch_size=16)
    assert NoisyTraining(task).end_epoch(1).gap == expected.sigma


def test_spiking_accuracy_by_hand():
    """θ = 1, v(0) = 1/2: after T steps of an input z there were floor(T·z + 1/2) spikes, the logits.

    For z = 0.4 and 0.451 these are 0 0, 1 1, 2 2, 3 4, 6 7 after 1, 2, 4, 8, 16 steps; the first of equals wins.
    """
    model = nn.Sequential(nn.Flatten(), NoisyQuantReLU(4, 1.0))
    images = torch.tensor([102, 115], dtype=torch.uint8).reshape(1, 1, 1, 2).repeat(4, 1, 1, 1)
    split = LabelledImages(images, torch.tensor([1, 1, 1, 0]))
    assert snn_accuracy(model, split, PLAIN) == {1: 0.25, 2: 0.25, 4: 0.25, 8: 0.75, 16: 0.75}


def test_one_pass_gives_the_accuracy_of_every_window():
    data, model = small_data(), small_model(small_recipe())
    one_pass = snn_accuracy(model, data.test, data.normalisation, batch_size=7)
    images = data.normalisation(data.test.images)
    for steps, accuracy in one_pass.items():
        with in_mode(model, "spiking"):
            logits = sum(model(images) for _ in range(steps))
        assert accuracy == float((logits.argmax(1) == data.test.labels).double().mean())
    assert len(set(one_pass.values())) > 1


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_numbers(tmp_path):
    seen = []
    result = small_fit(tmp_path, progress=lambda done, total, message="": seen.append((done, total, message)))
    assert {path.name for path in tmp_path.iterdir()} == RUN_FILES
    assert result.path == tmp_path
    assert list(result.accuracy_snn) == ["1", "2", "4", "8", "16"]
    assert result.accuracy_ann > 0.8
    assert set(result.theta) == set(result.sigma) == {"act1", "act2"}
    assert result.seconds_per_epoch > 0
    lines = epoch_lines(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert list(lines[0]) == [
        "epoch", "stage", "loss", "training_accuracy", "validation_accuracy_ann", "validation_accuracy_snn",
        "learning_rate", "sigma", "gap", "theta", "seconds", "seconds_noise", "noise_source",
    ]  # fmt: skip
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert 0.5 < lines[0]["training_accuracy"] < lines[-1]["training_accuracy"] <= 1
    # 100 images in batches of 16: 6 full ones and one of 4, in each of 4 epochs.
    # Then the test images are measured, no more at once than are trained.
    assert seen[28:] == [(n, 4, "measuring 60 images") for n in (1, 2, 3, 4)]
    del seen[28:]
    assert [(done, total) for done, total, _ in seen] == [(n, 28) for n in range(1, 29)]
    ann, snn = lines[0]["validation_accuracy_ann"], lines[0]["validation_accuracy_snn"]["4"]
    assert seen[7][2].startswith("epoch 2/4, loss ")
    assert seen[7][2].endswith(f"; held out ANN {ann:.2%}, SNN T=4 {snn:.2%}")
    assert f"training accuracy {lines[-1]['training_accuracy']:.1%};" in seen[-1][2]


def test_the_learning_rate_falls_as_a_cosine_over_all_batches():
    recipe, data = small_recipe(), small_data()
    model = small_model(recipe)
    task = Task(model, data, data.held_out, data.normalisation, recipe, None)
    optimiser = Optimiser(task, data.train, NoisyTraining(task), 0)
    assert optimiser.batches_per_epoch == 7
    got = [optimiser.learning_rate(1), optimiser.learning_rate(3), optimiser.learning_rate(4, 7)]
    assert got == pytest.approx([0.05, 0.025, 0.0])


@pytest.mark.parametrize(
    ("schedule", "places", "shares"),
    [
        # Four epochs of five batches: (epoch, batch), and cos 0, cos 45°, cos 90°, cos 135°.
        ("cosine", [(0, 0), (0, 4), (1, 0), (2, 0), (3, 0)], [1, 0.9045085, 0.8535534, 0.5, 0.1464466]),
        ("cosine-by-epoch", [(0, 0), (0, 4), (1, 0), (1, 4), (3, 4)], [1, 1, 0.8535534, 0.8535534, 0.1464466]),
        # The sixth of twenty batches ends the rise; 13 of the 14 that are left are 167.1° of the fall.
        ("one-cycle", [(0, 0), (0, 3), (1, 1), (2, 3), (3, 4)], [0.04, 0.52, 1, 0.5, 0.0125361]),
    ],
)  # fmt: skip
def test_schedules_by_hand(schedule, places, shares):
    got = [rate(schedule, epoch, 4, batch, 5) for epoch, batch in places]
    assert got == pytest.approx(shares, abs=1e-7)


def test_schedules_are_those_of_torch():
    """torch's one cycle ends at a small number instead of 0 and counts one step less, here 20."""
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    by_epoch = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=4)
    for epoch in range(4):
        assert 0.05 * rate("cosine-by-epoch", epoch, 4, 2, 5) == pytest.approx(by_epoch.get_last_lr()[0])
        sgd.step()
        by_epoch.step()
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(
        sgd, max_lr=0.05, total_steps=21, pct_start=0.3 * 20 / 21 + 1 / 21, final_div_factor=1e9, cycle_momentum=False
    )
    for batch in range(20):
        if batch >= 6:  # its rise is a cosine too
            assert 0.05 * rate("one-cycle", 0, 1, batch, 20) == pytest.approx(one_cycle.get_last_lr()[0], abs=1e-9)
        sgd.step()
        one_cycle.step()


@pytest.mark.parametrize("schedule", ["cosine-by-epoch", "one-cycle"])
def test_a_run_follows_its_schedule_and_fine_tuning_a_cosine_of_its_own(tmp_path, schedule):
    small_fit(tmp_path, [f"training.schedule={schedule}", "finetune.epochs=2"])
    rates = {"cosine-by-epoch": [0.05, 0.0426777, 0.025, 0.0073223], "one-cycle": [0.002, 0.042, 0.0405872, 0.0141529]}
    got = [line["learning_rate"] for line in epoch_lines(tmp_path)]
    assert got == pytest.approx([*rates[schedule], 0.02, 0.01], abs=1e-7)


def test_a_last_batch_of_one_image_is_left_out(tmp_path):
    data = replace(small_data(), train=halves(97, 0))
    seen = []
    small_fit(tmp_path, ["training.epochs=1"], data=data, progress=lambda done, total, message="": seen.append(done))
    assert seen[:6] == [1, 2, 3, 4, 5, 6]
    assert seen[6] == 1


def test_noise_comes_from_the_first_epoch_on_unless_the_recipe_has_none(tmp_path):
    with_noise = small_fit(tmp_path / "ideal")
    assert with_noise.sigma["act2"] > 0
    assert epoch_lines(tmp_path / "ideal")[0]["sigma"]["act2"] > 0
    without = small_fit(tmp_path / "none", ["noise.source=none"])
    assert without.sigma == {"act1": 0.0, "act2": 0.0}
    assert {value for line in epoch_lines(tmp_path / "none") for value in line["sigma"].values()} == {0.0}


def test_the_held_out_images_choose_the_epoch(tmp_path):
    result = small_fit(tmp_path, ["training.epochs=6", "training.learning_rate=0.5"])
    scores = [(line["validation_accuracy_snn"]["4"], line["validation_accuracy_ann"]) for line in epoch_lines(tmp_path)]
    assert result.best_epoch == max(range(1, 7), key=lambda epoch: (scores[epoch - 1], epoch))
    chosen = epoch_lines(tmp_path)[result.best_epoch - 1]
    assert result.theta == chosen["theta"]
    assert result.sigma == chosen["sigma"]
    model, data = restore_model(load_checkpoint(tmp_path)), small_data()
    assert ann_accuracy(model, data.held_out, data.normalisation) == chosen["validation_accuracy_ann"]
    assert ann_accuracy(model, data.test, data.normalisation) == result.accuracy_ann


def test_the_test_images_change_nothing_but_the_final_numbers(tmp_path):
    first = small_fit(tmp_path / "a")
    data = small_data()
    flipped = replace(data, test=LabelledImages(data.test.images, 1 - data.test.labels))
    second = small_fit(tmp_path / "b", data=flipped)
    states = [load_checkpoint(tmp_path / name).state for name in "ab"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert second.accuracy_ann == pytest.approx(1 - first.accuracy_ann)


def test_the_model_is_left_with_the_chosen_weights(tmp_path):
    recipe = small_recipe()
    model = small_model(recipe)
    fit(model, small_data(), recipe, tmp_path)
    assert not model.training
    saved = load_checkpoint(tmp_path).state
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


# --- determinism and interruption -------------------------------------------------------------------------------------

AUGMENTED = ["training.crop_padding=1", "training.horizontal_flip=true", "model.dropout=0.1"]
PUBLISHED = [
    *("training.resized_crop=0.3", "training.horizontal_flip=true", "training.cutout=2", "training.cutout_fill=mean"),
    *("training.schedule=one-cycle", "noise.images=augmented", "finetune.epochs=2"),
]


def test_one_seed_gives_the_same_bytes_twice_and_leaves_the_callers_random_stream(tmp_path):
    for name in "ab":
        torch.manual_seed(ord(name))
        before = torch.get_rng_state()
        small_fit(tmp_path / name, AUGMENTED)
        assert torch.equal(torch.get_rng_state(), before)
    small_fit(tmp_path / "c", [*AUGMENTED, "seed=4"])
    a, b, c = ((tmp_path / name / "checkpoint.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("overrides", [AUGMENTED, PUBLISHED], ids=["plain", "published"])
def test_two_and_two_epochs_equal_four(tmp_path, overrides):
    small_fit(tmp_path / "whole", overrides)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path / "parts", overrides, progress=interrupt_before(3))
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"last.safetensors", "metrics.jsonl"}
    small_fit(tmp_path / "parts", overrides, resume=True)
    whole, parts = ((tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert without_time(epoch_lines(tmp_path / "parts")) == without_time(epoch_lines(tmp_path / "whole"))


def test_a_line_of_an_epoch_that_was_not_completed_is_dropped_on_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, progress=interrupt_before(3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    small_fit(tmp_path, resume=True)
    assert [line["epoch"] for line in epoch_lines(tmp_path)] == [1, 2, 3, 4]


def test_a_finished_run_resumes_to_the_same_result(tmp_path):
    first = small_fit(tmp_path)
    content = (tmp_path / "checkpoint.safetensors").read_bytes()
    assert small_fit(tmp_path, resume=True) == first
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == content


def test_there_is_nothing_to_resume_before_the_first_epoch_is_done(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path, progress=interrupt_before(1))
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, resume=True)
    assert str(caught.value) == (
        f"nothing to resume: no `{tmp_path}/last.safetensors`\nhint: run without --resume to start from the beginning"
    )


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=4", "its `seed` is 3, now 4"),
        ("training.epochs=5", "its `training.epochs` is 4, now 5"),
        ("data.image_size=8", "its `data.image_size` is not there, now 8"),
        ("finetune.epochs=1", "its `finetune` is not there, now a table"),
        ("activation.threshold_init=data", 'its `activation.threshold_init` is 2.0, now "data"'),
    ],
)
def test_another_recipe_or_seed_is_not_resumed(tmp_path, override, difference):
    small_fit(tmp_path)
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, [override], resume=True)
    assert str(caught.value) == (
        f"cannot resume `{tmp_path}/last.safetensors`: {difference}\n"
        "hint: repeat the command line of the interrupted run, or choose another folder with -o"
    )


def test_another_name_and_description_are_resumed(tmp_path):
    small_fit(tmp_path)
    small_fit(tmp_path, ["name=other", "description=other"], resume=True)
    assert load_checkpoint(tmp_path).recipe.name == "other"


def test_a_state_whose_recipe_is_none_is_not_resumed(tmp_path):
    small_fit(tmp_path)
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes().replace(b"mlp", b"mlq"))
    with pytest.raises(UsageError, match="its recipe is none of this version"):
        small_fit(tmp_path, resume=True)


def test_a_bad_state_is_not_resumed(tmp_path):
    small_fit(tmp_path)
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError) as caught:
        small_fit(tmp_path, resume=True)
    assert str(caught.value) == f"`{path}` is truncated or no safetensors file"


def test_a_state_of_another_model_is_not_resumed(tmp_path):
    small_fit(tmp_path)
    recipe = small_recipe()
    wider = build_model(small_recipe("model.hidden=[12,9]").model, (1, 4, 4), 2, recipe.activation)
    with pytest.raises(FormatError) as caught:
        fit(wider, small_data(), recipe, tmp_path, resume=True)
    assert str(caught.value) == (
        f"`{tmp_path}/last.safetensors` does not fit the recipe's model: "
        "tensor `bn2.bias` has shape (8,), allowed: (9,)"
    )


# --- failure ----------------------------------------------------------------------------------------------------------

HINT = "\nhint: lower training.learning_rate, or set a larger activation.threshold_init"


def test_a_loss_that_is_not_finite_names_epoch_and_batch(tmp_path):
    recipe = small_recipe()
    model = small_model(recipe)
    model.fc3.weight.data.fill_(float("nan"))
    with pytest.raises(RangeError) as caught:
        fit(model, small_data(), recipe, tmp_path)
    assert str(caught.value) == "training diverged: loss is nan in epoch 1, batch 1" + HINT


def test_an_epoch_whose_last_step_spoils_the_weights_is_not_kept(tmp_path):
    recipe = small_recipe()
    model = small_model(recipe)

    def spoil(done, total, message=""):
        if done == 14:
            model.fc3.weight.data[0, 0] = float("inf")

    with pytest.raises(RangeError) as caught:
        fit(model, small_data(), recipe, tmp_path, progress=spoil)
    assert str(caught.value) == "training diverged: `fc3.weight` is not finite after epoch 2" + HINT
    assert [line["epoch"] for line in epoch_lines(tmp_path)] == [1]
    small_fit(tmp_path, resume=True)
    small_fit(tmp_path / "whole")
    name = "checkpoint.safetensors"
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_threshold_that_is_no_longer_positive_names_its_layer(tmp_path):
    recipe = small_recipe("training.learning_rate=30", "training.weight_decay=0.9")
    model = small_model(recipe)
    with pytest.raises(RangeError) as caught:
        fit(model, small_data(), recipe, tmp_path)
    threshold = float(model.act1.threshold.detach())
    assert threshold < 0
    assert str(caught.value) == f"training diverged: threshold of `act1` is {threshold:g} in epoch 1, batch 1" + HINT


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ((), "lower training.learning_rate, or set a larger activation.threshold_init"),
        (["activation.threshold_init=data"], "lower training.learning_rate"),
        (["activation.function=relu", "noise.source=none"], "lower training.learning_rate"),
        (["training.epochs=0", "finetune.epochs=1"], "lower finetune.learning_rate"),
    ],
)
def test_the_remedy_of_a_divergence_is_one_that_the_recipe_has(tmp_path, overrides, remedy):
    recipe = small_recipe(*overrides)
    model = small_model(recipe)

    def spoil(done, total, message=""):
        model.fc3.weight.data[0, 0] = float("inf")

    with pytest.raises(RangeError) as caught:
        fit(model, small_data(), recipe, tmp_path, progress=spoil)
    assert caught.value.hint == remedy


def test_one_training_image_is_too_few(tmp_path):
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, data=replace(small_data(), train=halves(1, 0)))
    assert str(caught.value) == "got 1 training image, allowed: 2 or more"


@pytest.mark.parametrize("device", ["abacus", "mps", "meta"])
def test_an_unknown_device_is_refused(tmp_path, device):
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, device=device)
    assert str(caught.value) == f"unknown device `{device}`, allowed: cpu, cuda"


def test_a_missing_accelerator_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, device="cuda")
    assert str(caught.value) == "device `cuda` is not available here\nhint: use --device cpu"


def test_an_accelerator_of_a_number_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, device="cuda:2")
    assert str(caught.value) == "device `cuda:2` is not available here\nhint: use --device cpu"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path / "file" / "run")
    assert str(caught.value) == (
        f"cannot write `{tmp_path}/file/run`: not a directory\n"
        "hint: choose another place with -o, or make the folder and give yourself the right to write there"
    )


# --- progress ---------------------------------------------------------------------------------------------------------


def test_the_bar_is_silent_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar("train") as report:
        assert report is no_progress
        report(1, 2, "epoch 1")
    assert sys.stderr.getvalue() == ""


def test_the_bar_is_drawn_on_a_terminal_and_not_on_stdout(monkeypatch, capsys):
    stderr_terminal(monkeypatch)
    with progress_bar("train") as report:
        report(1, 2, "epoch 1")
        report(2, 2, "epoch 2")
    assert "train" in sys.stderr.getvalue()
    assert "2/2" in sys.stderr.getvalue()
    assert capsys.readouterr().out == ""


# --- a real data set --------------------------------------------------------------------------------------------------


def test_digits_are_learned(tmp_path):
    recipe = load_recipe("digits-mlp", {"training.epochs": 10})
    dataset = load_dataset(recipe.data.name)
    data = training_data(dataset, recipe.data.validation_fraction, recipe.seed)
    model = build_model(recipe.model, data.input_shape, len(dataset.classes), recipe.activation, seed=recipe.seed)
    result = fit(model, data, recipe, tmp_path)
    assert result.accuracy_ann > 0.95
    assert result.accuracy_snn["4"] > 0.93
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.calibration_images.shape == (256, 1, 8, 8)
