"""How a neuron is built of what a chip has."""
