"""Batch normalisation over the rows of all processes, on any device.

In: one process's rows. Out: what `functional.batch_norm` would give for them in the whole batch, with its gradients.
torch's own SyncBatchNorm is for GPUs only.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from nctool.training.distributed.exchange import gathered, total


def global_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what `functional.batch_norm` does, with mean and variance of the rows of all processes.

    All processes call it the same number of times, backward passes included.

    Args:
        x: this process's rows, float (N, C, ...); N may be 0.
        running_mean, running_var, weight, bias, training, momentum, eps: as for `functional.batch_norm`; the running
            variance is the unbiased one.
    """
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, variance, count = _moments(x.detach())
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    inverse = (variance + eps).rsqrt()
    return cast(Tensor, _Normalise.apply(x, weight, bias, mean, inverse, count))  # type: ignore[no-untyped-call]


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each channel mean, variance and number of values in all processes, (C,)."""
    axes, n_values = _axes(x), x.numel() // x.shape[1]
    variance, mean = torch.var_mean(x.float(), axes, correction=0) if n_values else x.new_zeros(2, x.shape[1]).float()
    counts = torch.full_like(mean, n_values)
    means, variances, counts = gathered(torch.stack([mean, variance, counts]).double()).unbind(1)
    shares = counts / counts.sum(0)
    whole_mean = (shares * means).sum(0)
    whole_variance = (shares * (variances + (means - whole_mean).square())).sum(0)
    return whole_mean.float(), whole_variance.float(), counts.sum(0).float()


class _Normalise(torch.autograd.Function):
    """(x − mean)/std · weight + bias, where mean and std depend on the rows of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        count: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, inverse, count)
        normalised = (x - _column(mean, x)) * _column(inverse, x)
        if weight is not None and bias is not None:
            normalised.mul_(_column(weight, x)).add_(_column(bias, x))
        return normalised.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; those of weight and bias are this process's part, to be added up with all others.

        With x̂ the normalised input and g the gradient for it: ∂/∂x = (g − mean(g) − x̂ · mean(g·x̂)) / std, means over
        the rows of all processes.
        """
        x, weight, mean, inverse, count = ctx.saved_tensors
        upstream, axes = grad.float(), _axes(grad)
        normalised = (x - _column(mean, x)) * _column(inverse, x)
        own = torch.stack([upstream.sum(axes), (upstream * normalised).sum(axes)])
        by_bias, by_weight = total(own.clone()) / count
        scale = inverse if weight is None else inverse * weight
        by_input = (upstream - _column(by_bias, x) - normalised * _column(by_weight, x)) * _column(scale, x)
        affine = (None, None) if weight is None else (own[1], own[0])
        return by_input.to(grad.dtype), *affine, None, None, None


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _column(values: Tensor, x: Tensor) -> Tensor:
    """Return values of the channels in a shape that goes with `x`."""
    return values.view(-1, *[1] * (x.ndim - 2))
