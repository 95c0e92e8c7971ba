"""The reference engine: what every network does, written to be read. docs/SEMANTICS.md in code; NumPy only."""
