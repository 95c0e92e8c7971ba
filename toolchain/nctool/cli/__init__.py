"""The command line: thin calls of the public functions.

stdout is data, stderr is talk. Torch and Lava are loaded by the commands that need them, not by `--help`.
"""

from nctool.cli import making, running, showing
from nctool.cli.application import main

__all__ = ["main", "making", "running", "showing"]
