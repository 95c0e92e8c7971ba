"""netx files of other tools, read into an IntNetwork: `read_foreign`."""

from nctool_deploy.foreign.read import ForeignFile, is_foreign, is_netx, read_foreign

__all__ = ["ForeignFile", "is_foreign", "is_netx", "read_foreign"]
