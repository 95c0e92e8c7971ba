"""Which neuron lies on which core, and what each core uses."""
