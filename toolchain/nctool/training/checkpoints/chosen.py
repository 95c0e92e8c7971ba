"""Which epoch of a run was chosen, read from the headers of its files.

In: the folder of a run. Out: the number of an epoch. Must not import torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from nctool.errors import FormatError
from nctool.files import cannot_read, plain_file
from nctool.training.checkpoints.names import CHECKPOINT_NAME, STATE_NAME

_TEXTS = {CHECKPOINT_NAME: "results", STATE_NAME: "progress"}
"""The text of each file that has `best_epoch`; the first file that is there counts."""


def chosen_epoch(directory: Path) -> int | None:
    """Return the epoch whose weights the checkpoint holds, or while training goes on, the best so far.

    That is an epoch before the first one of the run, or 0, where fine-tuning kept the network that it started with. It
    is None where neither file is there, or where the file does not say.

    Raises:
        UsageError: the file cannot be read.
        FormatError: it is not what nctool writes.
    """
    for name, text in _TEXTS.items():
        if (directory / name).exists():
            return _best_epoch(directory / name, text)
    return None


def _best_epoch(path: Path, text: str) -> int | None:
    try:
        with safe_open(plain_file(path), framework="np") as file:
            content = json.loads((file.metadata() or {}).get(text, "{}"))
    except OSError as error:
        raise cannot_read(path, error) from error
    except (SafetensorError, ValueError) as error:
        raise FormatError(f"`{path}` is truncated or no safetensors file") from error
    epoch = content.get("best_epoch") if isinstance(content, dict) else None
    return epoch if isinstance(epoch, int) else None
