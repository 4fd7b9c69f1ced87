"""`Lists` to the folder that `convert` fills."""
