"""From float weights and thresholds to integers: scales, clipping, rounding."""
