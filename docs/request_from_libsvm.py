"""Makes the body of a request to TensorFlow Serving out of LibSVM lines.

    python docs/request_from_libsvm.py MODEL test.txt > body.json
    python docs/request_from_libsvm.py MODEL test.txt --grpc > body.pb

MODEL is an export, such as `run/export/best_model_by_metric`: its `features.json` says
how many columns there are, and under which names. Labels are not looked at. Takes the
standard library alone for REST, and tensorflow-serving-api for gRPC.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

SIGNATURE = "rank"


def read(lines: Iterable[str], width: int) -> dict[str, Any]:
    """Returns `features`, `row_splits` and `ids` of lines `label qid:Q K:V... # id`."""
    features: list[list[float]] = []
    row_splits, ids, query = [0], [], None
    for line in lines:
        body, _, comment = line.partition("#")
        _, qid, *pairs = body.split()
        if features and qid != query:
            row_splits.append(len(features))
        query, row = qid, [0.0] * width
        for pair in pairs:
            index, value = pair.split(":")
            row[int(index) - 1] = float(value)
        features.append(row)
        ids.append(comment.replace("docid =", "").split()[0])
    return {
        "features": features,
        "row_splits": [*row_splits, len(features)],
        "ids": ids,
    }


def inputs(model: str, lines: Iterable[str]) -> dict[str, Any]:
    """Returns the inputs of the signature `rank` of a model, by name."""
    path = os.path.join(model, "assets.extra", "features.json")
    with open(path, encoding="utf-8") as file:
        example = json.load(file)["example"]
    if list(example) == ["features"]:  # one vector
        return read(lines, example["features"]["shape"][0])
    # One feature for each column (convert --scalar_features): feature_1, feature_2.
    numbers = {name: int(name.removeprefix("feature_")) for name in example}
    found = read(lines, max(numbers.values()))
    rows = found.pop("features")
    return {**found, **{n: [[r[k - 1]] for r in rows] for n, k in numbers.items()}}


def rest(found: dict[str, Any]) -> bytes:
    """Returns the body of `POST /v1/models/NAME:predict`.

    It names its inputs one by one (`inputs`), because they differ in their first
    dimension; TensorFlow Serving refuses that in `instances`.
    """
    return json.dumps({"signature_name": SIGNATURE, "inputs": found}).encode()


def grpc(found: dict[str, Any], name: str) -> bytes:
    """Returns a serialized `PredictRequest`, which `PredictionService` takes."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = SIGNATURE
    types = {"row_splits": tf.int64, "ids": tf.string}
    for key, value in found.items():
        dtype = types.get(key, tf.float32)
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype))
    return request.SerializeToString()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of the SavedModel")
    parser.add_argument("lines", help="LibSVM file")
    parser.add_argument("--grpc", action="store_true", help="a PredictRequest")
    parser.add_argument("--name", default="ranker", help="name of the model served")
    args = parser.parse_args()
    with open(args.lines, encoding="utf-8") as file:
        found = inputs(args.model, file)
    sys.stdout.buffer.write(grpc(found, args.name) if args.grpc else rest(found))


if __name__ == "__main__":
    main()
