"""The Lava engine: a subprocess of its own runs Lava (`runner`); what is changed in Lava while it is imported."""
