"""List everything that `verify` checks, each with its outcome, and write the list as JUnit XML.

JUnit XML is what GitHub, GitLab and Jenkins read. Apart from the times, the same outcome gives the same bytes. Source
of the element and attribute names: jenkinsci/xunit-plugin, `junit-10.xsd`.

In: a file's content and comparisons. Out: Checks, in the order in which they are made; a file, whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

from nctool.files import write_atomically
from nctool.running.model_file import ModelFile
from nctool.verification.compare import FILE, REFERENCE, Comparison, Pair
from nctool.verification.counts import LogitCounts, SpikeCounts

JUNIT_OPTION = "--junit"
SUITES = "nctool verify"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped. Source: XML 1.0, production 2 (Char)."""

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Check:
    """One thing to prove, and its outcome.

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
    texts = [str(pair.first), *(layer.describe() for layer in pair.counts.layers if layer.differing)]
    failed = pair.first is not None
    return Check(
        "known answers", f"{FILE} = {REFERENCE}", _outcome(failed), "\n".join(texts) if failed else "", seconds
    )


def _engine_checks(run: Comparison) -> Iterator[Check]:
    for pair in run.pairs:
        compared = pair.counts
        seconds = run.seconds[compared.actual_by] + run.seconds[compared.expected_by] / len(run.pairs)
        for layer in compared.layers:
            text = "" if layer.differing == 0 else _text(layer, pair)
            group = f"{compared.expected_by} = {compared.actual_by}"
            yield Check(group, layer.title, _outcome(bool(text)), text, seconds / len(compared.layers))


def _text(layer: SpikeCounts | LogitCounts, pair: Pair) -> str:
    """Describe what differs in a layer, after the first divergence if that is where it lies."""
    here = pair.first is not None and (pair.first.layer, pair.first.quantity) == (layer.layer, layer.quantity)
    return f"{pair.first}\n{layer.describe()}" if here else layer.describe()


def _not_run(engines: Sequence[str], known: Comparison) -> Iterator[Check]:
    for engine in engines[1:]:
        for layer in known.pairs[0].counts.layers:
            yield Check(f"{engines[0]} = {engine}", layer.title, "not run", "the file is not what was exported")


def _overflows(run: Comparison) -> Iterator[Check]:
    for engine, count in run.overflows.items():
        text = f"{count} accumulated inputs left the accumulator in `{engine}`, allowed 0" if count else ""
        yield Check("overflow", engine, _outcome(count > 0), text)
    if not run.overflows:
        yield Check("overflow", ", ".join(run.seconds), "not run", "no engine that was run counts them")


def _outcome(failed: bool) -> Outcome:
    return "failed" if failed else "passed"


# --- JUnit XML ------------------------------------------------------------


def write_junit(path: Path, model: str, checks: Sequence[Check]) -> None:
    """Write one test suite, named after the model, with one test case a check.

    Raises:
        UsageError: the file cannot be written.
    """
    document = _suites(model, checks)
    ET.indent(document)
    write_atomically(path, ET.tostring(document, encoding="utf-8", xml_declaration=True), JUNIT_OPTION)


def _suites(model: str, checks: Sequence[Check]) -> ET.Element:
    totals = {
        "tests": str(len(checks)),
        "failures": str(sum(check.outcome == "failed" for check in checks)),
        "errors": "0",
        "time": _seconds(sum(check.seconds for check in checks)),
    }
    suites = ET.Element("testsuites", {"name": SUITES, **totals})
    skipped = str(sum(check.outcome == "not run" for check in checks))
    suite = ET.SubElement(suites, "testsuite", {"name": _xml_text(model), "skipped": skipped, **totals})
    suite.extend(_case(model, check) for check in checks)
    return suites


def _case(model: str, check: Check) -> ET.Element:
    """Return one test case; class name and name together tell it from those of other models, as GitLab needs it."""
    names = {"classname": _xml_text(f"{model.removesuffix('.net')}.{check.group}"), "name": _xml_text(check.name)}
    case = ET.Element("testcase", {**names, "time": _seconds(check.seconds)})
    message = _xml_text(check.text.partition("\n")[0])
    if check.outcome == "failed":
        ET.SubElement(case, "failure", {"type": "difference", "message": message}).text = _xml_text(check.text)
    if check.outcome == "not run":
        ET.SubElement(case, "skipped", {"message": message})
    return case


def _xml_text(text: str) -> str:
    """Return text that XML can hold: characters that it cannot are spelt out in hexadecimal."""
    return NOT_XML.sub(lambda character: f"\\x{ord(character.group()):02x}", text)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
