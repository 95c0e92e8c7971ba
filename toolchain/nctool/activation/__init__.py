"""The noisy quantised ReLU that networks are trained with, and its thresholds."""
