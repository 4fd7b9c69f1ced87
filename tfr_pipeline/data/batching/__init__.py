"""Lists to batches: planned, levelled, selected, gathered."""
