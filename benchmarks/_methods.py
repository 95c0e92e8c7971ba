"""The ways to train a recipe that are compared with each other, and a folder of runs that is filled with them.

In: a recipe, methods, seeds, a folder. Out: one finished run for each method and seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nctool
from nctool.training import load_checkpoint
from nctool.training.checkpoints.names import CHECKPOINT_NAME, STATE_NAME
from nctool_models import load_recipe


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        title: of its rows; followed by the windows where there is a stage of fine-tuning.
        overrides: of the recipe, or of the fine-tuning.
        start: the method whose run is fine-tuned; None trains the recipe.
    """

    title: str
    overrides: Mapping[str, Any]
    start: str | None = None


DIRECT = "direct"
NO_NOISE = {"noise.source": "none", "noise.images": "clean"}
METHODS = {
    "relu": Method("ReLU, thresholds balanced", {"activation.function": "relu", **NO_NOISE}),
    "qcfs": Method("quantised, no noise (QCFS)", NO_NOISE),
    "nq": Method("quantised, noise (NQ)", {"noise.source": "ideal"}),
    "chip": Method("quantised, noise of the chip", {"noise.source": "chip"}),
    "finetuned": Method("NQ, fine-tuned", {}, start="nq"),
    "finetuned-4bit": Method("NQ, fine-tuned with 4-bit weights", {"finetune.weight_bits": 4}, start="nq"),
    DIRECT: Method("trained directly", {"training.epochs": 0, "training.schedule": "cosine", "noise.images": "clean"}),
}
"""By name, in the order of the table."""


@dataclass(frozen=True)
class Experiment:
    """Methods on one recipe.

    Attributes:
        recipe: its name or path.
        folder: of the runs, one subfolder each: RECIPE-METHOD-SEED.
        methods: keys of `METHODS`; one that another starts from is trained with it.
        seeds: of the runs.
        overrides: of the recipe, for all methods; those of its table `finetune` for those with fine-tuning.
        data_dir: of the data set.
    """

    recipe: str
    folder: Path
    methods: Sequence[str]
    seeds: Sequence[int]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None

    def runs(self) -> Iterator[tuple[str, Path]]:
        """Train what is not there yet; yield the method and the folder of each run."""
        for method in self.methods:
            for seed in self.seeds:
                yield method, self._run(method, seed)

    def _run(self, name: str, seed: int) -> Path:
        folder = self.folder / f"{Path(self.recipe).name.removesuffix('.toml')}-{name}-{seed}"
        start, resume = METHODS[name].start, (folder / STATE_NAME).exists()
        trained = None if start is None else self._run(start, seed)
        if (folder / CHECKPOINT_NAME).exists():
            self._require_same(folder, name, seed)
        elif trained is not None:
            overrides = self._settings(name)
            nctool.finetune(trained, folder, overrides=overrides, data_dir=self.data_dir, resume=resume)
        else:
            overrides = self._settings(name)
            nctool.train(self.recipe, folder, overrides=overrides, seed=seed, data_dir=self.data_dir, resume=resume)
        return folder

    def _require_same(self, folder: Path, name: str, seed: int) -> None:
        """Refuse a run that is there already but was trained by another recipe."""
        start = METHODS[name].start
        before = {} if start is None else {**self._settings(start), "finetune": {}}
        wanted = load_recipe(self.recipe, {**before, **self._settings(name)}, seed)
        found = load_checkpoint(folder).recipe
        if found.model_copy(update={"name": wanted.name, "description": wanted.description}) != wanted:
            raise SystemExit(f"{folder}: was trained by another recipe than `{name}` is here; give another --runs")

    def _settings(self, name: str) -> dict[str, Any]:
        """Return what a method's own run changes in its recipe, or in its fine-tuning."""
        method = METHODS[name]
        if method.start is not None:
            return {**self._overrides(finetune=True), **method.overrides}
        direct = self._direct() if name == DIRECT else {}
        return {**self._overrides(finetune=False), **method.overrides, **direct}

    def _overrides(self, finetune: bool) -> dict[str, Any]:
        return {key: value for key, value in self.overrides.items() if key.startswith("finetune.") is finetune}

    def _direct(self) -> dict[str, Any]:
        """Half the epochs, each of which runs several time steps, at the recipe's rate; or what `--set` says."""
        training = load_recipe(self.recipe, self._overrides(finetune=False)).training
        return {
            "finetune.epochs": -(-training.epochs // 2),
            "finetune.learning_rate": training.learning_rate,
            **self._overrides(finetune=True),
        }
