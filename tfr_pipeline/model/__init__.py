"""Inputs, preprocessing, scorers, layers and model builders."""
