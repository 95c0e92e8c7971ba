"""Chips and their limits, one TOML file each in `files/`."""
