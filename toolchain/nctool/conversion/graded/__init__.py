"""Graded neurons for the activations of a network: what a spike of 1 is worth, and their integers."""
