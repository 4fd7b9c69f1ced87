"""Strategies, parameter servers, and what cannot be distributed."""
