"""Make the networks of the zoo anew, each from its recipe and seed, and compare them with those that nctool ships.

    python benchmarks/zoo.py [--only NAMES] [--runs DIR] [--data-dir DIR] [--write]

Each network of `models/nctool_models/zoo/zoo.toml` is trained, fine-tuned where that is said, exported, and run on all
test images of its data set with the fast engine. Finished runs in the folder --runs are kept. `same_layers` says
whether the integers are those of the shipped file; on another processor or torch training may give others. With
--write the files, and what was measured, take the place of those that are shipped.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w

import nctool
from _common import commit, environment
from nctool.recipe.overrides import parse_overrides
from nctool.toml import DocumentKind, parse_document
from nctool_deploy.netx import read
from nctool_models.zoo.networks import FACTS, FOLDER

MADE_BY = ("description", "recipe", "seed", "finetune", "export")
"""Keys that say how a network is made; the others are measured."""

TRAINED = "checkpoint.safetensors"
COMMIT = commit() or "unknown"
"""Before anything is written."""


def make(name: str, facts: dict[str, Any], runs: Path, data_dir: Path | None) -> tuple[Path, dict[str, Any]]:
    """Train, export and measure one network; return its file and its entry in zoo.toml."""
    run = runs / f"{facts['recipe']}-{facts['seed']}"
    if not (run / TRAINED).exists():
        nctool.train(facts["recipe"], run, seed=facts["seed"], data_dir=data_dir)
    if "finetune" in facts:
        start, run = run, runs / f"{name}-finetuned"
        if not (run / TRAINED).exists():
            nctool.finetune(start, run, overrides=parse_overrides(facts["finetune"]), data_dir=data_dir)
    exported = nctool.export(run, runs / f"{name}.net", **facts["export"])
    ran = nctool.run_sim(exported.path, data_dir=data_dir)
    measured = {
        "dataset": ran.dataset.removesuffix("/test"),
        "samples": ran.samples,
        "steps": ran.steps,
        "accuracy_ann": _accuracy_ann(run),
        "cores": exported.cores,
        "size": exported.path.stat().st_size,
        "sha256": sha256(exported.path.read_bytes()).hexdigest(),
        "commit": COMMIT,
        "accuracy": ran.accuracy,
    }
    said = {key: facts[key] for key in MADE_BY if key in facts}
    made_of = said.pop("export")  # tables stand last in a TOML table
    return exported.path, {**said, **measured, "export": made_of}


def _accuracy_ann(run: Path) -> float:
    from nctool.training import load_checkpoint

    return float(load_checkpoint(run).results["accuracy_ann"])


def same_layers(made: Path, shipped: Path) -> bool | None:
    """Return whether two files hold the same network; None where none is shipped yet."""
    return read(made).network == read(shipped).network if shipped.exists() else None


def _write(entries: dict[str, dict[str, Any]], text: str) -> None:
    """Put the entries in place of those of the same names in zoo.toml, below its comment."""
    comment = text.partition("\n\n")[0]
    FACTS.write_text(f"{comment}\n\n{tomli_w.dumps(entries)}", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAMES")
    parser.add_argument("--runs", type=Path, help="folder of the runs; a temporary one by default")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Make the networks that were asked for."""
    options = _arguments()
    text = FACTS.read_text(encoding="utf-8")
    entries = parse_document(text, DocumentKind("zoo", ValueError, ""), FACTS.name)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only or list(entries):
            path, entry = make(name, entries[name], options.runs or Path(temporary), options.data_dir)
            shipped = FOLDER / path.name
            found[name] = {key: entry[key] for key in entry if key not in MADE_BY} | {
                "same_bytes": shipped.exists() and shipped.read_bytes() == path.read_bytes(),
                "same_layers": same_layers(path, shipped),
            }
            print(f"{name}: {json.dumps(found[name])}")
            if options.write:
                shutil.copyfile(path, shipped)
                entries[name] = entry
    if options.write:
        _write(entries, text)
    print(json.dumps({"zoo": found, "commit": COMMIT, **environment()}))


if __name__ == "__main__":
    main()
