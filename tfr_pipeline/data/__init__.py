"""Files to batches: formats, conversion, readers, dataset builders."""
