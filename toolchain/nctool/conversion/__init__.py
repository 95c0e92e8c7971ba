"""Conversion of a trained torch module to an IntNetwork: `convert`."""

from nctool.conversion.pipeline import Change, Conversion, convert
from nctool.integer_format import IntegerFormat

__all__ = ["Change", "Conversion", "IntegerFormat", "convert"]
