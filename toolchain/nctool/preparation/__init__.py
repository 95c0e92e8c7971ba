"""Make a network of your own trainable for conversion: `prepare`; refuse what is no network: `require_module`."""

from nctool.preparation.pipeline import prepare, require_module

__all__ = ["prepare", "require_module"]
