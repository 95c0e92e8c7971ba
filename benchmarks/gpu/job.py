"""All that a GPU has to say about nctool, in a few minutes: exactness, times, and ResNet-18 on CIFAR-10.

    python benchmarks/gpu/job.py --data cifar10_jpeg.npz --out DIR [--device cuda|cpu] [--minutes 10] [--tiny] [--plan]

Its stages, in this order: facts of the machine; the fast engine against the reference engine, bit for bit; times of the
fast engine and of a training step; the plan, from measured epochs; training; fine-tuning for few time steps; exported
integers on the whole test split. Each knows how much time is left, and does less where there is little. What is found
is on disk at once: `results.jsonl` and `log.txt` in DIR, a Markdown `table.md`, networks and runs. README.md beside
this file says more, and how to bring all that is needed to a machine without a network.

The last line of stdout is one JSON object: what each stage found, by its name. Exit code 1: a stage failed, or the
engines differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import _exact
import _integers
import _speed
import _training
from _common import commit, environment
from _images import read_packed, write_data_sets
from _progress import Budget, Record
from nctool.activation import gpu_trial
from nctool.errors import RecipeError
from nctool.recipe.overrides import parse_overrides
from nctool_models.recipes.load import load_recipe

COMPILED = "nctool.fast.fused, nctool.conversion.quantise.fused, nctool.conversion.post_training.fused"
"""Modules of loops that Numba compiles when they are first imported."""


def machine(device: str, tree: str | None) -> dict[str, Any]:
    """Return what the job runs on, and the commit of the code: `tree` where that was given."""
    found: dict[str, Any] = {
        "device": device,
        "gpu": None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processors": len(os.sched_getaffinity(0)),
        "numba": find_spec("numba") is not None,
        "commit": tree or commit(),
        **environment(),
    }
    if device == "cuda":
        gpu = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gb": properties.total_memory / 2**30,
            "capability": list(torch.cuda.get_device_capability(0)),
            "no_activation_kernels": {str(dtype): gpu_trial.failure(gpu, dtype) for dtype in gpu_trial.TYPES},
        }
    return found


def compiling() -> subprocess.Popen[bytes]:
    """Begin to compile the loops of conversion, whose machine code is kept on disk: on a new machine, half a minute."""
    return subprocess.Popen([sys.executable, "-c", f"import {COMPILED}"], stderr=subprocess.DEVNULL)


class Stages:
    """Runs the stages one by one; one that fails is told, and does not keep the next from running."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.failed: list[str] = []

    def run(self, name: str, action: Callable[[], Any]) -> Any:
        """Return what a stage gives, None where it failed."""
        self._record.say(f"{name}: {self._record.budget.left(name):.0f} s")
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next stage may work
            self.failed.append(name)
            self._record.note(f"failed {name}", {"error": f"{type(error).__name__}: {error}"})
            self._record.say(f"{name}: FAILED\n{traceback.format_exc()}")
            return None
        finally:  # of a signal too
            if "trained" in self._record.found:
                (self._record.folder / "table.md").write_text(_integers.table(self._record.found), encoding="utf-8")


def run(options: argparse.Namespace) -> int:
    """Run all stages, write the table and the last line of stdout; return the exit code."""
    runs, networks = options.out / "runs", options.out / "networks"
    for folder in (runs, networks):
        folder.mkdir(parents=True, exist_ok=True)
    record = Record(options.out, Budget(60 * options.minutes))
    stages = Stages(record)
    device, tiny = options.device, options.tiny
    stages.run("machine", lambda: record.note("machine", machine(device, options.commit) | {"rehearsal": tiny}))
    if not options.plan:
        ahead = compiling()
        stages.run("exact", lambda: _exact.compare(device, tiny, record, ready=ahead.wait))
        stages.run("speed", lambda: _speed.measure(device, tiny, record))
    data = stages.run("data", lambda: write_data_sets(options.data, runs, tiny))
    job = _training.Job(device, tiny, runs, data or {}, parse_overrides(options.overrides), record)
    planned = stages.run("plan", lambda: _training.plan(job, alone=options.plan)) if data else None
    if planned and not options.plan:
        stages.run("train", lambda: _training.train(job, planned["trained"]))
        stages.run("finetune", lambda: _training.finetune(job, planned))
        stages.run("integers", lambda: _integers.evaluate(runs, networks, data["whole"], device, record))
    record.say(f"done; failed: {', '.join(stages.failed) or 'none'}")
    print(json.dumps({**record.found, "failed": stages.failed, "seconds": record.budget.spent}))
    equal = all(record.found.get(stage, {}).get("equal", True) for stage in ("exact", "same"))
    return 0 if equal and not stages.failed else 1


def main() -> int:
    """Run the job that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as JPEG files in one .npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is found; a new one")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of the whole job")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--commit", help="of the code, where git or its folder is not there")
    parser.add_argument("--tiny", action="store_true", help="rehearse: ResNet-8, a few hundred images, an epoch each")
    parser.add_argument("--plan", action="store_true", help="measure epochs, print the plan and end")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that torch can use here; rehearse with --device cpu --tiny")
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes {options.minutes}: allowed: a number above 0")
    try:
        read_packed(options.data)
        load_recipe(_training.RECIPE, parse_overrides(options.overrides))
        options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, RecipeError, OSError) as error:
        parser.error(str(error))
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out}: holds files, allowed: a new folder")
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
