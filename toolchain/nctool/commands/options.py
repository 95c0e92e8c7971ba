"""Options that several commands take, each defined once: what it may be, its help, its ranges.

In: text that was typed. Out: annotations for public functions. Must not import torch or Lava.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nctool.errors import UsageError
from nctool.progress import ProgressCallback
from nctool.recipe import overrides
from nctool.running.arrays import Source, load_array, path_of
from nctool.signature import Group, Hint, Option
from nctool_deploy.foreign import ForeignOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nctool import training
    from nctool.running.model_file import ModelFile
    from nctool.running.samples import Chosen

    Module = nn.Module
    Images = Tensor
    EpochCallback = training.EpochCallback
    Progress = Any  # for callers; the functions themselves always get a callback (`nctool.arguments.public`)
else:  # a signature is read without loading torch: one has a check of its own, the other is a function
    Module, Images, EpochCallback = object, object, Callable
    Progress = ProgressCallback | bool

_NUMBER = re.compile(r"\d{1,9}")
_NAMED = re.compile(r"([^=,]+)=(\d{1,9})")

Replicas = int | Mapping[str, int] | Literal["auto"]
"""Copies of a neuron that share an activation: of all layers, by layer, or as measured."""


def parse_numbers(text: str, name: str) -> list[int]:
    """Turn `1,2,4` into numbers; `name` is the option's.

    Raises:
        UsageError: a part is no whole number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(_NUMBER.fullmatch(part) for part in parts):
        what = name.replace("_", " ")
        raise UsageError(f"{what}: got `{text}`, allowed whole numbers with commas between them")
    return [int(part) for part in parts]


def parse_replicas(text: str, name: str) -> Replicas:
    """Turn `4` or `conv1=4,conv2=2` into replicas; `auto` stays what it is.

    Raises:
        UsageError: the text is neither, or names a layer twice.
    """
    if text == "auto":
        return "auto"
    if _NUMBER.fullmatch(text):
        return int(text)
    named = [_NAMED.fullmatch(part.strip()) for part in text.split(",")]
    replicas = {match[1]: int(match[2]) for match in named if match}
    if len(replicas) < len(named):
        raise UsageError(f"{name}: got `{text}`, allowed a number K, LAYER=K,LAYER=K with each layer once, or auto")
    return replicas


def parse_overrides(texts: Sequence[str], _name: str) -> overrides.Overrides:
    """Turn texts `KEY=VALUE` into values by key; a RecipeError says which text is none."""
    return overrides.parse_overrides(texts)


def require_chips(chips: int) -> None:
    """Refuse a network that may take no chip, with a UsageError."""
    if chips < 1:
        raise UsageError(f"chips: {chips} is out of range, allowed >= 1", hint="give 1 or more chips with --chips")


# --- names, for the shell to complete ---------------------------------------------------------------------------------


def recipe_names() -> Iterable[str]:
    """Return the names of the built-in recipes."""
    from nctool_models import list_recipes

    return list_recipes()


def target_names() -> Iterable[str]:
    """Return the names of the built-in targets, other names of theirs too."""
    from nctool_deploy.targets.target import ALIASES, TARGETS

    return (*ALIASES, *(target.name for target in TARGETS))


def backend_names() -> Iterable[str]:
    """Return the names of the backends."""
    from nctool_deploy.backends.backend import BACKENDS

    return (backend.name for backend in BACKENDS)


def engine_names() -> Iterable[str]:
    """Return the names of the engines."""
    from nctool.running.engines import ENGINES

    return ENGINES


def _dataset_names() -> Iterable[str]:
    from nctool_models.datasets.load import NAMES

    return NAMES


def _split_names() -> Iterable[str]:
    from nctool.running.samples import SPLITS

    return SPLITS


def encoding_names() -> Iterable[str]:
    """Return the names of the encodings of the input."""
    from nctool.ir.inputs import ENCODINGS

    return ENCODINGS


# --- what is read -----------------------------------------------------------------------------------------------------

