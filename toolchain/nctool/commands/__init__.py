"""The commands: one module each, with its options, its function, its report and its table.

The functions are the public ones of `nctool`; `application` is the command line, which calls them.
"""

from nctool.commands import (
    bundle,
    check,
    convert,
    demo,
    explore,
    export,
    finetune,
    history,
    inspect,
    lists,
    run_sim,
    train,
    verify,
)

COMMANDS = (
    demo.COMMAND,
    check.COMMAND,
    train.COMMAND,
    finetune.COMMAND,
    export.COMMAND,
    convert.COMMAND,
    explore.COMMAND,
    run_sim.COMMAND,
    verify.COMMAND,
    inspect.COMMAND,
    bundle.COMMAND,
    history.COMMAND,
    *lists.COMMANDS,
)
"""In the order of the help."""
