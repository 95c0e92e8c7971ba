"""Figures of reports, and event files for TensorBoard."""
