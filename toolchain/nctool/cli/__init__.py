"""The command line: thin calls of the public functions.

stdout is data, stderr is talk. Torch and Lava are loaded by the commands that need them, not by `--help`.
"""

from nctool.cli import application, making, running, showing
from nctool.spelling import command_line

__all__ = ["main", "making", "running", "showing"]


def main() -> None:
    """Run the command line; its messages name options, where those of Python name arguments."""
    with command_line():
        application.main()
