"""Understanding a model: what its quality rests on, and a page about a run.

Each part can be used alone: `permutation_importance`, `integrated_gradients`,
`shapley_values`, `additive_shapes`, `slices`, `compare_queries`. `page.make` puts them
together.
"""

from tfr_pipeline.report.comparison import QueryComparison, compare_queries
from tfr_pipeline.report.gradients import Attributions, integrated_gradients
from tfr_pipeline.report.importance import Importance, permutation_importance
from tfr_pipeline.report.shapes import Shape, Shapes, additive_shapes
from tfr_pipeline.report.shapley import shapley_values
from tfr_pipeline.report.slices import Slice, slices

__all__ = [
    "Attributions",
    "Importance",
    "QueryComparison",
    "Shape",
    "Shapes",
    "Slice",
    "additive_shapes",
    "compare_queries",
    "integrated_gradients",
    "permutation_importance",
    "shapley_values",
    "slices",
]
