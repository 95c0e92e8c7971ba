"""Make a network of your own trainable for conversion: `prepare`."""

from nctool.preparation.pipeline import prepare

__all__ = ["prepare"]
