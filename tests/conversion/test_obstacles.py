"""Every obstacle is named at once: a line for each, each hint once, and none that only follows from another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from nctool import prepare
from nctool.conversion.trace.tracing import trace
from nctool.errors import NctoolError, RangeError, UnsupportedError
from tests.support.torch_models import act

IMAGES = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """What `function` makes of images with the modules."""

    def __init__(self, function, *modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts, self.function = nn.ModuleList(modules), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def lines(model: nn.Module) -> list[str]:
    """Return the lines of the message by which a network is not prepared."""
    with pytest.raises(NctoolError) as caught:
        prepare(model.eval(), IMAGES)
    return caught.value.message.splitlines()


def test_every_module_without_a_form_is_named_and_each_hint_once():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.GELU(), nn.Conv2d(4, 4, 3, padding_mode="circular"),
        nn.SiLU(), nn.Flatten(), nn.Linear(144, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3),
    )  # fmt: skip
    with pytest.raises(UnsupportedError) as caught:
        prepare(model.eval(), IMAGES)
    assert caught.value.message.splitlines() == [
        "module `1` (GroupNorm) cannot be converted",
        "module `2` (GELU) cannot be converted",
        "module `3` (Conv2d with padding_mode='circular') cannot be converted",
        "module `4` (SiLU) cannot be converted",
        "module `7` (LayerNorm) cannot be converted",
        "module `8` (GELU) cannot be converted",
    ]
    hints = str(caught.value.hint).split("; ")
    assert len(hints) == len(set(hints))
    assert any("padding_mode='zeros'" in hint for hint in hints)


def test_a_network_of_our_activations_is_told_everything_too():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.GroupNorm(1, 3), act(), nn.Flatten(), nn.Linear(108, 2), act(), act()
    )
    with pytest.raises(UnsupportedError) as caught:
        trace(model, (2, 8, 8))
    assert caught.value.message.splitlines() == [
        "module `1` (Tanh) cannot be converted",
        "module `2` (GroupNorm) cannot be converted",
        "module `7`: follows spikes of `5`, allowed behind Conv2d, Linear or BatchNorm",
    ]


def test_a_module_that_is_called_twice_is_one_obstacle():
    model = Net(
        lambda x, conv, gelu, back, fc: fc(gelu(back(gelu(conv(x)))).flatten(1)),
        nn.Conv2d(2, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3), nn.Linear(32, 3),
    )  # fmt: skip
    assert lines(model) == ["module `parts.1` (GELU) cannot be converted"]


def test_what_follows_from_an_obstacle_is_not_named():
    """A tensor that the forward method reads makes a product without a form; sizes make a view without one."""

    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__(None, nn.Conv2d(2, 4, 3), nn.Linear(36, 3))
            self.scale, self.shift = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.parts[0](x)) * self.scale + self.shift
            return self.parts[1](F.gelu(x.view(x.size(0), 4, 36)).mean(1))

    assert lines(Scaled()) == [
        "tensor `scale` (read by the forward method) cannot be converted",
        "tensor `shift` (read by the forward method) cannot be converted",
        "function `size` cannot be converted",
        "function `gelu` cannot be converted",
        "function `mean` cannot be converted",
    ]


def test_branches_are_all_looked_at():
    def function(x, one, two, fc):
        return fc(torch.cat([F.silu(one(x)), torch.tanh(two(x)), F.relu(one(x))], 1).flatten(1))

    model = Net(function, nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3), nn.Linear(12 * 36, 3))
    assert lines(model) == ["function `silu` cannot be converted", "function `tanh` cannot be converted"]


def test_places_and_kinds_are_named_together():
    """A linear layer without an activation, pooling before a padded convolution, hooks."""
    model = Net(
        lambda x, a, b, pool, c, fc: fc(F.relu(c(pool(F.relu(b(a(x)))))).flatten(1)),
        parametrizations.weight_norm(nn.Conv2d(2, 4, 1)), nn.Conv2d(4, 4, 1), nn.AvgPool2d(3),
        nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 3),
    )  # fmt: skip
    found = lines(model)
    assert found[0] == "module `parts.0` (ParametrizedConv2d) cannot be converted"
    assert found[1].startswith("module `parts.2`: pooling (3, 3) stride (3, 3) of (8, 8) has no exact form")
    assert len(found) == 2


def test_hooks_are_named_with_the_rest():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))
    for layer in (model[0], model[3]):
        layer.register_forward_hook(lambda module, inputs, output: output)
    assert lines(model) == [
        "module `0` (Conv2d with the forward hook <lambda>) cannot be converted",
        "module `3` (Conv2d with the forward hook <lambda>) cannot be converted".replace("Conv2d", "Linear"),
        "module `1` (GELU) cannot be converted",
    ]


def test_of_a_forward_method_that_cannot_be_followed_the_modules_are_named():
    model = Net(
        lambda x, conv, norm, gelu, fc: fc(gelu(norm(conv(x))).flatten(1)) if x.sum() > 0 else fc(x.flatten(1)),
        nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2), nn.GELU(), nn.Linear(128, 3),
    )  # fmt: skip
    first, *rest = lines(model)
    assert first.startswith("model `Net`: its forward method depends on data at")
    assert rest == ["module `parts.1` (GroupNorm) cannot be converted", "module `parts.2` (GELU) cannot be converted"]


def test_one_obstacle_is_raised_as_it_is():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(RangeError) as caught:
        trace(nn.Sequential(model[0], act(), *model[2:]), (2, 8, 8))
    assert caught.value.message == "parameter `0.weight`: holds inf, allowed finite numbers"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.permute(0, 3, 1, 2), "keep the axes (channels, height, width)"),
        (lambda x: x.transpose(2, 3), "keep the axes (channels, height, width)"),
        (lambda x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], 1), "let a convolution of its own give each part"),
        (lambda x: torch.cat([x[:, :2], x[:, 2:]], 1), "let a convolution of its own give each part"),
        (lambda x: torch.matmul(x, x), "attention multiplies signals"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")[:, :, ::2, ::2], "use mode='nearest'"),
        (lambda x: F.pixel_unshuffle(x, 2), "use nn.Conv2d with the same stride"),
        (lambda x: F.local_response_norm(x, 2), "leave it out, and train again"),
    ],
)
def test_what_to_write_instead_is_said(function, words):
    model = Net(
        lambda x, conv, fc: fc(function(F.relu(conv(x))).flatten(1)), nn.Conv2d(2, 4, 3, padding=1), nn.Linear(256, 3)
    )
    with pytest.raises(UnsupportedError) as caught:
        prepare(model.eval(), IMAGES)
    assert words in str(caught.value.hint)
