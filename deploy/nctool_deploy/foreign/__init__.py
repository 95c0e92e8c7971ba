"""netx files of other tools, read into an IntNetwork: `read_foreign`."""

from nctool_deploy.foreign.foreign_file import ForeignFile, ForeignOptions
from nctool_deploy.foreign.read import is_foreign, is_netx, read_foreign

__all__ = ["ForeignFile", "ForeignOptions", "is_foreign", "is_netx", "read_foreign"]
