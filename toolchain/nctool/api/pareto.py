"""Pareto front: the choices that no other choice beats.

In: objectives to keep small. Out: a mark for each choice. Imports nothing of nctool.
"""

from __future__ import annotations

from collections.abc import Sequence


def best(choices: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each choice whether no other is at most as large in every objective and smaller in one."""
    return [not any(_beats(other, choice) for other in choices) for choice in choices]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(mine <= its for mine, its in pairs) and any(mine < its for mine, its in pairs)
