"""From a network file of another tool (ONNX, torch.export, TorchScript) to a torch module."""

from nctool.importing.open_file import open_network, require_same_as_file

__all__ = ["open_network", "require_same_as_file"]
