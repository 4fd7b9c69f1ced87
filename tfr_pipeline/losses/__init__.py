"""Ranking losses by name, on packed and padded batches. One family a file."""
