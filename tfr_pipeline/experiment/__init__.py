"""From a config to a pipeline."""
