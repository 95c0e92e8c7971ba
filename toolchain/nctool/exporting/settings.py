"""The settings that `explore` tries: which realisation, how many units and steps, how wide the weights.

In: what the user asked for. Out: a list of settings, or an error before any work is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from nctool.conversion.units import MAX_UNITS
from nctool.errors import UsageError
from nctool.ir.number_format import LONGEST_WINDOW, WEIGHT_BITS_RANGE
from nctool_deploy.backends.backend import find_realisation


@dataclass(frozen=True)
class Setting:
    """One way to export a checkpoint: the options of `nctool export`.

    Args:
        realisation: its name.
        units: neurons that share an activation, in every layer.
        steps: the window.
        weight_bits: 2..8.
    """

    realisation: str
    units: int
    steps: int
    weight_bits: int

    def __str__(self) -> str:
        return f"{self.realisation}, K={self.units}, T={self.steps}, {self.weight_bits} bits"


def settings(
    realisations: Sequence[str],
    steps: Sequence[int] | None,
    units: Sequence[int] | None,
    weight_bits: Sequence[int],
    levels: int,
) -> list[Setting]:
    """Return every combination that a realisation has, in the order asked for.

    Args:
        realisations: names; a realisation of one fixed window has that window, and `levels` units.
        steps: windows of the others.
        units: of a realisation whose neurons can start at different potentials; of any other it is 1.
        weight_bits: 2..8 each.
        levels: of the activation that the network was trained with.

    Raises:
        UsageError: a name is unknown, a number is out of range, or nothing is left to try.
    """
    for what, values in {
        "realisations": realisations,
        "steps": steps,
        "units": units,
        "weight bits": weight_bits,
    }.items():
        _require_some(what, values)
    low, high = WEIGHT_BITS_RANGE
    _require_range("steps", steps or (), 1, LONGEST_WINDOW)
    _require_range("units", units or (), 1, MAX_UNITS)
    _require_range("weight bits", weight_bits, low, high)
    found = []
    for realisation in map(find_realisation, dict.fromkeys(realisations)):
        windows, copies = realisation.explored_windows(steps), realisation.explored_units(units, levels)
        found += [Setting(realisation.name, k, t, bits) for bits, k, t in product(weight_bits, copies, windows)]
    return list(dict.fromkeys(found))


def _require_some(what: str, values: Sequence[object] | None) -> None:
    if values is not None and not values:
        raise UsageError(f"{what}: none given, allowed one or more")


def _require_range(what: str, values: Iterable[int], low: int, high: int) -> None:
    for value in values:
        if not low <= value <= high:
            raise UsageError(f"{what}: {value} is out of range, allowed {low}..{high}")
