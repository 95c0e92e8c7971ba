"""The Lava engine: it runs Lava in a subprocess (`runner`), after checking and changing what Python imports of it."""
