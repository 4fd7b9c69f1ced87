"""Signatures, export and prediction."""
