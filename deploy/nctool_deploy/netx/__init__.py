"""netx HDF5 with the `/nctool` group: `write` and `read`, and what the file says."""

from nctool_deploy.netx.metadata import ChangeRecord, KnownAnswers, Metadata, NetxFile, Provenance
from nctool_deploy.netx.read import read
from nctool_deploy.netx.write import write

__all__ = ["ChangeRecord", "KnownAnswers", "Metadata", "NetxFile", "Provenance", "read", "write"]
