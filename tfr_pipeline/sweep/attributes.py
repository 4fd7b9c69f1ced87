"""What a sweep calls what it keeps in a study, and in its folder."""

from __future__ import annotations

# Attributes of the study.
TOLD, IDENTITY = "tfr_pipeline", "tfr_pipeline_id"
BUDGET = "tfr_pipeline_trials"
# Those of a trial that only workers read, and the ones for people.
BEAT = "tfr_pipeline:beat"
CLAIMS = "tfr_pipeline:claims"
WORKER, RUN, POINT = "worker", "run", "point"
REASON, SPREAD = "reason", "spread"
# In the folder.
MARKER = "sweep.json"
TRIALS = "trials"
