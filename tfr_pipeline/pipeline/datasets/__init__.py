"""Dataset builders: training and validation data, and signatures."""
