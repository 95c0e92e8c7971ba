"""The list of everything that `verify` checks, each with its outcome.

In: a file's content and comparisons. Out: Checks, in the order in which they are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nctool.ir.network import INPUT_NAME
from nctool.running.models import Content
from nctool.verification.compare import FILE, REFERENCE, Comparison, Pair
from nctool.verification.counts import LogitDifferences, SpikeDifferences
from nctool_deploy.foreign import ForeignFile
from nctool_deploy.netx import METADATA, PROVED_BOUNDS, NetxFile

NO_DIGEST = (
    f"an older nctool wrote no digest of `{METADATA}`: class names, target, weight bits and calibrated bounds may have "
    "changed"
)

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Check:
    """One thing that was to be proved.

    Args:
        group: `file`, `known answers`, `overflow`, or two engines, `reference = lava`.
        name: the layer or engine that it is about.
        outcome: `passed`, `failed` or `not run`.
        text: what was found, or why it was not run; empty when passed.
        seconds: wall time. An engine's time is shared evenly among the layers that it was compared by, and that of the
            standard among all of them.
    """

    group: str
    name: str
    outcome: Outcome
    text: str = ""
    seconds: float = 0.0


def all_checks(
    content: Content, engines: Sequence[str], known: Comparison | None, run: Comparison | None
) -> tuple[Check, ...]:
    """List every check of a file.

    Args:
        engines: those that were to be compared.
        known: of the known answers; None for a foreign file, which has none.
        run: of the engines; None when the file is not what was exported, so that they did not run.
    """
    if known is None or isinstance(content, ForeignFile):
        return () if run is None else tuple(_engine_checks(run))
    compared = _not_run(engines, known) if run is None else _engine_checks(run)
    return (*_file_checks(content), _known(known), *compared, *_overflows(known if run is None else run))


def changes(content: Content) -> Mapping[str, str]:
    """Return what is not as it was exported, by the name of its check; a foreign file says nothing of that."""
    return {} if isinstance(content, ForeignFile) else content.changes


def _file_checks(content: NetxFile) -> Iterator[Check]:
    layers = (INPUT_NAME, *(population.name for population in content.network.populations))
    for name in (*layers, METADATA, PROVED_BOUNDS):
        if name == METADATA and content.metadata_changed is None:
            yield Check(FILE, name, "not run", NO_DIGEST)
        else:
            yield Check(FILE, name, _outcome(name in content.changes), content.changes.get(name, ""))


def _known(known: Comparison) -> Check:
    (pair,), seconds = known.pairs, known.seconds[REFERENCE]
    texts = [str(pair.first), *(describe(layer) for layer in pair.differences.layers if layer.differing)]
    failed = pair.first is not None
    return Check(
        "known answers", f"{FILE} = {REFERENCE}", _outcome(failed), "\n".join(texts) if failed else "", seconds
    )


def _engine_checks(run: Comparison) -> Iterator[Check]:
    for pair in run.pairs:
        compared = pair.differences
        seconds = run.seconds[compared.actual_by] + run.seconds[compared.expected_by] / len(run.pairs)
        for layer in compared.layers:
            text = "" if layer.differing == 0 else _text(layer, pair)
            group = f"{compared.expected_by} = {compared.actual_by}"
            yield Check(group, layer.title, _outcome(bool(text)), text, seconds / len(compared.layers))


def _text(layer: SpikeDifferences | LogitDifferences, pair: Pair) -> str:
    """Describe what differs in a layer, after the first divergence if that is where it lies."""
    quantity = "logit" if isinstance(layer, LogitDifferences) else "spike"
    here = pair.first is not None and (pair.first.layer, pair.first.quantity) == (layer.layer, quantity)
    return f"{pair.first}\n{describe(layer)}" if here else describe(layer)


def _not_run(engines: Sequence[str], known: Comparison) -> Iterator[Check]:
    for engine in engines[1:]:
        for layer in known.pairs[0].differences.layers:
            yield Check(f"{engines[0]} = {engine}", layer.title, "not run", "the file is not what was exported")


def _overflows(run: Comparison) -> Iterator[Check]:
    for engine, count in run.overflows.items():
        text = f"{count} accumulated inputs left the accumulator in `{engine}`, allowed 0" if count else ""
        yield Check("overflow", engine, _outcome(count > 0), text)
    if not run.overflows:
        yield Check("overflow", ", ".join(run.seconds), "not run", "no engine that was run counts them")


def _outcome(failed: bool) -> Outcome:
    return "failed" if failed else "passed"


def describe(layer: SpikeDifferences | LogitDifferences) -> str:
    """Return one line that says how a layer differs."""
    what = "logits" if isinstance(layer, LogitDifferences) else "spike values"
    where = (
        f"layer `{layer.layer}`: {layer.differing:,} of {layer.compared:,} {what} differ, in {layer.samples} samples, "
        f"from step {layer.first_step}"
    )
    if isinstance(layer, LogitDifferences):
        return f"{where}; {layer.changed_predictions} predictions change, largest difference {layer.largest:,}"
    counts = ", ".join(f"{name} in {count:,}" for name, count in layer.count_differences.items() if count)
    return f"{where}; neurons whose spike counts are off by {counts}"
