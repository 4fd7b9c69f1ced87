"""Command line: `tfr-pipeline`, one small module a command."""
