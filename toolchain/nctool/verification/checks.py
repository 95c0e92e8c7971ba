"""The list of everything that `verify` checks, each with its outcome.

In: a file's content and comparisons. Out: Checks, in the order in which they are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nctool.running.models import ModelFile
from nctool.verification.compare import FILE, REFERENCE, Comparison, Pair
from nctool.verification.counts import LogitDifferences, SpikeDifferences

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
    content: ModelFile, engines: Sequence[str], known: Comparison | None, run: Comparison | None
) -> tuple[Check, ...]:
    """List every check of a file.

    Args:
        engines: those that were to be compared.
        known: of the known answers; None for a file without any.
        run: of the engines; None when the file is not what was exported, so that they did not run.
    """
    checks = list(_file_checks(content))
    if known is not None:
        checks.append(_known(known))
    if run is not None:
        checks += _engine_checks(run)
    elif known is not None:
        checks += _not_run(engines, known)
    last = known if run is None else run
    if last is not None and not content.may_overflow:
        checks += _overflows(last)
    return tuple(checks)


def _file_checks(content: ModelFile) -> Iterator[Check]:
    for part in content.checked_parts:
        if part in content.unchecked_parts:
            yield Check(FILE, part, "not run", content.unchecked_parts[part])
        else:
            yield Check(FILE, part, _outcome(part in content.changes), content.changes.get(part, ""))


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
