"""What docs/SEMANTICS.md works out is what the reference engine and the registers give; each rule has its limits."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

from nctool.conversion.input_encoding import RATE_THRESHOLD
from nctool.ir.checks import MOST_PLACES
from nctool.ir.inputs import INPUT_LIMIT, LARGEST_RATE_THRESHOLD
from nctool.ir.number_format import ACCUMULATOR_LIMIT, LONGEST_WINDOW
from nctool.ir.population import (
    CONVOLUTION_BITS,
    DENSE_BITS,
    LARGEST_DELAY,
    LARGEST_EXPONENT,
    MANTISSA_LIMIT,
    PAYLOAD_LIMIT,
)
from nctool_deploy.backends.bias_sources import BIAS_LIMIT
from nctool_deploy.backends.number_formats import (
    BIAS_MANTISSA,
    CONVOLUTION_GEOMETRY,
    CONVOLUTION_SUM,
    GRADED_SUM,
    PAYLOAD,
    SHIFT,
    SYNAPSE_EXPONENT,
    SYNAPSE_MANTISSA,
    THRESHOLD,
    NumberFormat,
)
from tests.support.markdown import Block, page_text, rows, sections
from tests.support.worked_examples import KNOWN, examples, expected, results

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RULES = re.findall(r"^\*\*([A-Z]\d) ", page_text("SEMANTICS.md"), re.MULTILINE)


def spoken_range(numbers: NumberFormat) -> str:
    """Return a range as the page writes it."""
    return f"{numbers.low} … {numbers.high}".replace("-", "−")


def assert_same(found: Any, said: Any, what: str) -> None:
    """Compare a result, arrays without their axes of length 1."""
    if isinstance(said, str) or what.endswith("sources"):
        assert found == said, what
    else:
        np.testing.assert_array_equal(np.squeeze(found), np.squeeze(said), what)


@pytest.mark.parametrize("block", examples(), ids=lambda block: f"{block.value}:{block.place}")
def test_a_worked_example_is_what_the_engine_gives(block: Block) -> None:
    content = tomllib.loads(block.text)
    parts = [content, *content.get("population", [])]
    assert set().union(*parts) <= KNOWN, "a key that nothing reads"
    said, found = expected(content), results(content)
    assert said, "nothing to compare"
    assert ("refused" in found) == ("refused" in said), found.get("refused")
    for key, value in said.items():
        assert_same(found[key], value, key)


LIMITS = [row for title in sections("SEMANTICS.md") for row in rows(sections("SEMANTICS.md")[title]) if row[0] in RULES]


def test_every_rule_has_a_worked_example_and_its_limits() -> None:
    shown = {rule for block in examples() for rule in block.value.split(", ")}
    assert len(RULES) == len(set(RULES)) > 40
    assert sorted(shown) == sorted(RULES) == sorted({row[0] for row in LIMITS})


@pytest.mark.parametrize(
    ("rule", "limits"),
    [
        ("N3", [f"below 2{'⁵³'}"]),
        ("I2", [f"−{INPUT_LIMIT} … {INPUT_LIMIT}"]),
        ("I4", [f"1 … {LARGEST_RATE_THRESHOLD}; {RATE_THRESHOLD} of a converted network"]),
        ("W2", [f"{MOST_PLACES:,} at most"]),
        ("W3", [f"0 … {LARGEST_EXPONENT}; −{LARGEST_EXPONENT} … {LARGEST_EXPONENT} into"]),
        ("W4", [f"0 … {LARGEST_DELAY},"]),
        ("W5", [f"{CONVOLUTION_BITS} or {DENSE_BITS} bits"]),
        ("S1", [f"±{ACCUMULATOR_LIMIT}"]),
        ("G2", [f"1 … {PAYLOAD_LIMIT} "]),
        ("C3", ["0 … 2²⁴ − 1"]),
        ("C6", [f"{MANTISSA_LIMIT} "]),
        ("O1", [f"±{ACCUMULATOR_LIMIT} ", f"1 … {LONGEST_WINDOW}"]),
        ("O3", [f"±{PAYLOAD.high} ", f"±{GRADED_SUM.high} "]),
        ("R1", [spoken_range(BIAS_MANTISSA), spoken_range(THRESHOLD)]),
        ("R2", [f"m = 1 … {SYNAPSE_MANTISSA.high}, one e = {spoken_range(SYNAPSE_EXPONENT)}"]),
        ("R3", [f"−{BIAS_LIMIT} … {BIAS_LIMIT}"]),
        ("R6", [spoken_range(SYNAPSE_MANTISSA)]),
        ("R7", [f"0 … {LARGEST_DELAY}", spoken_range(SYNAPSE_EXPONENT)]),
        ("P1", [spoken_range(THRESHOLD), spoken_range(BIAS_MANTISSA)]),
        ("P2", [f"1 … {BIAS_MANTISSA.high}"]),
        ("P5", [f"{CONVOLUTION_GEOMETRY.high} at most", f"±{CONVOLUTION_SUM.high}: {CONVOLUTION_BITS} bits"]),
        ("G8", [f"{spoken_range(SYNAPSE_MANTISSA)}; {spoken_range(SHIFT)}", f"−{BIAS_LIMIT} … {BIAS_LIMIT}"]),
    ],
)
def test_the_limits_are_those_of_the_code(rule: str, limits: list[str]) -> None:
    said = " | ".join(row[2] for row in LIMITS if row[0] == rule)
    for limit in limits:
        assert limit in f"{said} ", limit
