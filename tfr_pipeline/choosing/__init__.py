"""Choosing among models: cross-validation, and comparison over queries.

| module | has |
|---|---|
| `folder` | names of its files |
| `rotations` | which files or folds train, validate and are measured in each fold |
| `plan` | `Plan`: the runs of a cross-validation, what it is of, and what is there |
| `queries` | that no query is measured which a run has trained on |
| `training` | trains the runs of a plan, one after the other, beside other processes |
| `summary` | `cv.json` and `per_query.parquet` of all runs |
| `systems` | what `compare` was given: runs, cross-validations, tables of queries |
| `comparison` | their metrics side by side, and tests of the differences |
"""
