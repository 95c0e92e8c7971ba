"""Pages in a real browser: every chart draws marks, nothing is fetched, the console is silent, on any screen.

The browser is the system's Chromium, without a network; Playwright drives it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
SCREENS = [(width, scheme) for width in WIDTHS for scheme in SCHEMES]
LEAST_HEIGHT = 40
"""Pixels of a chart that shows something."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = [path for name in NAMES if (path := shutil.which(name))]
    assert found, f"none of {', '.join(NAMES)} is installed: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found[0], args=list(FLAGS))
        yield opened
        opened.close()


@dataclass
class Seen:
    """An open page, and what it asked for and said."""

    page: Any
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def marks(self) -> dict[str, int]:
        """Return how many marks each chart has drawn, by the title of its figure; 0 where it is too flat to be seen."""
        return self.page.evaluate(
            """least => Object.fromEntries([...document.querySelectorAll("[data-figure]")].map((figure, k) => {
                const svg = figure.querySelector(".chart svg");
                const marks = figure.querySelectorAll(".chart svg g[class*='mark-'][class*='role-mark'] > *").length;
                const seen = svg && svg.getBoundingClientRect().height >= least;
                return [k + " " + figure.querySelector("h3").textContent, seen ? marks : 0];
            }))""",
            LEAST_HEIGHT,
        )

    def choose(self, by: str, option: str) -> None:
        self.page.select_option(f'select[data-by="{by}"]', option)
        self.page.wait_for_timeout(300)

    def drawn(self, title: str) -> str:
        """Return the drawing of the first figure of this title."""
        return self.page.locator("[data-figure]", has_text=title).first.locator(".chart").inner_html()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light", **options: Any) -> Iterator[Seen]:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **options
    )
    seen = Seen(context.new_page())
    seen.page.on("request", lambda request: seen.requests.append(request.url.partition(",")[0]))
    seen.page.on("console", lambda message: seen.said.append(message.text))
    seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
    seen.page.goto(path.as_uri())
    seen.page.wait_for_selector("html[data-drawn=yes]", state="attached")
    yield seen
    context.close()


# --- every screen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("which", ["page", "comparison"])
def test_every_chart_is_drawn_and_nothing_is_fetched(
    browser: Any, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    path = request.getfixturevalue(which)
    with opened(browser, path, width, scheme) as seen:
        marks = seen.marks()
        assert len(marks) > 15
        empty = {title for title, count in marks.items() if count == 0}
        without_rows = seen.page.evaluate(
            """() => [...document.querySelectorAll("[data-figure]")].flatMap((figure, k) =>
                figure.querySelector(".chart").hidden ? [k + " " + figure.querySelector("h3").textContent] : [])"""
        )
        assert empty == set(without_rows)
        assert all("Thresholds" in title or "Activation" in title for title in empty), empty  # what graded spikes lack
        assert {address for address in seen.requests if not address.startswith("data:")} == {path.as_uri()}
        assert seen.said == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_colours_are_those_of_the_scheme(browser: Any, page: Path) -> None:
    from nctool.figures.theme import DARK, LIGHT

    for scheme, colours in (("light", LIGHT), ("dark", DARK)):
        with opened(browser, page, scheme=scheme) as seen:
            texts = "getComputedStyle(document.querySelector('.chart svg text')).fill"
            ground = "getComputedStyle(document.body).backgroundColor"
            assert hexadecimal(seen.page.evaluate(ground)) == colours["paper"]
            assert hexadecimal(seen.page.evaluate(texts)) in (colours["muted"], colours["ink"])


def hexadecimal(colour: str) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)[:3])


def test_paper_is_white_in_dark_mode_too(browser: Any, page: Path) -> None:
    with opened(browser, page, scheme="dark") as seen:
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert seen.page.pdf()[:4] == b"%PDF"


# --- what a reader does -----------------------------------------------------------------------------------------------


def test_choosing_a_layer_changes_its_charts_and_no_other(browser: Any, page: Path) -> None:
    with opened(browser, page) as seen:
        layers = seen.page.eval_on_selector_all('select[data-by="layer"] option', "all => all.map(one => one.value)")
        assert len(layers) == 4
        drawings = []
        other = seen.drawn("Accuracy over the epochs")
        for layer in layers[:3]:
            seen.choose("layer", layer)
            drawings.append([seen.drawn(t) for t in ("Weights", "Thresholds", "Spike rates", "Activation of the ANN")])
        for before, after in pairwise(drawings):
            assert all(one != another for one, another in zip(before, after, strict=True))
        assert seen.drawn("Accuracy over the epochs") == other
        seen.choose("layer", layers[3])
        assert "it never fires" in seen.page.locator("[data-figure]", has_text="Thresholds").inner_text()
        assert seen.said == []


def test_choosing_a_sample_changes_its_picture_raster_and_logits(browser: Any, page: Path) -> None:
    with opened(browser, page) as seen:
        samples = seen.page.eval_on_selector_all('select[data-by="sample"] option', "all => all.map(one => one.value)")
        shown = []
        for sample in samples[:3]:
            seen.choose("sample", sample)
            picture = seen.page.locator("img.sample").get_attribute("src")
            shown.append((picture, seen.drawn("Spikes of one sample"), seen.drawn("Logits")))
        assert all(len(set(column)) == 3 for column in zip(*shown, strict=True))


def test_the_keyboard_is_enough(browser: Any, page: Path) -> None:
    with opened(browser, page) as seen:
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the content"
        seen.page.locator('select[data-by="layer"]').focus()
        before = seen.drawn("Weights")
        seen.page.keyboard.press("ArrowDown")
        seen.page.wait_for_timeout(300)
        assert seen.drawn("Weights") != before
        seen.page.locator("summary", has_text="Table: Weights").focus()
        seen.page.keyboard.press("Enter")
        table = seen.page.locator("[data-figure]", has_text="Weights").first.locator("table")
        table.wait_for()
        assert table.locator("th").all_inner_texts() == ["from", "to", "count"]


def test_every_chart_has_a_table_and_words(browser: Any, page: Path) -> None:
    with opened(browser, page) as seen:
        for figure in seen.page.locator("[data-figure]").all():
            title = figure.locator("h3").inner_text()
            assert figure.locator(".chart").get_attribute("aria-label").startswith(title)
            assert len(figure.locator(".text").inner_text()) > 10
            figure.locator("summary").click()
            figure.locator("tbody tr").first.wait_for()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_keeps_the_rules_of_accessible_pages(browser: Any, page: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, page, scheme=scheme, bypass_csp=True) as seen:
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
        found = Axe().run(seen.page, options=rules).response["violations"]
        assert [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found] == []


def test_names_that_look_like_html_are_text(browser: Any, tmp_path: Path) -> None:
    import numpy as np

    from tests.support.foreign import Draft, dense_layer

    path = Draft([dense_layer(np.arange(12).reshape(3, 4) - 6)]).write(tmp_path / "<img src=x onerror=alert(1)>.net")
    import nctool

    nctool.report(path, tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as seen:
        assert "<img src=x onerror=alert(1)>.net" in seen.page.locator("h1").inner_text()
        assert seen.said == []
