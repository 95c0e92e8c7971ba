"""The tables of a recipe, and what every key of them allows.

In: nothing. Out: a pydantic model for each table; `nctool.recipe.schema` reads and checks the whole.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nctool.ir.number_format import ACTIVATION_BITS_RANGE, WEIGHT_BITS_RANGE

MOST_EPOCHS = 10000
"""The most epochs that training may have, and that fine-tuning may have."""


def whole(low: int, high: int, default: Any = ...) -> Any:
    """Return a field of whole numbers from `low` to `high`."""
    return Field(default, ge=low, le=high, description=f"a whole number {low}..{high}")


def _positive(default: Any = ...) -> Any:
    return Field(default, gt=0.0, description="a number above 0")


def _fraction(default: Any = ...) -> Any:
    return Field(default, ge=0.0, lt=1.0, description="a number from 0 to below 1")


def _pooling() -> Any:
    return Field(default="average", description="average, maximum")


Pooling = Literal["average", "maximum"]
"""What a pooled window gives."""

_Width = Annotated[int, Field(ge=1, le=16384)]
_WIDTHS = "a list of whole numbers 1..16384"


class Table(BaseModel):
    """A table of the recipe: frozen, no unknown keys, no coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(Table):
    """`[data]`: which images, and how many of the training images are held out.

    Attributes:
        name: a built-in data set, or the path of an .npz file or of a folder of images.
        image_size: side in pixels of a square that the images of a folder are brought to; as they are when None.
        channels: 1 makes the images of a folder grey, 3 makes them RGB; RGB when None.
        validation_fraction: part of the training images held out for model selection and noise.
        mean, std: the network's input is (pixel/255 − mean) / std for each channel; those of the training images when
            None. Both or neither.
    """

    name: str = Field(
        min_length=1, description="the name of a data set, or the path of an .npz file or of a folder of images"
    )
    image_size: int | None = whole(8, 1024, None)
    channels: Literal[1, 3] | None = Field(default=None, description="1 or 3")
    validation_fraction: float = Field(default=0.1, ge=0.01, le=0.5, description="a number 0.01..0.5")
    mean: tuple[float, ...] | None = Field(default=None, min_length=1, description="a list of numbers, one a channel")
    std: tuple[Annotated[float, Field(gt=0.0)], ...] | None = Field(
        default=None, min_length=1, description="a list of numbers above 0, one a channel"
    )


class MlpSettings(Table):
    """`[model] architecture = "mlp"`: flatten, then dense layers of the widths `hidden`."""

    architecture: Literal["mlp"]
    hidden: tuple[_Width, ...] = Field(min_length=1, max_length=16, description=_WIDTHS)
    batch_norm: bool = Field(default=True, description="true or false")
    dropout: float = _fraction(0.0)


class CnnSettings(Table):
    """`[model] architecture = "cnn"`: two convolutions of one kernel size, pooling, one hidden dense layer."""

    architecture: Literal["cnn"]
    channels: tuple[_Width, _Width] = Field(default=(16, 32), description=f"{_WIDTHS}, two of them")
    kernel: Literal[1, 3, 5, 7] = Field(default=3, description="1, 3, 5 or 7")
    hidden: int = whole(1, 16384, 64)
    pooling: Pooling = _pooling()


class LenetSettings(Table):
    """`[model] architecture = "lenet"`: two 5x5 convolutions, each pooled, then dense layers."""

    architecture: Literal["lenet"]
    channels: tuple[_Width, _Width] = Field(default=(6, 16), description=f"{_WIDTHS}, two of them")
    hidden: tuple[_Width, ...] = Field(default=(120, 84), min_length=1, max_length=16, description=_WIDTHS)
    pooling: Pooling = _pooling()


class SmallVggSettings(Table):
    """`[model] architecture = "small-vgg"`: three stages of two 3x3 convolutions, each pooled, one dense layer."""

    architecture: Literal["small-vgg"]
    channels: tuple[_Width, _Width, _Width] = Field(default=(32, 64, 128), description=f"{_WIDTHS}, three of them")
    dropout: float = _fraction(0.0)
    pooling: Pooling = _pooling()


class VggSettings(Table):
    """`[model] architecture = "vgg"`: five pooled stages of 3x3 convolutions, dense layers of the widths `hidden`."""

    architecture: Literal["vgg"]
    depth: Literal[11, 16] = Field(description="11 or 16")
    hidden: tuple[_Width, ...] = Field(default=(), max_length=16, description=_WIDTHS)
    dropout: float = _fraction(0.0)
    pooling: Pooling = _pooling()


class ResnetSettings(Table):
    """`[model] architecture = "resnet"`: a 3x3 stem, residual blocks in stages, global average pooling."""

    architecture: Literal["resnet"]
    depth: Literal[8, 18, 20, 34] = Field(description="8, 18, 20 or 34")


class OwnSettings(Table):
    """`[model] architecture = "own"`: a network that is given from Python, `nctool.train(recipe, model=...)`."""

    architecture: Literal["own"]


ModelSettings = Annotated[
    MlpSettings | CnnSettings | LenetSettings | SmallVggSettings | VggSettings | ResnetSettings | OwnSettings,
    Field(discriminator="architecture"),
]
"""`[model]`: one variant for each architecture, chosen by `architecture`."""


