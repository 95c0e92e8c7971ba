"""Compare what runs with what was designed, and explain the first difference."""
