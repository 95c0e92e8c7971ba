"""Colours of figures: contrast, and one name for each in both schemes."""

from __future__ import annotations

import pytest

from nctool.figures.theme import DARK, LIGHT, SERIES

TEXTS = ("ink", "muted", "link", "good", "bad", "unsure")


def luminance(colour: str) -> float:
    """Source: WCAG 2.1, definition of relative luminance."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_black_on_white_by_hand() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
@pytest.mark.parametrize("ground", ["paper", "surface"])
def test_texts_and_marks_stand_out(colours: dict[str, str], ground: str) -> None:
    assert all(contrast(colours[name], colours[ground]) >= 4.5 for name in TEXTS)
    assert all(contrast(colours[name], colours[ground]) >= 3 for name in SERIES)


def test_both_schemes_have_the_same_names() -> None:
    assert list(LIGHT) == list(DARK)
    assert len(SERIES) == 8
