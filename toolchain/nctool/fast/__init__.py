"""The fast engine: the same integers as the reference, by torch."""
