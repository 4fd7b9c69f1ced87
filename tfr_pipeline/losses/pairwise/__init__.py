"""Losses of pairs of documents, and what a pair weighs."""
