#!/bin/sh
# A command on a Cloud TPU VM, over gcloud:
#   launch/tpu_vm.sh --tpu=NAME --zone=ZONE --dir=PROJECT -- tfr-pipeline train \
#     --config=configs/letor.py:dnn --config.data.dir=DIR --config.model_dir=OUT \
#     --config.pipeline.strategy=TPUStrategy --config.pipeline.tpu=local
# With --worker=all, once on every host of a slice, to install things. --help names the
# other flags. PYTHON is the interpreter here, python by default.
exec "${PYTHON:-python}" -m tfr_pipeline.cluster.tpu_vm "$@"
