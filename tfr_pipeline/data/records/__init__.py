"""The bytes of TFRecord files and of the protos in them, both ways."""
