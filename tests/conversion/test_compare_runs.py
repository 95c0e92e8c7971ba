"""What is prepared and converted is the network that runs in evaluation mode, or it is refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from nctool import prepare
from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.conversion import convert
from nctool.conversion.float_network import FloatNetwork
from nctool.conversion.trace.compare_runs import require_same_network
from nctool.conversion.trace.prepare import rectify, require_module
from nctool.conversion.trace.tracing import trace
from nctool.errors import NctoolError, NctoolWarning, UnsupportedError, UsageError
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 2, 6, 6), np.uint8)


class Net(nn.Module):
    """A network that prepares and converts; others change its forward method."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.head = nn.ReLU(), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.act(self.one(x)))

    def behind(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(x)).flatten(1))


class Quantised(Net):
    """The same with activations of ours: it converts as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.act2 = NoisyQuantReLU(4, 0.5), NoisyQuantReLU(4, 0.5)

    def behind(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.two(x)).flatten(1))


def converted(net: nn.Module) -> object:
    return convert(
        net,
        input_shape=(2, 6, 6),
        mean=(0.5,),
        std=(0.25,),
        number_format=AUTAPSE_FORMAT,
        n_steps=1,
        calibration=PIXELS,
    )


def refusal(net: nn.Module) -> NctoolError:
    """Return the one error by which a network is refused, prepared or converted, and left as it was."""
    before = everything(net)
    with pytest.raises(NctoolError) as caught:
        converted(net) if activations(net) else prepare(net, IMAGES)
    assert same(everything(net), before)
    return caught.value


def everything(net: nn.Module) -> list[Any]:
    """Return modes, tensors, attributes, and the state of the random generators."""
    attributes = [(name, module.training, sorted(vars(module))) for name, module in net.named_modules()]
    tensors = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    return [attributes, tensors, torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def same(one: list[Any], other: list[Any]) -> bool:
    attributes, tensors, *generators = zip(one, other, strict=True)
    equal = all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    return (
        attributes[0] == attributes[1]
        and equal
        and all(np.array_equal(*pair) for pair in generators[:1])
        and (generators[1][0] == generators[1][1] and generators[2][0] == generators[2][1])
    )


def variant(forward: Callable[[Any, Tensor], Tensor], base: type[Net] = Net) -> Net:
    """Return a network of another forward method."""
    return type("Net", (base,), {"forward": forward})()


# --- evaluation mode ------------------------------------------------------


def skips_in_training(self: Net, x: Tensor) -> Tensor:
    x = self.act(self.one(x))
    return self.head(x.flatten(1)) if self.training else self.behind(x)


def drops_a_layer(self: Net, x: Tensor) -> Tensor:
    x = self.act(self.one(x))
    return self.head(x.flatten(1)) if self.training and random.random() < 2.0 else self.behind(x)


def drops_a_layer_by_torch(self: Net, x: Tensor) -> Tensor:
    x = self.act(self.one(x))
    return self.head(x.flatten(1)) if self.training and torch.rand(1).item() < 2.0 else self.behind(x)


def drops_paths(self: Net, x: Tensor) -> Tensor:
    x = self.act(self.one(x))
    if self.training:
        x = x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.8) / 0.8
    return self.behind(x)


def another_slope(self: Net, x: Tensor) -> Tensor:
    return self.behind(F.avg_pool2d(self.act(self.one(x)), 1, padding=0, count_include_pad=self.training))


def counts_in_training(self: Net, x: Tensor) -> Tensor:
    if self.training and x.sum() > 0:
        self.seen = x
    return self.behind(self.act(self.one(x)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (skips_in_training, "does not call `two`"),
        (drops_a_layer, "draws random numbers"),
        (drops_a_layer_by_torch, "draws random numbers"),
        (drops_paths, "calls `new_empty`"),
        (another_slope, "calls `avg_pool2d` otherwise"),
        (
            counts_in_training,
            "is another (model `Net`: its forward method depends on data at `if self.training and x.sum() > 0:` "
            "(symbolically traced variables cannot be used as inputs to control flow))",
        ),
    ],
)
def test_the_network_of_evaluation_mode_is_prepared_and_another_in_training_is_said(forward, text, training):
    own = variant(forward).train(training)
    own.two.eval()
    before = everything(own)
    with pytest.warns(NctoolWarning) as caught:
        prepared = prepare(own, IMAGES)
    assert [str(each.message) for each in caught] == [
        f"model `Net`: in training its forward method {text}; the network of evaluation mode is prepared"
    ]
    assert caught[0].filename == __file__
    assert same(everything(own), before)
    assert (prepared.training, prepared.act.training, prepared.two.training) == (training, training, False)
    with torch.no_grad(), in_mode(prepared, "rectified"):
        torch.testing.assert_close(prepared.eval()(IMAGES), own.eval()(IMAGES))


def test_dropout_follows_the_mode_and_needs_no_warning():
    own = variant(lambda self, x: self.behind(F.dropout(self.act(self.one(x)), 0.3, self.training))).train()
    (dropout,) = (module for module in prepare(own, IMAGES).modules() if isinstance(module, nn.Dropout))
    assert (dropout.p, dropout.training) == (0.3, True)


@pytest.mark.vision
def test_stochastic_depth_of_torchvision_is_left_out():
    from torchvision.ops import StochasticDepth

    own = variant(lambda self, x: self.behind(self.depth(self.act(self.one(x)))))
    own.depth = StochasticDepth(0.5, "row")
    with pytest.warns(NctoolWarning, match="in training its forward method calls `stochastic_depth` otherwise"):
        prepared = prepare(own.train(), IMAGES)
    with torch.no_grad(), in_mode(prepared, "rectified"):
        torch.testing.assert_close(prepared.eval()(IMAGES), own.eval()(IMAGES))


def frozen_stem(self: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = self.act(self.one(x))
    return self.behind(x)


def test_a_part_without_gradients_is_said():
    with pytest.warns(NctoolWarning) as caught:
        prepare(variant(frozen_stem), IMAGES)
    assert [str(each.message) for each in caught] == [
        "model `Net`: calls `one` in torch.no_grad(), the prepared network trains it: freeze what shall not be trained "
        "with requires_grad_(False)"
    ]


# --- what runs is not what the classes say --------------------------------


def doubled(self: nn.Conv2d, x: Tensor) -> Tensor:
    return 2 * F.conv2d(x, self.weight, self.bias, padding=1)


REPLACED = "hint: put what it computes into the weights, or write a class of your own with this method"


@pytest.mark.parametrize("kind", [Net, Quantised])
@pytest.mark.parametrize(
    ("where", "method", "text"),
    [
        ("one", "forward", "module `one` (Conv2d whose method forward is replaced on the object)"),
        ("one", "_call_impl", "module `one` (Conv2d whose method _call_impl is replaced on the object)"),
        ("one", "_conv_forward", "module `one` (Conv2d whose method _conv_forward is replaced on the object)"),
        ("", "forward", "model ({} whose method forward is replaced on the object)"),
    ],
)
def test_a_method_replaced_on_an_object_is_refused(kind, where, method, text):
    net = kind()
    module = net.get_submodule(where)
    setattr(module, method, MethodType(doubled, module))
    assert str(refusal(net)) == f"{text.format(kind.__name__)} cannot be converted\n{REPLACED}"


@pytest.mark.parametrize("kind", [Net, Quantised])
def test_an_activation_whose_forward_is_replaced_is_refused(kind):
    net = kind()
    net.act.forward = lambda x: F.leaky_relu(x, 0.3)
    assert refusal(net).message == (
        f"module `act` ({type(net.act).__name__} whose method forward is replaced on the object) cannot be converted"
    )


def test_a_block_whose_forward_is_replaced_is_read_as_it_runs():
    net = Net()
    block = net.two = nn.Sequential(net.two)
    block.forward = lambda x: block[0](x) + x
    prepared = prepare(net, IMAGES)
    with torch.no_grad(), in_mode(prepared, "rectified"):
        torch.testing.assert_close(prepared.eval()(IMAGES), net.eval()(IMAGES))


@pytest.fixture(params=[register_module_forward_hook, register_module_forward_pre_hook])
def global_hook(request: pytest.FixtureRequest) -> Iterator[None]:
    def profile(*_: object) -> None:
        """Change nothing."""

    handle = request.param(profile)
    yield
    handle.remove()


@pytest.mark.parametrize("kind", [Net, Quantised])
def test_a_hook_for_all_modules_is_refused(kind, global_hook):
    assert str(refusal(kind())) == (
        "model (with the forward hook profile for all modules) cannot be converted\n"
        "hint: remove it: handle.remove(), of what torch.nn.modules.module.register_module_forward_hook gave"
    )


def test_hooks_can_be_removed_after_a_network_was_prepared():
    net = Net()
    handle = net.head.register_full_backward_hook(lambda *_: None)
    prepare(net, IMAGES)
    handle.remove()
    assert not net.head._backward_hooks


ANOTHER = "model `{}`: computes something else than its modules and forward method say; first difference: {}"


class Called(Net):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


@pytest.mark.parametrize("kind", [Net, Quantised])
def test_a_class_of_torch_whose_method_is_replaced_is_refused(kind, monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "forward", doubled)
    error = refusal(kind())
    assert isinstance(error, UnsupportedError)
    assert str(error) == (
        f"{ANOTHER.format(kind.__name__, 'what drives `one`')}\n"
        "hint: move what is computed elsewhere into the forward method or the weights; nctool does not read "
        "global state"
    )


def test_a_call_method_of_its_own_is_refused():
    assert refusal(Called()).message == ANOTHER.format("Called", "what it gives")


CALLS = {"number": 0}


def alternates(self: Net, x: Tensor) -> Tensor:
    CALLS["number"] += 1
    x = self.act(self.one(x))
    return self.behind(x if CALLS["number"] % 2 else self.act(self.two(x)))


def alternates_by_attribute(self: Net, x: Tensor) -> Tensor:
    self.number = getattr(self, "number", 0) + 1
    x = self.act(self.one(x))
    return self.behind(x if self.number % 2 else self.act(self.two(x)))


def test_a_forward_method_that_goes_by_state_is_refused():
    CALLS["number"] = 0
    assert refusal(variant(alternates)).message == ANOTHER.format("Net", "it does not call `head` next")
    assert refusal(variant(alternates_by_attribute)).message == ANOTHER.format("Net", "what it gives the second time")


def test_a_forward_method_that_goes_by_state_at_its_end_is_refused():
    """Its first call is read, its second is compared."""

    def calls_more(self: Net, x: Tensor) -> Tensor:
        CALLS["number"] += 1
        x = self.act(self.one(x))
        return self.act(x) if CALLS["number"] > 1 else x

    def calls_less(self: Net, x: Tensor) -> Tensor:
        CALLS["number"] += 1
        x = self.act(self.one(x))
        return x if CALLS["number"] > 1 else self.two(x)

    for forward, difference in ((calls_more, "one call too many"), (calls_less, "module `two` is not called")):
        CALLS["number"] = 0
        assert refusal(variant(forward)).message == ANOTHER.format("Net", difference)


def test_a_forward_method_may_keep_what_it_computed():
    def keeps(self: Net, x: Tensor) -> Tensor:
        self.features = self.act(self.one(x))
        return self.behind(self.features)

    own = variant(keeps)
    prepared = prepare(own, IMAGES)
    assert not hasattr(own, "features")
    with torch.no_grad(), in_mode(prepared, "rectified"):
        torch.testing.assert_close(prepared.eval()(IMAGES), own.eval()(IMAGES))


def widens(self: Net, x: Tensor) -> Tensor:
    x = self.act(self.one(x))
    self.two.dilation = self.two.padding = (2, 2)
    return self.behind(x)


def rounds(self: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = self.act(self.one(x))
    return self.behind(x.float())


@pytest.mark.parametrize("base", [Net, Quantised])
@pytest.mark.parametrize(("forward", "prepared", "converted"), [(widens, "two", "two"), (rounds, "one", "one")])
def test_what_the_forward_method_sets_while_it_runs_is_refused(forward, prepared, converted, base):
    where = f"what drives `{converted}`" if base is Quantised else f"what module `{prepared}` gives"
    assert refusal(variant(forward, base)).message == ANOTHER.format("Net", where)


def test_an_autocast_around_the_call_changes_nothing():
    net = Net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prepare(net, IMAGES)
    expected = prepare(net, IMAGES)
    assert [layer.threshold.item() for layer in activations(found).values()] == [
        layer.threshold.item() for layer in activations(expected).values()
    ]


def takes_off_a_mean(self: Net, x: Tensor) -> Tensor:
    return self.behind(self.act(self.one(x - torch.tensor([0.5, 0.25]).view(1, 2, 1, 1))))


@pytest.mark.parametrize("base", [Net, Quantised])
def test_a_tensor_that_the_forward_method_makes_is_refused(base):
    assert str(refusal(variant(takes_off_a_mean, base))) == (
        "function `sub` (of a tensor that the forward method makes) cannot be converted\n"
        "hint: normalise the images before, and put other numbers into nn.Conv2d, nn.Linear or nn.BatchNorm2d"
    )


# --- a forward method that changes what it computes with -------------------


def clamps(self: Net, x: Tensor) -> Tensor:
    self.one.weight.data.clamp_(-0.05, 0.05)
    return self.behind(self.act(self.one(x)))


def clamps_without_gradients(self: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        self.one.weight.clamp_(-0.05, 0.05)
    return self.behind(self.act(self.one(x)))


def counts(self: Net, x: Tensor) -> Tensor:
    self.one.bias.data.add_(1)
    return self.behind(self.act(self.one(x)))


@pytest.mark.parametrize("base", [Net, Quantised])
@pytest.mark.parametrize(
    ("forward", "name"), [(clamps, "one.weight"), (clamps_without_gradients, "one.weight"), (counts, "one.bias")]
)
def test_a_forward_method_that_changes_weights_is_refused(forward, name, base):
    text = str(refusal(variant(forward, base)))
    if base is Net:
        assert text == (
            f"model `Net` (its forward method changes `{name}`) cannot be converted\n"
            "hint: change it once, before nctool.prepare, and take the change out of the forward method"
        )


def test_a_buffer_that_changes_in_evaluation_mode_is_refused():
    net = variant(lambda self, x: self.behind(self.act(self.one(x)) if self.number.add_(1) is not None else x))
    net.register_buffer("number", torch.zeros(()))
    assert refusal(net).message == "model `Net` (its forward method changes `number`) cannot be converted"


def sets_data(self: Net, x: Tensor) -> Tensor:
    z = self.one(x)
    z.data = 2 * z.data
    return self.behind(self.act(z))


def sets_signs(self: Net, x: Tensor) -> Tensor:
    self.one.weight.data = self.one.weight.data.sign()
    return self.behind(self.act(self.one(x)))


@pytest.mark.parametrize("base", [Net, Quantised])
@pytest.mark.parametrize(("forward", "name"), [(sets_data, "one"), (sets_signs, "one.weight")])
def test_a_forward_method_that_sets_data_is_refused(forward, name, base):
    assert str(refusal(variant(forward, base))) == (
        f"`{name}` (whose .data the forward method sets) cannot be converted\n"
        "hint: write z = 2 * z, not z.data = 2 * z.data"
    )


DRAWS = (
    "model `Net` (its forward method draws random numbers in evaluation mode) cannot be converted\n"
    "hint: draw them in training mode only: nn.Dropout(p), or functional.dropout(x, p, self.training)"
)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.behind(F.dropout(self.act(self.one(x)), 0.5)),
        lambda self, x: self.behind(self.act(self.one(x) + torch.randn(4, 1, 1))),
        lambda self, x: self.behind(self.act(self.one(x)) if random.random() < 2.0 else x),
        lambda self, x: self.behind(self.act(self.one(x)) if np.random.rand() < 2.0 else x),  # noqa: NPY002
    ],
)
def test_random_numbers_in_evaluation_mode_are_refused(forward):
    assert str(refusal(variant(forward))) == DRAWS


# --- what is taken --------------------------------------------------------


def sizes_are_right(self: Net, x: Tensor) -> Tensor:
    assert x.shape[1] == 2 and x.dim() == 4, "channels"
    torch._assert(x.shape[2] == 6, "high")
    f"{x.mean():.2f}"
    return self.behind(self.act(self.one(x)))


def numbers_are_right(self: Net, x: Tensor) -> Tensor:
    assert x.min() >= -1e3 and x.max() <= 1e3, "large"
    assert not torch.isnan(x).any()
    assert (
        x.isfinite().all()  # over several lines
        and -1e3 <= x.mean() <= 1e3
    ), "not a number"
    assert not (
        x.isinf().any()  # as well
        or x.isnan().any()
    )
    return self.behind(self.act(self.one(x)))


def optional(self: Net, x: Tensor, mask: Tensor | None = None, *, features: bool = False, **_: object) -> Tensor:
    x = self.act(self.one(x))
    if mask is not None:
        x = x * mask
    return x if features else self.behind(x)


@pytest.mark.parametrize("base", [Net, Quantised])
@pytest.mark.parametrize(
    "forward",
    [
        sizes_are_right,
        numbers_are_right,
        optional,
        lambda self, x: self.behind(self.act(self.one(x).contiguous())),
        lambda self, x: self.behind(self.act(self.one(x.float())).clone()),
        lambda self, x: self.behind(torch.clone(self.act(self.one(x)))),
    ],
)
def test_what_computes_the_same_is_taken(forward, base):
    own = variant(forward, base)
    if base is Quantised:
        converted(own)
        return
    prepared = prepare(own, IMAGES)
    with torch.no_grad(), in_mode(prepared, "rectified"):
        torch.testing.assert_close(prepared.eval()(IMAGES), own.eval()(IMAGES))


def test_an_assert_that_does_not_hold_is_raised():
    def wrong(self: Net, x: Tensor) -> Tensor:
        assert x.shape[1] == 3
        return self.behind(x)

    with pytest.raises(AssertionError):
        prepare(variant(wrong), IMAGES)


def test_an_assert_does_not_excuse_what_stands_in_its_line():
    """Of the statements in a line, Python does not say which one asks."""

    def both(self: Net, x: Tensor) -> Tensor:
        x = self.act(self.one(x))
        assert x.min() >= 0; y = x if x.mean() > 0 else -x  # fmt: skip  # noqa: E702
        return self.behind(y)

    def behind_an_if(self: Net, x: Tensor) -> Tensor:
        x = self.act(self.one(x))
        if x.mean() > 9: assert x.min() > 9  # fmt: skip  # noqa: E701
        return self.behind(x)

    for forward in (both, behind_an_if):
        assert "its forward method depends on data at" in refusal(variant(forward)).message


@pytest.mark.parametrize("base", [Net, Quantised])
def test_sizes_are_those_of_the_tensors(base):
    """Who prunes may cut the tensors and leave the numbers beside them."""
    net, kept = base(), [0, 2, 3]
    for name, tensor in {
        "one.weight": net.one.weight[kept], "one.bias": net.one.bias[kept], "two.weight": net.two.weight[:, kept],
        "head.weight": net.head.weight[:2], "head.bias": net.head.bias[:2],
    }.items():  # fmt: skip
        module, _, own = name.rpartition(".")
        setattr(net.get_submodule(module), own, nn.Parameter(tensor.detach().clone()))
    network = converted(net if base is Quantised else prepare(net, IMAGES)).network
    assert [population.shape for population in network.populations] == [(3, 6, 6), (4, 6, 6), (2,)]


# --- what holds a network, and other types --------------------------------


WRAPPERS = (nn.DataParallel, torch.optim.swa_utils.AveragedModel, lambda net: torch.compile(net, backend="eager"))


@pytest.mark.parametrize("wrap", [*WRAPPERS, lambda net: nn.DataParallel(WRAPPERS[2](net))])
def test_a_wrapper_is_taken_off(wrap):
    net = Net()
    wrapped = wrap(net)
    inside = next(module for module in wrapped.modules() if isinstance(module, Net))
    assert prepare(wrapped, IMAGES).get_parameter("one.weight") is inside.one.weight
    assert converted(wrap(Quantised())).network == converted(Quantised()).network


def test_a_class_with_the_name_of_a_wrapper_is_read_as_it_is():
    class AveragedModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.module(2 * x)

    assert refusal(AveragedModel()).message.startswith(("model: got AveragedModel", "function `mul`"))


def test_a_wrapper_with_a_hook_is_refused():
    wrapper = nn.DataParallel(Net())
    wrapper.register_forward_hook(lambda module, inputs, output: 2 * output)
    error = refusal(wrapper)
    assert isinstance(error, UnsupportedError)
    assert error.message == "model (DataParallel with the forward hook <lambda>) cannot be converted"


def test_checkpoints_hold_the_names_of_the_network_in_a_wrapper():
    with pytest.raises(UsageError) as caught:
        require_module(nn.DataParallel(Net()))
    assert str(caught.value) == "model: got DataParallel, allowed the network in it\nhint: give model.module"


def test_a_wrapper_in_a_network_is_taken_off():
    prepared = prepare(nn.Sequential(nn.DataParallel(nn.DataParallel(Net()))), IMAGES)
    assert "0.module.module.one.weight" in prepared.state_dict()
    wrapper = nn.DataParallel(Net())
    wrapper.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert refusal(nn.Sequential(wrapper)).message == (
        "module `0` (DataParallel with the forward hook <lambda>) cannot be converted"
    )


FLOAT = "hint: model.float() makes all of them torch.float32"


def test_other_types_than_float32_are_refused():
    assert str(refusal(Net().double())) == (f"parameter `one.weight`: is torch.float64, allowed torch.float32\n{FLOAT}")
    assert str(refusal(Quantised().half())) == (
        f"parameter `one.weight`: is torch.float16, allowed torch.float32 or torch.float64\n{FLOAT}"
    )


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("kind", [Net, Quantised])
def test_a_module_without_a_size_is_refused(kind):
    net = kind()
    net.one = nn.LazyConv2d(4, 3, padding=1)
    with pytest.raises(UnsupportedError) as caught:
        converted(net) if activations(net) else prepare(net, IMAGES)
    assert str(caught.value) == (
        "module `one` (LazyConv2d whose weight has no size yet) cannot be converted\n"
        "hint: run the model once on some images, which gives it its sizes: model(images)"
    )


@pytest.mark.parametrize(
    ("module", "kind", "hint"),
    [
        (
            nn.GRU(6, 6),
            "GRU",
            "no recurrent layer has an integrate-and-fire form here: use nn.Linear or nn.Conv2d, and train again",
        ),
        (
            nn.SyncBatchNorm(2),
            "SyncBatchNorm",
            "use nn.BatchNorm2d, of the same numbers: norm.load_state_dict(synchronised.state_dict())",
        ),
        (
            nn.MaxPool2d(2, return_indices=True),
            "MaxPool2d with return_indices=True",
            "leave out return_indices: spikes do not know the place of a maximum",
        ),
    ],
)
def test_modules_without_a_form_are_refused_with_what_to_write(module, kind, hint):
    class Of(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = module

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return x if isinstance(module, nn.SyncBatchNorm) else x[0]

    images = IMAGES if isinstance(module, (nn.SyncBatchNorm, nn.MaxPool2d)) else IMAGES[:, :, 0]
    with pytest.raises(UnsupportedError) as caught:
        prepare(Of(), images)
    assert str(caught.value) == f"module `first` ({kind}) cannot be converted\nhint: {hint}"


def test_weights_that_no_module_of_torch_uses_are_refused():
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)

    net = Net()
    net.one = Standardised(2, 4, 3)
    assert str(refusal(net)) == (
        "tensor `one.weight` (read by the forward method) cannot be converted\n"
        "hint: let a module of torch hold it and use it: nn.Conv2d, nn.Linear, nn.BatchNorm2d"
    )


def test_an_activation_of_ours_with_a_forward_of_its_own_is_refused():
    class Doubled(NoisyQuantReLU):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    net = Quantised()
    net.act = Doubled(4, 0.5)
    assert refusal(net).message == "module `act` (Doubled) cannot be converted"


# --- how numbers round ------------------------------------------------------------------------------------------------


def cancelling(seed: int) -> tuple[nn.Module, Tensor]:
    """Return a network whose first layer takes differences of large numbers, and such numbers."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net[0].weight.data -= net[0].weight.data.mean(1, keepdim=True)
    return net, 1e4 + torch.randn(8, 64)


