"""Try an installed nctool, in the environment of this Python: `light` what needs no torch, `full` the whole way.

scripts/smoke.sh runs it. It stops with an error where something is not as it should be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from PIL import Image

import nctool
from nctool.arguments import public
from nctool.reference.simulate import simulate
from nctool.running.arrays import Source
from nctool_deploy.netx import read
from nctool_models.zoo.networks import zoo


@public
def given(source: Source | None = None) -> Source | None:
    """Return an argument: its type is NumPy's, and another in each of its releases."""
    return source


def run(*words: object) -> str:
    """Run the installed command, and return what it prints."""
    command = [str(Path(sys.prefix) / "bin" / "nctool"), *map(str, words)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    require(ended.returncode == 0, f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stderr}")
    return ended.stdout


def require(holds: bool, what: str) -> None:
    """Stop where something does not hold."""
    if not holds:
        raise SystemExit(f"smoke: {what}")


def light() -> None:
    """Try what needs no torch: the lists, and the definition of what a network does."""
    require(Path(nctool.__file__).is_relative_to(sys.prefix), f"`{nctool.__file__}` is not the installed nctool")
    require(given("x.npy") == "x.npy" and given(Path("x")) == Path("x"), "samples are not taken")
    require(run("--version") == f"nctool {distribution('nctool').version}\n", "another version")
    require("run-sim" in run("--help"), "no help")
    require(len(json.loads(run("zoo", "--json"))["zoo"]) == len(zoo()) > 0, "no zoo")
    require("digits-cnn" in run("recipes") and "loihi2" in run("targets"), "no recipes or targets")
    for network in zoo():
        known = read(network.path).known_answers
        trace = simulate(read(network.path).network, known.pixels)
        require(np.array_equal(trace.logits, known.trace.logits), f"{network.name}: wrong logits")


def full() -> None:
    """Verify a network of the zoo, run one on an image file; train, export, verify and bundle one."""
    run("verify", f"zoo:{zoo()[0].name}", "--engines", "reference,fast")
    known = read(zoo()[-1].path).known_answers
    Image.fromarray(known.pixels[0, 0]).save("x.png")
    found = json.loads(run("run-sim", f"zoo:{zoo()[-1].name}", "--input", "x.png", "--json"))
    require(found["answers"] == [int(known.trace.logits[0, -1].argmax())], "another answer for an image")
    run("train", "digits-mlp", "-o", "run", "--set", "training.epochs=1")
    run("export", "run", "--target", "loihi", "--steps", "2", "-o", "m.net")
    require(json.loads(run("verify", "m.net", "--engines", "reference,fast", "--json"))["equal"], "engines differ")
    run("bundle", "m.net", "-o", "bundle")


def main(kind: str) -> None:
    """Try one kind after the other."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        light()
        if kind == "full":
            full()
    sys.stdout.write(f"smoke: Python {sys.version.split()[0]}, {kind}: it works\n")


if __name__ == "__main__":
    main(sys.argv[1])
