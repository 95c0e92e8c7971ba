"""A folder with everything that runs a network in an unmodified Lava, without nctool; `files/` is copied into it."""
