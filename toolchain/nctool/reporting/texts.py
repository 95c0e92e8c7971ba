"""Numbers as a page writes them.

In: numbers. Out: texts. Imports nothing of nctool.
"""

from __future__ import annotations

_PREFIXES = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


def percent(fraction: float) -> str:
    """Return a fraction in percent, with two decimals."""
    return f"{100 * fraction:.2f} %"


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, in the plural where it is not 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def rounded(number: float) -> str:
    """Return a count with three digits and a prefix: 1.28 M."""
    for size, prefix in _PREFIXES:
        if abs(number) >= size:
            return f"{number / size:.3g}{prefix}"
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"


def energy(picojoules: float) -> str:
    """Return an energy with three digits and its unit: 15.7 µJ."""
    units = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"))
    size, unit = next((each for each in units if picojoules >= each[0]), (1.0, "pJ"))
    return f"{picojoules / size:.3g} {unit}"


def shape_of(shape: tuple[int, ...]) -> str:
    """Return a shape as 6×24×24."""
    return "×".join(map(str, shape))


def listed(names: list[str], most: int = 6) -> str:
    """Return names with commas between them, the first ones only where there are many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
