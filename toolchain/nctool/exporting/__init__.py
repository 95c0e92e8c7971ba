"""From a checkpoint and its settings to an integer network that fits a target."""
