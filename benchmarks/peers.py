"""Speed of `fast` against SpikingJelly, snnTorch and sinabs: LeNet and small VGG, T = 4, CPU, batches of 64 and of 1.

    python benchmarks/peers.py [--environment DIR] [--images N] [--repeat R]

The other libraries live in an environment of their own, with nctool beside them (`make peers`): one process, one
torch, the same threads. Each library runs the same float network, with random weights, in its documented ways; the
fastest way of each counts. All take turns with `fast`, which runs a converted network of the same sizes. Batches are of
64 images, and of one: there `fast` is prepared once and called with one image after the other, as the others are.
Before that a small network is compared with the reference engine spike for spike (`_peer_check.py`). The last line of
stdout is one JSON object. Its key `fast_over_best_peer` holds for each network and batch how many times as fast `fast`
is as the fastest way of all, by wall time; `fast_over_best_peer_cpu` the same by the time of the processor. It is null,
with a reason, where the environment is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ENVIRONMENT = Path(__file__).parents[1] / ".venv-peers"
N_STEPS = 4
BATCHES = (1, 64)
ONE_BY_ONE = 16
"""Images that are run one by one."""


def measure(environment: Path, options: list[str]) -> dict[str, Any]:
    """Run this script in `environment` and return its result, or the reason why there is none."""
    python = environment / "bin" / "python"
    if not python.is_file():
        return _no_result(f"no environment `{environment}`: make it with `make peers`")
    command = [str(python), __file__, *options]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    except subprocess.CalledProcessError as error:
        return _no_result(f"the benchmark failed in `{environment}`: exit code {error.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _no_result(reason: str) -> dict[str, Any]:
    print(f"peers: {reason}", file=sys.stderr)
    return {"fast_over_best_peer": None, "reason": reason}


def measure_here(n_images: int, repeat: int) -> dict[str, Any]:
    """Time `fast` and every way of every library, in turns; they are installed in this environment."""
    from _common import environment
    from _peer_check import Shapes, check_peers
    from _peer_networks import LIBRARIES
    from nctool.recipe.schema import LenetSettings, SmallVggSettings

    check_peers(N_STEPS)
    wide = tuple((channels, 3, 1, pooled) for channels in (32, 64, 128) for pooled in (False, True))
    networks = {
        "small-vgg": (SmallVggSettings(architecture="small-vgg"), Shapes((3, 32, 32), wide)),
        "mnist-lenet": (
            LenetSettings(architecture="lenet"),
            Shapes((1, 28, 28), ((6, 5, 2, True), (16, 5, 0, True)), (120, 84)),
        ),
    }
    cases = {name: _measure_network(*sizes, n_images, repeat) for name, sizes in networks.items()}

    def ratios(clock: str) -> dict[str, dict[str, float]]:
        return {name: {batch: row[clock] for batch, row in rows.items()} for name, rows in cases.items()}

    return {
        "fast_over_best_peer": ratios("fast_over_best_peer"),
        "fast_over_best_peer_cpu": ratios("fast_over_best_peer_cpu"),
        "networks": cases,
        "versions": {name: version(name) for name in LIBRARIES},
        **environment(),
    }


def _measure_network(settings: Any, shapes: Any, n_images: int, repeat: int) -> dict[str, dict[str, Any]]:
    """Return a row for each batch, of `fast` and all peers on one network."""
    import torch

    from _common import random_pixels, to_integers, zoo_model
    from _peer_check import integer_layers
    from _peer_networks import all_peers
    from nctool.fast.engine import FastEngine

    pixels = random_pixels(n_images, shapes.input)
    engine = FastEngine(to_integers(zoo_model(settings, shapes.input), pixels[:16], N_STEPS))
    peers = all_peers(integer_layers(shapes), N_STEPS)
    with torch.inference_mode():
        _require_equal(peers, [peer.run(_numbers(pixels[:8])) for peer in peers])
        return {f"batch {batch}": _measure_batch(engine, peers, pixels, batch, repeat) for batch in BATCHES}


def _measure_batch(engine: Any, peers: list[Any], pixels: Any, batch: int, repeat: int) -> dict[str, Any]:
    from _common import times_side_by_side
    from _peer_networks import LIBRARIES

    pixels = pixels[: ONE_BY_ONE if batch == 1 else len(pixels)]
    images = _numbers(pixels).split(batch)
    calls = [pixels[number : number + 1] for number in range(len(pixels))] if batch == 1 else [pixels]

    def run(peer: Any) -> None:
        for part in images:
            peer.run(part)

    def run_fast() -> None:
        for call in calls:
            list(engine.summaries(call))

    actions = {(peer.library, peer.option): partial(run, peer) for peer in peers} | {("fast", ""): run_fast}
    times = times_side_by_side(actions, repeat)
    fastest = {
        name: min((key for key in times if key[0] == name), key=lambda key: times[key].wall)
        for name in ("fast", *LIBRARIES)
    }
    others = [spent for (library, _), spent in times.items() if library != "fast"]
    fast = times["fast", ""]
    return {
        "fast_over_best_peer": min(other.wall for other in others) / fast.wall,
        "fast_over_best_peer_cpu": min(other.cpu for other in others) / fast.cpu,
        "images_per_second": {name: len(pixels) / times[key].wall for name, key in fastest.items()},
        "fastest_way": {name: fastest[name][1] for name in LIBRARIES},
        "every_way": {", ".join(filter(None, key)): len(pixels) / spent.wall for key, spent in times.items()},
        "images": len(pixels),
    }


def _numbers(pixels: Any) -> Any:
    """Return what the other libraries take, float32 -2..2."""
    import torch

    return torch.from_numpy(pixels % 5).float().sub_(2)


def _require_equal(peers: list[Any], logits: list[Any]) -> None:
    """Refuse to time networks that do not compute the same."""
    for peer, values in zip(peers, logits, strict=True):
        if not values.equal(logits[0]):
            raise SystemExit(f"{peer.library}, {peer.option}: logits differ from {peers[0].library}")


def print_tables(result: dict[str, Any]) -> None:
    """Print a Markdown table for each network and batch."""
    for network, rows in result["networks"].items():
        for batch, row in rows.items():
            print(f"\n| {network}, {batch} | way | images/s | `fast` over it |\n|---|---|---|---|")
            fast = row["images_per_second"]["fast"]
            for name, speed in row["images_per_second"].items():
                label = f"{name} {result['versions'].get(name, '')}".strip()
                print(f"| {label} | {row['fastest_way'].get(name, '')} | {speed:,.0f} | {fast / speed:.2f} |")


def main() -> None:
    """Measure here when the libraries are here, else in their environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if find_spec("spikingjelly"):
        result = measure_here(arguments.images, arguments.repeat)
    else:
        options = [f"--{name}={getattr(arguments, name)}" for name in ("images", "repeat")]
        result = measure(arguments.environment, options)
        if "networks" in result:
            print_tables(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
