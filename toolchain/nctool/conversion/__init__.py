"""Conversion of a trained torch module to an IntNetwork: `convert`."""

from nctool.conversion.pipeline import Conversion, convert
from nctool.conversion.replicas import Replicas
from nctool.ir.change import Change
from nctool.ir.number_format import IntegerFormat

__all__ = ["Change", "Conversion", "IntegerFormat", "Replicas", "convert"]
