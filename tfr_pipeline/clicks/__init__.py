"""Clicks: simulated from graded data, and what they say of positions."""
