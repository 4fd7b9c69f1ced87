"""Builders written as a user writes them, one task a file."""
