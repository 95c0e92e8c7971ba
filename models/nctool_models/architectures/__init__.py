"""The networks of the model zoo, by the name of their architecture."""