@pytest.mark.parametrize("seed", range(5))
def test_sums_whose_terms_cancel_round_by_a_part_of_the_terms(seed):
    """Of terms of a thousand each, a sum of one is off by thousands of its own roundings."""
    net, x = cancelling(seed)
    exact = nn.functional.linear(x.double(), net[0].weight.double(), net[0].bias.double())
    off = (net[0](x) - exact).abs().max() / exact.abs().max()
    assert off > 2**10 * torch.finfo(torch.float32).eps
    network = trace(rectify(net, x), (64,))
    require_same_network(rectify(net, x), network, x)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_what_differs_by_more_than_roundings_is_still_refused(part):
    """Of a thousandth of one weight, which is a ten-thousandth of what all terms together are."""
    net, x = cancelling(0)
    rectified = rectify(net, x)
    first, *rest = trace(rectified, (64,)).populations
    (synapse,) = first.synapses
    changed = getattr(synapse, part).copy()
    changed.flat[0] += 1e-3 * np.abs(synapse.weight).max() * (1 if part == "weight" else 1e4)
    network = FloatNetwork((64,), (replace(first, synapses=(replace(synapse, **{part: changed}),)), *rest))
    with pytest.raises(UnsupportedError, match="first difference: what drives `0`"):
        require_same_network(rectified, network, x)
