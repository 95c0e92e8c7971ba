"""Speed of `fast` against SpikingJelly, snnTorch and sinabs: small VGG on 32x32x3 images, T = 4, CPU.

    python benchmarks/peers.py [--environment DIR] [--images N] [--batch N] [--repeat R]

The other libraries live in an environment of their own, with nctool beside them (`make peers`): one process, one
torch, the same threads. Each library runs the same float network, with random weights, in its documented ways; the
fastest way of each counts. All take turns with `fast`, which runs a converted small VGG. Before that a small network
is compared with the reference engine spike for spike (`_peer_check.py`). The last line of stdout is one JSON object;
`fast_over_best_peer` is null, with a reason, where the environment is missing.
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
SHAPE = (3, 32, 32)
CHANNELS = [(32, False), (32, True), (64, False), (64, True), (128, False), (128, True)]
"""Convolutions of small VGG, pooled or not."""


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


def measure_here(n_images: int, batch: int, repeat: int) -> dict[str, Any]:
    """Time `fast` and every way of every library, in turns; they are installed in this environment."""
    import torch

    from _common import environment, random_pixels, side_by_side, to_integers, zoo_model
    from _peer_check import check_peers, integer_layers
    from _peer_networks import LIBRARIES, all_peers
    from nctool.fast.engine import FastEngine
    from nctool.recipe.schema import SmallVggSettings

    check_peers(N_STEPS)
    pixels = random_pixels(n_images, SHAPE)
    model = zoo_model(SmallVggSettings(architecture="small-vgg"), SHAPE)
    engine = FastEngine(to_integers(model, pixels[:16], N_STEPS))
    peers = all_peers(integer_layers(SHAPE, CHANNELS, 10), N_STEPS)
    images = torch.from_numpy(pixels % 5).float().sub_(2)

    def run(peer: Any) -> Any:
        return torch.cat([peer.run(part) for part in images.split(batch)])

    with torch.inference_mode():
        _require_equal(peers, [peer.run(images[:8]) for peer in peers])
        actions = {(peer.library, peer.option): partial(run, peer) for peer in peers}
        times = side_by_side(actions | {("fast", ""): lambda: list(engine.summaries(pixels))}, repeat)
    fastest = {name: min((key for key in times if key[0] == name), key=times.get) for name in ("fast", *LIBRARIES)}
    speed = {name: n_images / times[key] for name, key in fastest.items()}
    return {
        "fast_over_best_peer": speed["fast"] / max(speed[name] for name in LIBRARIES),
        "images_per_second": speed,
        "fastest_way": {name: fastest[name][1] for name in LIBRARIES},
        "every_way": {", ".join(filter(None, key)): n_images / time for key, time in times.items()},
        "versions": {name: version(name) for name in LIBRARIES},
        "batch": {"fast": engine.batch, "peers": batch},
        "images": n_images,
        **environment(),
    }


def _require_equal(peers: list[Any], logits: list[Any]) -> None:
    """Refuse to time networks that do not compute the same."""
    for peer, values in zip(peers, logits, strict=True):
        if not values.equal(logits[0]):
            raise SystemExit(f"{peer.library}, {peer.option}: logits differ from {peers[0].library}")


def print_table(result: dict[str, Any]) -> None:
    """Print a Markdown table."""
    print("| engine | way | images/s | `fast` over it |\n|---|---|---|---|")
    fast = result["images_per_second"]["fast"]
    for name, speed in result["images_per_second"].items():
        label = f"{name} {result['versions'].get(name, '')}".strip()
        way = result["fastest_way"].get(name, f"batch {result['batch']['fast']}")
        print(f"| {label} | {way} | {speed:,.0f} | {fast / speed:.2f} |")


def main() -> None:
    """Measure here when the libraries are here, else in their environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64, help="of the other libraries; `fast` chooses its own")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if find_spec("spikingjelly"):
        result = measure_here(arguments.images, arguments.batch, arguments.repeat)
    else:
        options = [f"--{name}={getattr(arguments, name)}" for name in ("images", "batch", "repeat")]
        result = measure(arguments.environment, options)
        if "images_per_second" in result:
            print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
