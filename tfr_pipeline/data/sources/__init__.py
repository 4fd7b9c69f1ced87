"""Foreign files to `Lists`: LibSVM text, tables, TFRecords."""
