#!/bin/sh
# All tasks of a job on this machine:
#   launch/local.sh --workers=2 -- tfr-pipeline train --config=configs/letor.py:dnn \
#     --config.data.dir=DIR --config.model_dir=OUT \
#     --config.pipeline.strategy=MultiWorkerMirroredStrategy
# With --ps=M [--evaluator], for ParameterServerStrategy: a chief, N workers, M servers.
# --help names the other flags. PYTHON is the interpreter, python by default.
exec "${PYTHON:-python}" -m tfr_pipeline.cluster.local "$@"
