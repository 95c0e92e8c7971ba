"""The command line: thin calls of the public functions.

stdout is data, stderr is talk. Torch and Lava are loaded by the commands that need them, not by `--help`.
"""

from nctool.cli.commands import main

__all__ = ["main"]
