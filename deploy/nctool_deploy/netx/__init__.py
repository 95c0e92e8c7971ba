"""netx HDF5 with the `/nctool` group: `write` and `read`."""

from nctool_deploy.netx.metadata import (
    METADATA,
    PROVED_BOUNDS,
    ChangeRecord,
    KnownAnswers,
    Metadata,
    NetxFile,
    Provenance,
)
from nctool_deploy.netx.read import read
from nctool_deploy.netx.write import write

__all__ = [
    "METADATA",
    "PROVED_BOUNDS",
    "ChangeRecord",
    "KnownAnswers",
    "Metadata",
    "NetxFile",
    "Provenance",
    "read",
    "write",
]
