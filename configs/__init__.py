"""One Python file an experiment: `get_config(arg)` returns a `ConfigDict`."""
