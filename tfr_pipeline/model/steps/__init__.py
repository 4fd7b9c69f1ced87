"""Steps of preprocessing: what is done to features in front of a scorer."""
