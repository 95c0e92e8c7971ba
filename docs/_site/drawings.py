"""Draw the pictures of CONCEPTS.md: `python docs/_site/drawings.py` writes them into docs/.

What neurons do in them is computed by the reference engine. A picture has a light ground of its own, so that it can be
read on a dark page too.

In: nothing. Out: SVG files.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import IntegrateFire, Population
from nctool.reference.neurons import Run, integrate_and_fire

DOCS = Path(__file__).parents[1]

INK, FAINT, GROUND = "#222222", "#8a8f98", "#ffffff"
BLUE, ORANGE, GREEN, RED = "#2f5d9b", "#b9770e", "#2e7d46", "#b3362b"
PALE = {BLUE: "#e6eef9", ORANGE: "#fdf1dc", GREEN: "#e6f4ea", RED: "#f9e4e1"}


class Drawing:
    """A picture that grows by lines, boxes and words.

    Args:
        width, height: in pixels.
        title: what it shows, for those who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
            f' font-family="Helvetica, Arial, sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
            f' orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="{GROUND}"/>',
        ]

    def path(self, points: list[tuple[float, float]], colour: str = INK, *, width: float = 1.5, **more: str) -> None:
        """Draw a line through points; `more` are attributes of SVG, with `_` for `-`."""
        where = " L".join(f"{x:g} {y:g}" for x, y in points)
        attributes = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        self.parts.append(f'<path d="M{where}" fill="none" stroke="{colour}" stroke-width="{width:g}"{attributes}/>')

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line with a tip at its end."""
        self.path(list(points), marker_end="url(#tip)")

    def box(self, x: float, y: float, width: float, height: float, colour: str, *lines: str) -> None:
        """Draw a box with lines of words in it, the first one bold."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{PALE[colour]}"'
            f' stroke="{colour}" stroke-width="1.5"/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            self.words(x + width / 2, top + 18 * number, line, anchor="middle", bold=number == 0)

    def area(self, points: list[tuple[float, float]], colour: str) -> None:
        """Fill an area."""
        where = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polygon points="{where}" fill="{PALE[colour]}"/>')

    def dot(self, x: float, y: float, colour: str, *, filled: bool = True) -> None:
        """Draw a dot, or a ring."""
        fill = colour if filled else GROUND
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="6" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>')

    def words(
        self, x: float, y: float, text: str, colour: str = INK, *, anchor: str = "start", bold: bool = False
    ) -> None:
        """Write words."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def run(threshold: int, initial: list[int], drive: int, steps: int) -> Run:
    """Return what neurons of one threshold do under a constant drive, by the reference engine."""
    n = len(initial)
    neuron = IntegrateFire(np.full(n, threshold), np.array(initial))
    population = Population("a", (n,), neuron, np.zeros(n, np.int64), ())
    return integrate_and_fire(population, np.full((1, steps, n), drive, np.int64))


# --- what an integrate-and-fire neuron counts -------------------------------------------------------------------------


def counting() -> str:
    """Draw the potential of a neuron over eight steps, and its spikes."""
    threshold, drive, steps = 8, 3, 8
    found = run(threshold, [threshold // 2], drive, steps)
    potentials, spikes = found.potentials[0, :, 0], found.spikes[0, :, 0]
    title = f"An integrate-and-fire neuron: threshold {threshold}, start {threshold // 2}, drive {drive} a step"
    drawing = Drawing(760, 330, f"{title}. It sends {spikes.sum()} spikes in {steps} steps.")

    def at(step: float, value: float) -> tuple[float, float]:
        return 90 + 72 * step, 240 - 15 * value

    drawing.words(40, 30, title, bold=True)
    drawing.path([at(0, 0), at(8.6, 0)], FAINT)
    drawing.path([at(0, threshold), at(8.6, threshold)], ORANGE, stroke_dasharray="6 4")
    drawing.words(at(8.65, 0)[0], at(0, threshold)[1] + 5, "θ", ORANGE, bold=True)
    drawing.words(82, at(0, 4)[1] + 5, "θ/2", FAINT, anchor="end")
    drawing.words(82, at(0, 0)[1] + 5, "0", FAINT, anchor="end")
    before = threshold // 2
    for number, (potential, fired) in enumerate(zip(potentials.tolist(), spikes.tolist(), strict=True)):
        drawing.path([at(number, before), at(number + 1, before), at(number + 1, potential)], BLUE, width=2.5)
        before = potential - threshold * fired
        x, y = at(number + 1, potential)
        drawing.words(x + 6, y - 4 if fired else y + 16, str(potential), BLUE)
        if fired:
            drawing.path([(x, y), at(number + 1, before)], RED, marker_end="url(#tip)")
            drawing.path([(x, 272), (x, 298)], RED, width=4)
        drawing.words(x, 318, str(number + 1), FAINT, anchor="middle")
    drawing.words(40, 290, "spikes", RED)
    drawing.words(40, 318, "step", FAINT)
    return str(drawing)


# --- the residual error -----------------------------------------------------------------------------------------------


def counts(threshold: int, steps: int, drives: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many spikes a neuron sends in a window, for each constant drive."""
    return np.array([run(threshold, [threshold // 2], int(drive), steps).spikes.sum() for drive in drives])


def residual() -> str:
    """Draw what the spikes of one and of four steps stand for, beside the ReLU."""
    threshold = 240
    drawing = Drawing(760, 340, "What is sent, over the drive: the staircase of 1 and of 4 steps, beside the ReLU.")
    drives = np.arange(-60, 361, 2)
    for left, steps, colour in ((60, 1, ORANGE), (430, 4, BLUE)):
        sent = counts(threshold, steps, drives) * threshold / steps

        def at(drive: float, value: float, left: int = left) -> tuple[float, float]:
            return left + 40 + 0.62 * drive, 280 - 0.62 * value

        relu = [at(drive, max(drive, 0)) for drive in (-60, 0, 350)]
        stairs = [at(drive, value) for drive, value in zip(drives.tolist(), sent.tolist(), strict=True)]
        drawing.area([*stairs, *(at(drive, max(drive, 0)) for drive in drives[::-1].tolist())], colour)
        drawing.path([at(-60, 0), at(370, 0)], FAINT)
        drawing.path([at(0, -10), at(0, 365)], FAINT)
        drawing.path(relu, INK, stroke_dasharray="5 4")
        drawing.path(stairs, colour, width=2.5)
        drawing.path([at(threshold, 0), at(threshold, threshold)], FAINT, stroke_dasharray="2 4")
        drawing.words(at(threshold, 0)[0], 298, "θ", FAINT, anchor="middle")
        drawing.words(left, 32, f"T = {steps}", colour, bold=True)
        drawing.words(at(185, 0)[0], 324, "drive of a step", FAINT, anchor="middle")
        drawing.words(at(300, 0)[0] + 6, at(0, 345)[1], "ReLU", INK, anchor="end")
    drawing.words(70, 52, "sent: θ · spikes / T", FAINT)
    return str(drawing)


# --- replicas and steps -----------------------------------------------------------------------------------------------


def replicas() -> str:
    """Draw the spikes of one neuron in four steps, two in two, and four in one."""
    threshold, drive = 40, 22
    title = f"One activation, drive {drive} of θ = {threshold}, three ways"
    drawing = Drawing(760, 290, f"{title}: the same number of spikes, in fewer steps or of fewer neurons.")
    drawing.words(40, 32, title, bold=True)
    ways = ((1, 4, BLUE), (2, 2, GREEN), (4, 1, ORANGE))
    for column, (copies, steps, colour) in enumerate(ways):
        left = 40 + 240 * column
        initial = [threshold * (2 * k + 1) // (2 * copies) for k in range(copies)]
        spikes = run(threshold, initial, drive, steps).spikes[0]
        drawing.words(left, 66, f"K = {copies}, T = {steps}", colour, bold=True)
        for k in range(copies):
            drawing.words(left, 101 + 36 * k, f"start {initial[k]}", FAINT)
            for step in range(steps):
                drawing.dot(left + 80 + 30 * step, 96 + 36 * k, colour, filled=bool(spikes[step, k]))
        drawing.words(left, 258, f"{spikes.sum()} spikes, each worth θ/{copies * steps}", colour)
    drawing.words(40, 280, "rows: neurons; columns: steps", FAINT)
    return str(drawing)


# --- what runs on which register --------------------------------------------------------------------------------------


def registers() -> str:
    """Draw how the backend `autapse` uses the two registers of the stock neuron."""
    drawing = Drawing(760, 340, "The backend autapse: current u holds the membrane, voltage v compares it.")
    drawing.box(20, 60, 150, 56, BLUE, "spikes, pixels", "8-bit weights W · 2ᵉ")
    drawing.box(20, 140, 150, 56, GREEN, "always-on source", "bias b (R3)")
    drawing.box(260, 84, 170, 88, ORANGE, "register u", "the membrane m − v₀", "no decay (R1)")
    drawing.box(510, 84, 110, 88, ORANGE, "register v", "u + c", "no memory")
    drawing.box(660, 100, 84, 56, RED, "fires", "v > vth")
    drawing.arrow((172, 88), (214, 88), (214, 116), (256, 116))
    drawing.arrow((172, 168), (214, 168), (214, 140), (256, 140))
    drawing.arrow((432, 128), (506, 128))
    drawing.arrow((622, 128), (656, 128))
    drawing.arrow((702, 158), (702, 236), (345, 236), (345, 176))
    drawing.words(524, 228, "autapse: a synapse to itself, weight −θ (R2)", RED, anchor="middle")
    drawing.words(469, 120, "+ c", INK, anchor="middle")
    drawing.words(20, 34, "A neuron that resets by subtraction, out of the stock LIF of Loihi", bold=True)
    drawing.words(20, 282, "A spike clears v and never u: the membrane is in u, and the reset comes through a synapse.")
    drawing.words(20, 304, "It arrives one step later, before the next comparison. u is cleared behind a window (R5).")
    return str(drawing)


PICTURES = {
    "concept-counting.svg": counting,
    "concept-residual.svg": residual,
    "concept-replicas.svg": replicas,
    "concept-registers.svg": registers,
}
"""By file name."""


def main() -> None:
    """Write all pictures."""
    for name, draw in PICTURES.items():
        (DOCS / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
