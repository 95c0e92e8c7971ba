"""Trained networks that come with nctool: exported files, and what each was made by and gives."""
