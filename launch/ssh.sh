#!/bin/sh
# The tasks of a job on several machines, over ssh without passwords:
#   launch/ssh.sh --hosts=a,b --workers=2 --dir=PROJECT -- tfr-pipeline train ... \
#     --config.pipeline.strategy=MultiWorkerMirroredStrategy
# All hosts need this package, and the same paths for data and model_dir. --help names
# the other flags. PYTHON is the interpreter, python by default.
exec "${PYTHON:-python}" -m tfr_pipeline.cluster.ssh "$@"
