"""Run a file on samples: files and data in, traces out."""
