"""TFRecord files to lists or streams of lists, parsed once and cached."""
