"""The engines by name: each turns an exported file and pixels into traces, batch by batch.

In: an engine's name, a file, samples. Out: an iterator of traces. Loads torch where the fast engine runs only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nctool.errors import UsageError
from nctool.ir.inputs import Samples
from nctool.ir.network import IntNetwork
from nctool.reference import simulate as reference
from nctool.reference.trace import Summary, Trace
from nctool.running.model_file import ModelFile
from nctool_deploy.lava import engine as lava


@dataclass(frozen=True)
class Job:
    """A file and samples for an engine to run.

    Args:
        path: the file.
        content: the content of the file.
        pixels: uint8 (samples, *input shape); for a file of another tool the integers that `IntegerInput.signal` takes.
        device: `cpu` or `cuda`, for the fast engine.
        timeout_s: seconds that one run of a subprocess may take.
        potentials: also keep membrane potentials; only the reference engine does so.
    """

    path: Path
    content: ModelFile
    pixels: Samples
    device: str = "cpu"
    timeout_s: float = lava.DEFAULT_TIMEOUT_S
    potentials: bool = False

    @property
    def network(self) -> IntNetwork:
        """Return the network."""
        return self.content.network


def _reference(job: Job) -> Iterator[Trace]:
    return reference.stream(job.network, job.pixels, potentials=job.potentials)


def _fast(job: Job) -> Iterator[Trace]:
    from nctool.fast.engine import FastEngine

    return FastEngine(job.network, device=job.device).traces(job.pixels)


def _lava(job: Job) -> Iterator[Trace]:
    options = job.content.foreign_options
    return lava.stream(job.path, job.network, job.pixels, foreign_options=options, timeout_s=job.timeout_s)


ENGINES: dict[str, Callable[[Job], Iterator[Trace]]] = {"reference": _reference, "fast": _fast, "lava": _lava}


def traces(name: str, job: Job) -> Iterator[Trace]:
    """Run `job` on the engine called `name` and yield every spike, batch by batch."""
    require_engine(name)
    return ENGINES[name](job)


def summaries(name: str, job: Job) -> Iterator[Summary]:
    """Run `job` on the engine called `name` and yield logits and counts, batch by batch."""
    require_engine(name)
    if name == "fast":
        from nctool.fast.engine import FastEngine

        return FastEngine(job.network, device=job.device).summaries(job.pixels)
    return (trace.summary() for trace in ENGINES[name](job))


def require_engine(name: str, device: str = "cpu") -> None:
    """Refuse an engine that does not exist, or one that does not run on `device`, with a UsageError."""
    if name not in ENGINES:
        raise UsageError(f"unknown engine `{name}`, allowed {', '.join(ENGINES)}")
    if device != "cpu" and name != "fast":
        raise UsageError(f"engine `{name}` runs on the CPU only, got device `{device}`", hint="use --engine fast")
