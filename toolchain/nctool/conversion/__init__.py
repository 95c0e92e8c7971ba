"""Conversion of a trained torch module to an IntNetwork: `convert`."""

from nctool.integer_format import IntegerFormat
from nctool.conversion.pipeline import Change, Conversion, convert

__all__ = ["Change", "Conversion", "IntegerFormat", "convert"]
