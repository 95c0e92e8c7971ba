"""Fine-tuning for graded spikes: what is trained is what the file computes, up to the rounding of its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU, in_mode
from nctool.errors import RecipeError
from nctool.fast.engine import FastEngine
from nctool.ir.number_format import parts_of_threshold
from nctool.recipe.schema import parse_recipe
from nctool.training.checkpoints.checkpoint import load_checkpoint
from nctool.training.finetuning import GradedFinetuning, SpikingFinetuning, finetuning
from nctool.training.stages import Task
from nctool_deploy.netx import read
from nctool_models import restore_model
from tests.support.small_run import POOLED, TEXT, small_data, small_fit, small_model, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
GRADED = ("training.epochs=2", "finetune.epochs=2", "finetune.steps=[1]", "finetune.activation_bits=4")


def test_activations_come_in_whole_parts_of_the_threshold():
    """θ = 1.5 in 3 parts of 0.5: 0.2 -> 0, 0.3 -> 0.5, 0.74 -> 0.5, 0.76 -> 1, 9 -> 1.5; gradients end at θ."""
    layer = NoisyQuantReLU(1, 1.5)
    layer.sigma.fill_(0.3)
    z = torch.tensor([-1.0, 0.2, 0.3, 0.74, 0.76, 9.0], requires_grad=True)
    with in_mode(layer.train(), "graded", 3):
        out = layer(z)
    assert out.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.5]
    out.sum().backward()
    assert z.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert (layer.mode, layer.window) == ("quantised", 1)


def test_the_loss_is_that_of_the_rounded_network():
    recipe, data = small_recipe(*GRADED, POOLED), small_data()
    model = small_model(recipe).eval()
    stage = finetuning(Task(model, data, data.held_out, data.normalisation, recipe, None), recipe.finetune)
    assert isinstance(stage, GradedFinetuning)
    batch = data.train.first(9)
    loss, _ = stage.loss(batch.images, batch.labels)
    model.load_state_dict(stage.weights())
    with in_mode(model, "graded", parts_of_threshold(4, 4)):
        wanted = functional.cross_entropy(model(data.normalisation(batch.images)), batch.labels)
    torch.testing.assert_close(loss.detach(), wanted.detach())


def test_other_fine_tuning_stays_as_it_was():
    recipe, data = small_recipe("finetune.epochs=1"), small_data()
    task = Task(small_model(recipe), data, data.held_out, data.normalisation, recipe, None)
    assert isinstance(finetuning(task, recipe.finetune), SpikingFinetuning)


@pytest.mark.parametrize("overrides", [(), (POOLED,), ("finetune.weight_bits=4",)])
def test_the_file_answers_as_what_was_trained(overrides, tmp_path):
    """`export` takes backend and bits of the training; its weights and biases are rounded once more.

    That moves the logits by about 0.05, whatever they are: the seed is of a network that has learnt larger ones.
    """
    result = small_fit(tmp_path / "run", (*GRADED, *overrides, "seed=0"))
    assert set(result.accuracy_snn) == {"1"}
    report = nctool.export(tmp_path / "run", tmp_path / "m.net", target="lava")
    assert (report.backend, report.steps) == ("graded", 1)
    model, data = restore_model(load_checkpoint(tmp_path / "run")), small_data()
    with in_mode(model.eval(), "graded", 12), torch.no_grad():
        wanted = model(data.normalisation(data.test.images)).double().numpy()
    assert result.accuracy_snn["1"] == (wanted.argmax(1) == data.test.labels.numpy()).mean()
    network = read(tmp_path / "m.net").network
    (trace,) = FastEngine(network).traces(data.test.images.numpy())
    assert max(int(sent.max()) for name, sent in trace.spikes.items() if not name.endswith(".below")) <= 12
    found = trace.logits[:, -1] * network.readout.neuron.scale
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.9
    assert np.sqrt(np.square(found - wanted).mean()) < 0.25 * wanted.std()


def test_other_bits_and_backends_can_still_be_asked_for(tmp_path):
    small_fit(tmp_path / "run", GRADED)
    finer = nctool.export(tmp_path / "run", tmp_path / "m.net", target="lava", activation_bits=8)
    assert finer.backend == "graded"
    spiking = nctool.export(tmp_path / "run", tmp_path / "m.net", target="lava", backend="autapse", steps=4)
    assert spiking.backend == "autapse"


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("finetune.steps=[1, 2]",), "`finetune.steps` is [1, 2], allowed: [1]"),
        (("finetune.epochs=1",), "`finetune.steps` is [1, 2, 4], allowed: [1]"),
        (
            ("finetune.steps=[1]", 'activation.reset="zero"', "activation.levels=4", "noise.steps=4"),
            "`activation.reset` is zero, allowed: subtract",
        ),
        (("finetune.steps=[1]", 'input.encoding="rate"'), "`input.encoding` is rate, allowed: graded"),
    ],
)
def test_what_graded_neurons_do_not_have_is_refused(overrides, text):
    with pytest.raises(RecipeError) as caught:
        small_recipe("finetune.activation_bits=4", *overrides)
    assert text in caught.value.message
    assert (
        caught.value.hint
        == "with finetune.activation_bits the network is trained for graded neurons, which have one step"
    )


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(RecipeError, match=r"`finetune.activation_bits` is .*allowed: a whole number 2..16"):
        parse_recipe(TEXT, {"finetune.activation_bits": bits}, None)
