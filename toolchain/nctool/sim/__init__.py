"""Simulation of an IntNetwork: `reference` is the definition; every engine returns a `Trace`."""
