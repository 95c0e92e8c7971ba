"""netx HDF5 with the `/nctool` group: `write` and `read`."""

from nctool_deploy.netx.metadata import Metadata, Provenance
from nctool_deploy.netx.netx_file import KnownAnswers, NetxFile
from nctool_deploy.netx.read import read
from nctool_deploy.netx.write import write

__all__ = ["KnownAnswers", "Metadata", "NetxFile", "Provenance", "read", "write"]
