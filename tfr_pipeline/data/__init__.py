"""Files to batches: formats, conversion, readers, dataset builders."""

from tfr_pipeline.compat import lazy_attributes

# Names that stand on the pipeline, which this package does not.
_FACE = {
    "from_arrays": "tfr_pipeline.pipeline.datasets.arrays",
    "from_dataframe": "tfr_pipeline.pipeline.datasets.frames",
}
__getattr__ = lazy_attributes(__name__, _FACE)
