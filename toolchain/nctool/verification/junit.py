"""Write the checks of `verify` as JUnit XML, as GitHub, GitLab and Jenkins read it.

In: a path, the name of the model, checks. Out: the file, whole or not at all; apart from the times, the same bytes for
the same outcome. Source of the element and attribute names: jenkinsci/xunit-plugin, `junit-10.xsd`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from nctool.files import write_atomically
from nctool.verification.checks import Check

OPTION = "--junit"
SUITES = "nctool verify"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped. Source: XML 1.0, production 2 (Char)."""


def write_junit(path: Path, model: str, checks: Sequence[Check]) -> None:
    """Write one test suite, named after the model, with one test case a check.

    Raises:
        UsageError: the file cannot be written.
    """
    document = _suites(model, checks)
    ET.indent(document)
    write_atomically(path, ET.tostring(document, encoding="utf-8", xml_declaration=True), OPTION)


def _suites(model: str, checks: Sequence[Check]) -> ET.Element:
    totals = {
        "tests": str(len(checks)),
        "failures": str(sum(check.outcome == "failed" for check in checks)),
        "errors": "0",
        "time": _seconds(sum(check.seconds for check in checks)),
    }
    suites = ET.Element("testsuites", {"name": SUITES, **totals})
    skipped = str(sum(check.outcome == "not run" for check in checks))
    suite = ET.SubElement(suites, "testsuite", {"name": _text(model), "skipped": skipped, **totals})
    suite.extend(_case(model, check) for check in checks)
    return suites


def _case(model: str, check: Check) -> ET.Element:
    """Return one test case; class name and name together tell it from those of other models, as GitLab needs it."""
    names = {"classname": _text(f"{model.removesuffix('.net')}.{check.group}"), "name": _text(check.name)}
    case = ET.Element("testcase", {**names, "time": _seconds(check.seconds)})
    message = _text(check.text.partition("\n")[0])
    if check.outcome == "failed":
        ET.SubElement(case, "failure", {"type": "difference", "message": message}).text = _text(check.text)
    if check.outcome == "not run":
        ET.SubElement(case, "skipped", {"message": message})
    return case


def _text(text: str) -> str:
    """Return text that XML can hold: characters that it cannot are spelt out in hexadecimal."""
    return NOT_XML.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
