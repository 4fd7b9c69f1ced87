"""Ranking metrics: Keras metrics by name, and evaluation of a whole data set."""
