"""`verify --junit` writes XML that GitHub, GitLab and Jenkins read: their names, their characters, nothing else."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import nctool
from nctool.verification.checks import Check, write_junit

CHECKS = (
    Check("file", "conv1", "passed"),
    Check("known answers", "file = reference", "passed", seconds=0.25),
    Check("reference = lava", "conv1", "failed", "spike is 1 in `a` & <b>\nsecond line", 1.5),
    Check("reference = lava", "fc1", "not run", "the file is not what was exported"),
)
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"classname", "name", "time"},
    "failure": {"type", "message"},
    "skipped": {"message"},
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase"},
    "testcase": {"failure", "skipped"},
    "failure": set(),
    "skipped": set(),
}
"""What we use of the schema of Jenkins (junit-10.xsd), which GitLab and the actions for GitHub read too."""


def written(path: Path, checks: tuple[Check, ...] = CHECKS, model: str = "runs/lenet/model.net") -> ET.Element:
    write_junit(path, model, checks)
    root = ET.parse(path).getroot()
    require_schema(root)
    return root


def require_schema(element: ET.Element) -> None:
    assert set(element.attrib) == ATTRIBUTES[element.tag]
    assert {child.tag for child in element} <= CHILDREN[element.tag]
    assert len(element) <= 1 or element.tag == "testsuite"
    for child in element:
        require_schema(child)


def test_one_suite_a_model_and_one_case_a_check(tmp_path: Path) -> None:
    root = written(tmp_path / "out.xml")
    (suite,) = root
    counts = {"tests": "4", "failures": "1", "errors": "0", "time": "1.750"}
    assert root.attrib == {"name": "nctool verify", **counts}
    assert suite.attrib == {"name": "runs/lenet/model.net", "skipped": "1", **counts}
    assert [case.attrib for case in suite] == [
        {"classname": "runs/lenet/model.file", "name": "conv1", "time": "0.000"},
        {"classname": "runs/lenet/model.known answers", "name": "file = reference", "time": "0.250"},
        {"classname": "runs/lenet/model.reference = lava", "name": "conv1", "time": "1.500"},
        {"classname": "runs/lenet/model.reference = lava", "name": "fc1", "time": "0.000"},
    ]


def test_a_failure_carries_its_text_and_a_check_that_was_not_run_its_reason(tmp_path: Path) -> None:
    cases = written(tmp_path / "out.xml").findall("testsuite/testcase")
    assert [[child.tag for child in case] for case in cases] == [[], [], ["failure"], ["skipped"]]
    failure, skipped = cases[2][0], cases[3][0]
    assert failure.attrib == {"type": "difference", "message": "spike is 1 in `a` & <b>"}
    assert failure.text == "spike is 1 in `a` & <b>\nsecond line"
    assert skipped.attrib == {"message": "the file is not what was exported"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[31m", r"a\x00b\x1b[31m"),
        ("\ud800 \udcff \ufffe", r"\xd800 \xdcff \xfffe"),
        ("θ − 𝄞 \x7f ]]> \"'", "θ − 𝄞 \x7f ]]> \"'"),
    ],
)
def test_characters_that_xml_cannot_hold_are_spelt_out(tmp_path: Path, text: str, shown: str) -> None:
    (suite,) = written(tmp_path / "out.xml", (Check(text, text, "failed", text),), text)
    assert suite.attrib["name"] == shown
    (case,) = suite
    assert (case.attrib["name"], case[0].attrib["message"], case[0].text) == (shown, shown, shown)


def test_names_are_unique_so_that_no_reader_drops_a_case(digits_model: Path, tmp_path: Path) -> None:
    nctool.verify(digits_model, engines=["reference", "fast"], junit=tmp_path / "out.xml")
    root = ET.parse(tmp_path / "out.xml").getroot()
    require_schema(root)
    cases = [(case.attrib["classname"], case.attrib["name"]) for case in root.iter("testcase")]
    assert len(set(cases)) == len(cases) == 5 + 2 + 1 + 4 + 2


def test_apart_from_times_it_is_the_same_each_time(digits_model: Path, tmp_path: Path) -> None:
    texts = []
    for name in ("one.xml", "two.xml"):
        nctool.verify(digits_model, engines=["reference", "fast"], junit=tmp_path / name)
        root = ET.parse(tmp_path / name).getroot()
        for element in root.iter():
            element.attrib.pop("time", None)
        texts.append(ET.tostring(root))
    assert texts[0] == texts[1]
