"""What an experiment is: the schema of a recipe, its tables and its changes."""
