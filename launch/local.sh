#!/bin/sh
# Several workers on this machine, for MultiWorkerMirroredStrategy:
#   launch/local.sh --workers=2 -- tfr-pipeline train --config=configs/letor.py:dnn \
#     --config.data.dir=DIR --config.model_dir=OUT \
#     --config.pipeline.strategy=MultiWorkerMirroredStrategy
# --help names the other flags. PYTHON is the interpreter, python by default.
exec "${PYTHON:-python}" -m tfr_pipeline.cluster.local "$@"
