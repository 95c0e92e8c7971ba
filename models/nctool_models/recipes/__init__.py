"""The built-in recipes: one TOML file for each experiment."""
