"""Layers of the scorers."""
