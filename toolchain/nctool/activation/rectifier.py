"""An activation of a trained network for which conversion is still to choose neurons.

In: real pre-activations. Out: what a ReLU, or one with an upper bound, gives.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class Rectifier(nn.Module):
    """A ReLU with an upper bound: min(max(x, 0), ceiling). A tracer takes it as one call.

    Attributes:
        ceiling: in units of the pre-activation, > 0; infinite for a plain ReLU.
    """

    def __init__(self, ceiling: float = math.inf) -> None:
        super().__init__()
        self.ceiling = ceiling

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to float pre-activations of any shape."""
        return x.clamp(min=0.0, max=self.ceiling)

    def extra_repr(self) -> str:
        """Show the bound in `print(model)`."""
        return "" if math.isinf(self.ceiling) else f"ceiling={self.ceiling:g}"
