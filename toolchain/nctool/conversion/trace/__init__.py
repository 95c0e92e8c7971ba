"""From a torch module to a FloatNetwork, and what makes a module fit for it."""