Checkpoint = Annotated[
    Path | str,
    Option("Folder of a training run, or its checkpoint.", metavar="CHECKPOINT", is_positional=True),
    Hint('nctool.train("mine.toml", "runs/mine", model=net), then give "runs/mine"'),
]
Run = Annotated[
    Path | str,
    Option("Folder of a training run.", metavar="RUN", is_positional=True),
    Hint('nctool.train("mine.toml", "runs/mine", model=net), then give "runs/mine"'),
]
Model = Annotated[
    Path | str,
    Option("File of `nctool export`, other netx, or zoo:NAME.", metavar="MODEL", is_positional=True),
    Hint('nctool.export("runs/mine", "mine.net", model=net), then give "mine.net"'),
]
Dataset = Annotated[
    Path | str | None,
    Option("Name, .npz path or folder of images.", kind=str, default="what it was trained on", names=_dataset_names),
]
DataDir = Annotated[Path | str | None, Option("Folder of data sets.", default="~/.cache/nctool/data")]
Split = Annotated[str, Option("test or train.", names=_split_names)]
Samples = Annotated[
    int | None, Option("The first N samples.", metavar="N", default="all", least=1, is_checked_inside=True)
]
Input = Annotated[
    Source | None, Option("Samples of your own: array, image, or folder of images.", kind=Path, metavar="X.npy")
]
Foreign = Annotated[
    ForeignOptions | None,
    Group(
        ForeignOptions,
        {
            "steps": Option("Foreign file: time steps of a constant input.", default="the file's", least=1),
            "reset_interval": Option("Foreign file: clear all states every so many time steps.", least=1),
            "num_layers": Option("Foreign file: only its first layers.", least=1),
            "skip_layers": Option("Foreign file: leave out its first layers.", least=0),
        },
    ),
]


@dataclass(frozen=True, eq=False)
class SampleChoice:
    """The samples that a model is to run on, as asked for: of a data set, or one's own."""

    dataset: Path | str | None
    split: str
    samples: int | None
    data_dir: Path | str | None
    input: Source | None
    labels: Source | None

    def open_model(self, path: Path, options: ForeignOptions, *, check_digests: bool = True) -> ModelFile:
        """Read a model; a foreign file may not say the shape of a sample, so that of one's own samples helps."""
        from nctool.running.images import are_images
        from nctool.running.model_file import open_model

        shape = None if self.input is None or are_images(self.input) else load_array(self.input).shape[-3:]
        return open_model(path, options, input_shape=shape, check_digests=check_digests)

    def files(self, content: ModelFile) -> dict[str, Path | None]:
        """Return what is read, by what messages call it."""
        from nctool.running.samples import dataset_path, trained_on

        files = {"the samples": path_of(self.input), "the labels": path_of(self.labels)}
        if self.input is None:
            files["the data set"] = dataset_path(self._name or trained_on(content))
        return files

    def load(self, content: ModelFile) -> Chosen:
        """Return the samples, and the model set up for them."""
        from nctool.running.samples import choose_samples

        return choose_samples(content, self._name, self.split, self.samples, self.data_dir, self.input, self.labels)

    @property
    def _name(self) -> str | None:
        return None if self.dataset is None else str(self.dataset)


# --- what is made -----------------------------------------------------------------------------------------------------

Overrides = Annotated[
    overrides.Overrides | None,
    Option("KEY=VALUE in the recipe.", flags=("--set",), parse=parse_overrides, is_repeated=True),
    Hint('overrides={"training.epochs": 3}'),
]
Resume = Annotated[bool, Option("Go on where an interrupted run stopped.")]
Overwrite = Annotated[bool, Option("Replace the run in the folder.")]
TensorBoard = Annotated[bool, Option("Write every epoch for TensorBoard too.")]
Target = Annotated[Path | str, Option("Name from `nctool targets`, or a .toml path.", kind=str, names=target_names)]
Chips = Annotated[int, Option("Chips that the network may take.")]
ActivationBits = Annotated[
    int | None, Option("Bits that most graded spikes fit, 2..16.", default="8, of graded", least=1)
]
InputOption = Annotated[
    str | None,
    Option("graded: signed 8 bits; rate: binary spikes.", default="the recipe's", names=encoding_names),
]

# --- how it is done ---------------------------------------------------------------------------------------------------

Device = Annotated[str, Option("cpu or cuda.", names=lambda: ("cpu", "cuda"))]
Timeout = Annotated[
    float, Option("Seconds that one run of the Lava subprocess may take.", flags=("--timeout",), least=1)
]