class ActivationSettings(Table):
    """`[activation]`: `levels` is L; `threshold_init` the first value of every θ, in units of the pre-activation.

    `threshold_init`: with `data` that of each layer is what one in a hundred of its positive pre-activations exceeds,
    on 256 training images, before the first epoch.

    `function`: what is trained before any fine-tuning. With `relu` an ordinary network, without noise; its thresholds
    are then balanced on data.

    `reset`: what a spike does to the membrane potential of the spiking network. With `zero`, the activation is the
    staircase of that neuron over `levels` time steps, for chips whose neurons cannot subtract.
    """

    function: Literal["quantised", "relu"] = Field(default="quantised", description="quantised, relu")
    levels: int = whole(1, 64, 4)
    threshold_init: Annotated[float, Field(gt=0.0)] | Literal["data"] = Field(
        default="data", description="data, a number above 0"
    )
    reset: Literal["subtract", "zero"] = Field(default="subtract", description="subtract, zero")


class InputSettings(Table):
    """`[input]`: how pixels reach the network.

    `graded`: each at its value, at every step. `rate`: as the spike train of `noise.steps` time steps that an
    integrate-and-fire encoder makes of it, for chips whose spikes carry one bit.
    """

    encoding: Literal["graded", "rate"] = Field(default="graded", description="graded, rate")


class NoiseSettings(Table):
    """`[noise]`: where σ comes from, and `steps`, the window T_val of the spiking network that it is measured on.

    `ideal`: the gap between the ANN and its float spiking network, re-estimated after each epoch. `none`: σ stays 0.
    `chip`: the gap between the ANN and the integer network that `[chip]` describes, converted anew after each epoch.
    """

    source: Literal["ideal", "none", "chip"] = Field(default="ideal", description="ideal, none, chip")
    steps: int = whole(1, 64, 4)


class ChipSettings(Table):
    """`[chip]`: the integer network that noise of source `chip` is measured on, and that `export` makes by default.

    Its window is `noise.steps`, its input that of `[input]`.

    Attributes:
        backend: how neurons are built.
        replicas: neurons for each activation.
        weight_bits: signed width of a weight.
    """

    backend: Literal["autapse", "zero-reset", "population"] = Field(
        default="autapse", description="autapse, zero-reset, population"
    )
    replicas: int = whole(1, 64, 1)
    weight_bits: int = whole(*WEIGHT_BITS_RANGE, default=8)


class TrainingSettings(Table):
    """`[training]`: SGD with momentum, a cosine from `learning_rate` to 0, and random changes of the images.

    Attributes:
        epochs: of the noisy quantised network; 0 only where `[finetune]` trains from the start.
        crop_padding: pixels of black border from which an image-sized window is cut at random; 0 is off.
        horizontal_flip: mirror half of the images.
        auto_augment: the policy by which each image gets two operations on shape or colour; needs torchvision.
        cutout: side in pixels of a black square at a random place; 0 is off.
        precision: of convolutions and dense layers in the forward and backward pass. With `bfloat16`, which the device
            must have, weights, thresholds, noise and potentials stay float32; so do all measurements. `auto` is
            `bfloat16` where the device has it, else `float32`.
        deterministic: algorithms that repeat their result bit for bit, or an error where torch has none. On a CPU one
            seed and number of threads gives the same bytes without it.
    """

    epochs: int = whole(0, MOST_EPOCHS)
    batch_size: int = whole(2, 65536, 128)
    learning_rate: float = _positive(0.05)
    momentum: float = _fraction(0.9)
    weight_decay: float = _fraction(5e-4)
    crop_padding: int = whole(0, 64, 0)
    horizontal_flip: bool = Field(default=False, description="true or false")
    auto_augment: Literal["none", "cifar10", "imagenet"] = Field(default="none", description="none, cifar10, imagenet")
    cutout: int = whole(0, 256, 0)
    precision: Literal["float32", "bfloat16", "auto"] = Field(default="float32", description="float32, bfloat16, auto")
    deterministic: bool = Field(default=False, description="true or false")


_Window = Annotated[int, Field(ge=1, le=64)]


class FinetuneSettings(Table):
    """`[finetune]`: further epochs, through the spiking network itself with rounded weights, by surrogate gradient.

    Batch size, momentum, weight decay and changes of the images are those of `[training]`; the learning rate falls from
    its first value to 0 by a cosine of its own.

    Attributes:
        epochs: of fine-tuning.
        steps: windows T that are trained for at once, each with the same share of the loss.
        replicas: neurons for each activation; those of `[chip]` where there is one and this is not said. `export` takes
            them by default.
        weight_bits: signed width of the weights, rounded in the forward pass; that of `[chip]` where there is one and
            this is not said. `export` takes it by default.
        activation_bits: that graded spikes fit: the network is trained as graded neurons compute it, in one step.
            `export` then takes it, and the backend `graded`, by default.
    """

    epochs: int = whole(1, MOST_EPOCHS, 4)
    steps: tuple[_Window, ...] = Field(
        default=(1, 2, 4), min_length=1, max_length=64, description="a list of whole numbers 1..64"
    )
    replicas: int = whole(1, 64, 1)
    weight_bits: int = whole(*WEIGHT_BITS_RANGE, default=8)
    activation_bits: Annotated[int, Field(ge=ACTIVATION_BITS_RANGE[0], le=ACTIVATION_BITS_RANGE[1])] | None = Field(
        default=None, description="a whole number {}..{}".format(*ACTIVATION_BITS_RANGE)
    )
    learning_rate: float = _positive(0.02)
