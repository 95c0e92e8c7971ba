"""What cannot be converted, and what to do instead: one hint for each module and function that people use.

In: names. Out: an UnsupportedError with a hint.
"""

from __future__ import annotations

from nctool.errors import UnsupportedError

SUPPORTED = (
    "Conv2d, ConvTranspose2d, Linear, BatchNorm, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d, AdaptiveMaxPool2d, "
    "Upsample, PixelShuffle, Flatten, Dropout, NoisyQuantReLU, sums of branches, torch.cat of channels; through "
    "nctool.prepare also ReLU"
)
_RELU = "replace it by nn.ReLU, then nctool.prepare, and train again: a few epochs are enough (docs/OWN_MODEL.md)"
_GATE = "behind a hidden layer use nn.ReLU, behind the last one return the logits; leave out gates"
_NORM = "use nn.BatchNorm2d and train again: what is normalised by its own statistics has no fixed weights"
_PARAMETRIZED = "make it permanent: torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
_ENTERS = "let normalisation, and the weights of the layer behind it, take constants"
_TRAINED = "nctool.prepare puts a NoisyQuantReLU there: train it"
_RECURRENT = "no recurrent layer has an integrate-and-fire form here: use nn.Linear or nn.Conv2d, and train again"
_ENLARGED = "use mode='nearest' with a whole factor, or nn.ConvTranspose2d, and train again"
_SHRUNK = "use nn.Conv2d with the same stride, and train again: it reads each pixel of a block with a weight of its own"
_FUNCTION = "use the module, which holds the weights: "
_AXES = "keep the axes (channels, height, width), and flatten them with nn.Flatten before nn.Linear"
_PARTS = "let a convolution of its own give each part: no layer reads a part of another's channels"
_ATTENTION = "attention multiplies signals, which neurons do not: use convolutions, and train again"
_WEIGHTED = {"conv2d": "nn.Conv2d", "linear": "nn.Linear", "conv_transpose2d": "nn.ConvTranspose2d"}
WRAPPED = {
    **dict.fromkeys(("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"), "module"),
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}
"""What holds a network without being one, and where."""
SHARDED = ("FullyShardedDataParallel",)
"""Of these, those whose network has only a part of its weights."""
HINTS: dict[str, str] = {
    **{kind: f"call the network in it: .{attribute}" for kind, attribute in WRAPPED.items()},
    **dict.fromkeys(("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"), _RECURRENT),
    **{name: _FUNCTION + module for name, module in _WEIGHTED.items()},
    "batch_norm": _FUNCTION + "nn.BatchNorm2d",
    "SyncBatchNorm": "use nn.BatchNorm2d, of the same numbers: norm.load_state_dict(synchronised.state_dict())",
    **dict.fromkeys(("GELU", "LeakyReLU", "PReLU", "RReLU", "SiLU", "Mish", "Hardswish"), _RELU),
    **dict.fromkeys(("gelu", "leaky_relu", "rrelu", "silu", "mish", "hardswish"), _RELU),
    **dict.fromkeys(("ELU", "CELU", "SELU", "Softplus", "Softsign"), _RELU),
    **dict.fromkeys(("elu", "celu", "selu", "softplus", "softsign"), _RELU),
    **dict.fromkeys(("Sigmoid", "Hardsigmoid", "Tanh", "sigmoid", "hardsigmoid", "tanh"), _GATE),
    **dict.fromkeys(("LayerNorm", "GroupNorm", "InstanceNorm2d", "layer_norm", "group_norm", "instance_norm"), _NORM),
    **dict.fromkeys(("ReLU", "ReLU6", "Hardtanh", "relu", "relu_", "relu6", "hardtanh", "clamp"), _TRAINED),
    "max_pool2d_with_indices": "leave out return_indices: spikes do not know the place of a maximum",
    **dict.fromkeys(("LPPool2d", "lp_pool2d"), "roots and powers have no form: use nn.MaxPool2d or nn.AvgPool2d"),
    "max_pool2d": "use the module nn.MaxPool2d",
    **dict.fromkeys(("MaxPool1d", "max_pool1d"), "nctool.prepare puts nn.MaxPool2d of kernel (1, k) there"),
    **dict.fromkeys(("adaptive_max_pool2d", "amax"), "use the module nn.AdaptiveMaxPool2d(1)"),
    "avg_pool2d": "use the module nn.AvgPool2d",
    "adaptive_avg_pool2d": "use the module nn.AdaptiveAvgPool2d(1)",
    "mean": "use the module nn.AdaptiveAvgPool2d(1)",
    "mul": "neurons add, they do not multiply: leave out gates, and put a constant into the weights behind it",
    **dict.fromkeys(("permute", "transpose", "movedim", "swapaxes"), _AXES),
    **dict.fromkeys(("chunk", "split", "getitem"), _PARTS),
    **dict.fromkeys(("matmul", "bmm", "einsum", "scaled_dot_product_attention", "MultiheadAttention"), _ATTENTION),
    **dict.fromkeys(("LocalResponseNorm", "local_response_norm"), "leave it out, and train again"),
    "log_softmax": "return the logits, and let the loss take them: functional.cross_entropy",
    "softmax": "return the logits, and let the loss take them: functional.cross_entropy",
    "LogSoftmax": "return the logits, and let the loss take them: nn.CrossEntropyLoss",
    "Softmax": "return the logits, and let the loss take them: nn.CrossEntropyLoss",
    **dict.fromkeys(("ParametrizedConv2d", "ParametrizedLinear"), _PARAMETRIZED),
    **dict.fromkeys(("truediv", "div", "sub"), _ENTERS),
    "pad": "use the module nn.ZeroPad2d, or padding= of the convolution behind it",
    **dict.fromkeys(("ReflectionPad2d", "ReplicationPad2d", "CircularPad2d"), "use nn.ZeroPad2d and train again"),
    **dict.fromkeys(("UpsamplingBilinear2d", "upsample_bilinear"), _ENLARGED),
    **dict.fromkeys(("interpolate", "upsample", "upsample_nearest"), "use the module nn.Upsample"),
    "pixel_shuffle": "use the module nn.PixelShuffle",
    **dict.fromkeys(("PixelUnshuffle", "pixel_unshuffle", "Unfold", "unfold"), _SHRUNK),
    **dict.fromkeys(("ConvTranspose3d", "Fold", "fold"), "use nn.ConvTranspose2d, and train again"),
    "dropout": "use the module nn.Dropout",
    "dropout2d": "use the module nn.Dropout2d",
    "view": "use the module nn.Flatten",
    "reshape": "use the module nn.Flatten",
    **dict.fromkeys(("squeeze", "unsqueeze"), "use the module nn.Flatten"),
    "size": "use the module nn.Flatten instead of a view, nn.AdaptiveAvgPool2d(1) instead of windows of this size",
    "getattr": "use the module nn.Flatten instead of a view by x.shape",
}


def unsupported(what: str, hint: str | None) -> UnsupportedError:
    """Say that `what` cannot be converted, and what to do instead."""
    return UnsupportedError(f"{what} cannot be converted", hint=hint or f"supported are {SUPPORTED}")
