"""Names of the files in the folder of a cross-validation, beside its runs."""

from __future__ import annotations

# What it is of: config, folds, seeds, data.
PLAN = "plan.json"
# What came of it; beside it the `per_query.parquet` of all folds and seeds.
SUMMARY = "cv.json"
# Who is at which run.
CLAIMS = ".claims"
