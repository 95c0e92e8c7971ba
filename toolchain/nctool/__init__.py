"""nctool: from a vision network to an integer spiking network on a chip, verified bit for bit.

The commands are thin calls of `train`, `finetune`, `history`, `explore`, `export`, `run_sim`, `verify` and `inspect`.
They are loaded when first used: importing `nctool` loads neither torch nor Lava.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nctool.api import explore, export, finetune, history, inspect, prepare, run_sim, train, verify

__all__ = ["explore", "export", "finetune", "history", "inspect", "prepare", "run_sim", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module `nctool` has no attribute `{name}`")
    from nctool import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
