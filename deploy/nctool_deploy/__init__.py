"""Deployment: chip limits, lowering, the netx file and the Lava engine.

`Network(path)` is a netx Network of stock Lava processes for a file that nctool exported. It needs Lava; on
Python 3.11 to 3.13 it is what makes Lava importable, so import it before anything of Lava (docs/LAVA.md).
"""

from __future__ import annotations

from typing import Any

__all__ = ["Network"]


def __getattr__(name: str) -> Any:
    if name != "Network":
        raise AttributeError(f"module `nctool_deploy` has no attribute `{name}`")
    from nctool_deploy.lava.compatibility import require_lava

    require_lava()
    from nctool_deploy.lava.runner.network import Network

    return Network
