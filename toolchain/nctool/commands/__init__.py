"""The commands: one module each, with its options, its function, its report and its table.

The functions are the public ones of `nctool`; `application` is the command line, which calls them.
"""

from nctool.commands import (
    check,
    convert,
    explore,
    export,
    finetune,
    history,
    inspect,
    lists,
    report,
    run_sim,
    train,
    verify,
)

COMMANDS = (
    check.COMMAND,
    train.COMMAND,
    finetune.COMMAND,
    export.COMMAND,
    convert.COMMAND,
    explore.COMMAND,
    run_sim.COMMAND,
    verify.COMMAND,
    report.COMMAND,
    inspect.COMMAND,
    history.COMMAND,
    *lists.COMMANDS,
)
"""In the order of the help."""
