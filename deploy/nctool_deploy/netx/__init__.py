"""netx HDF5: `write` and `read` files with the `/nctool` group, `read_foreign` those of other tools."""

from nctool_deploy.netx.foreign import ForeignFile, is_foreign, is_netx, read_foreign
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
    "ForeignFile",
    "KnownAnswers",
    "Metadata",
    "NetxFile",
    "Provenance",
    "is_foreign",
    "is_netx",
    "read",
    "read_foreign",
    "write",
]
