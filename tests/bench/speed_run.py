"""One run of one system on one case, in a process of its own. Called by `speed.py`.

`ours` and `tf_ranking` are the same program with another import: that is the claim.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import tempfile
import time
from typing import Any

START = float(os.environ.get("BENCH_START") or time.time())

import numpy as np  # noqa: E402
import speed_cases  # noqa: E402
from speed_data import Data  # noqa: E402

import tfr_pipeline  # noqa: E402  (selects Keras 2, also for TF-Ranking)
from tfr_pipeline.compat import tf, tfr  # noqa: E402
from tfr_pipeline.metrics.evaluation import evaluate_lists  # noqa: E402


def log1p(tensor: Any) -> Any:
    """Tames long tails on both sides."""
    return tf.sign(tensor) * tf.math.log1p(tf.abs(tensor))


def make_model_builder(keras: Any, case: speed_cases.Case, features: Any) -> Any:
    """Returns the model builder of a case, by `tfr.keras` or `tfr_pipeline.keras`."""
    arguments = {"activation": tf.nn.relu, "batch_norm_moment": 0.9}
    if case.model == "gam":
        scorer = keras.model.GAMScorer(
            example_hidden_layer_dims=[16, 8], dropout=0.0, **arguments
        )
    else:
        dims, dropout = speed_cases.NETWORKS[case.model]
        scorer = keras.model.DNNScorer(
            hidden_layer_dims=dims, output_units=1, dropout=dropout, **arguments
        )
    spec = features.example_spec
    return keras.model.ModelBuilder(
        input_creator=keras.model.FeatureSpecInputCreator({}, spec),
        preprocessor=keras.model.PreprocessorWithSpec(dict.fromkeys(spec, log1p)),
        scorer=scorer,
        mask_feature_name="mask",
        name="bench",
    )


def make_dataset_builder(keras: Any, case: speed_cases.Case, data: Data) -> Any:
    """Returns the dataset builder of a case."""
    features = data.features
    return keras.pipeline.SimpleDatasetBuilder(
        {},
        features.example_spec,
        mask_feature_name="mask",
        label_spec=features.label_spec,
        hparams=keras.pipeline.DatasetHparams(
            train_input_pattern=data.pattern("train", case.input),
            valid_input_pattern=data.pattern("valid", case.input),
            train_batch_size=speed_cases.BATCH,
            valid_batch_size=speed_cases.BATCH,
            list_size=case.list_size,
            valid_list_size=case.list_size,
        ),
    )


class Clock(tf.keras.callbacks.Callback):
    """Notes when training begins and ends in each epoch, and the first step."""

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = True  # so that nobody waits for the logs
        self.first = None
        self.begin: list[float] = []
        self.end: list[float] = []
        self.history: list[tuple[float, float]] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin.append(time.time())

    def on_train_batch_end(self, batch, logs=None):
        self.first = self.first or time.time()

    def on_test_begin(self, logs=None):
        self.end.append(time.time())

    def on_epoch_end(self, epoch, logs=None):
        ndcg = float(logs["val_metric/ndcg_10"])
        self.history.append((round(time.time() - START, 2), ndcg))


def make_pipeline(keras: Any, case: speed_cases.Case, data: Data, folder: str) -> Any:
    """Returns the pipeline of a case and its clock."""
    clock = Clock()

    class Pipeline(keras.pipeline.SimplePipeline):
        def build_callbacks(self):
            return [clock, *super().build_callbacks()]

        def build_loss(self):
            if case.loss != "lambda":
                return super().build_loss()
            weight = keras.losses.NDCGLambdaWeight(topn=10)
            return keras.losses.PairwiseLogisticLoss(lambda_weight=weight)

    hparams = keras.pipeline.PipelineHparams(
        model_dir=folder,
        num_epochs=case.epochs,
        steps_per_epoch=case.steps,
        validation_steps=300 // speed_cases.BATCH,
        learning_rate=0.001,
        loss="softmax_loss" if case.loss == "lambda" else case.loss,
        optimizer="adam",
        export_best_model=True,
        best_exporter_metric="ndcg_10",
        best_exporter_metric_higher_better=True,
        strategy=None,
        **({"precision": case.precision} if case.precision else {}),
    )
    pipeline = Pipeline(
        make_model_builder(keras, case, data.features),
        make_dataset_builder(keras, case, data),
        hparams,
    )
    return pipeline, clock


def train(keras: Any, case: speed_cases.Case, data: Data) -> dict[str, Any]:
    """Trains and exports; returns the figures."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline, clock = make_pipeline(keras, case, data, folder)
        pipeline.train_and_validate(verbose=0)
        done = time.time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        exports = sorted(pathlib.Path(folder).glob("export/*/saved_model.pb"))
        assert len(exports) == 2, exports
        ndcg = valid_ndcg(str(exports[-1].parent), data)  # the latest model
    lengths = data.arrays("train").lengths
    if case.list_size:
        lengths = lengths.clip(max=case.list_size)
    documents = float(lengths.mean()) * speed_cases.BATCH * case.steps
    rates = [
        documents / (end - begin)
        for begin, end in zip(clock.begin[1:], clock.end[1:], strict=True)
    ]
    return {
        "documents_per_second": statistics.median(rates),
        "seconds": done - START,
        "first_steps_seconds": clock.first - START,
        "peak_gib": peak,
        "valid_ndcg@10": ndcg,
        "history": clock.history,
    }


def valid_ndcg(export: str, data: Data) -> float:
    """NDCG@10 of the validation lists, whole, by an exported model."""
    loaded = tf.saved_model.load(export)
    predict = loaded.signatures["tensorflow/serving/predict"]
    lists = data.arrays("valid")
    files = sorted(tf.io.gfile.glob(data.pattern("valid", "elwc")))
    scores, first = [], 0
    for batch in tf.data.TFRecordDataset(files).batch(10):
        padded = next(iter(predict(batch).values())).numpy()
        lengths = lists.lengths[first : first + len(padded)]
        scores += [row[:length] for row, length in zip(padded, lengths, strict=True)]
        first += len(padded)
    result = evaluate_lists(
        lists.labels, np.concatenate(scores), lists.row_splits, bootstrap=0
    )
    return result["ndcg@10"]["skip"]


def bare_step(case: speed_cases.Case, data: Data) -> dict[str, Any]:
    """The training step of a case on one resident batch, without input or loop."""
    keras = tfr_pipeline.keras
    with tempfile.TemporaryDirectory() as folder:
        pipeline, _ = make_pipeline(keras, case, data, folder)
        model = pipeline._compile("packed", 1)
        builder = pipeline._dataset_builder
        batches = list(
            builder.make_dataset("train", "packed", prepare=model.preparation).take(63)
        )
    # The batch of median size stands for all.
    batches.sort(key=lambda batch: int(batch[1].row_splits[-1]))
    batch = batches[len(batches) // 2]
    documents = int(batch[1].row_splits[-1])

    @tf.function
    def steps(count):
        for _ in tf.range(count):
            model.train_step(batch)

    steps(tf.constant(3))
    rates = []
    for _ in range(5):
        begin = time.time()
        steps(tf.constant(case.steps))
        rates.append(documents * case.steps / (time.time() - begin))
    return {"documents_per_second": statistics.median(rates)}


def lightgbm(data: Data) -> dict[str, Any]:
    """LightGBM's lambdarank with early stopping: its NDCG and how long it took."""
    import lightgbm as gbm

    parts = {}
    for split in ("train", "valid"):
        lists = data.arrays(split)
        parts[split] = gbm.Dataset(
            np.asarray(lists.values["float32"]),
            np.asarray(lists.labels),
            group=lists.lengths,
            reference=parts.get("train"),
        )
    booster = gbm.train(
        {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "verbosity": -1,
            "num_threads": os.cpu_count(),
            "seed": 1,
        },
        parts["train"],
        num_boost_round=1000,
        valid_sets=[parts["valid"]],
        callbacks=[gbm.early_stopping(50, verbose=False)],
    )
    done = time.time()
    lists = data.arrays("valid")
    scores = booster.predict(np.asarray(lists.values["float32"]))
    result = evaluate_lists(lists.labels, scores, lists.row_splits, bootstrap=0)
    return {
        "seconds": done - START,
        "valid_ndcg@10": result["ndcg@10"]["skip"],
        "trees": booster.best_iteration,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--system", required=True)
    parser.add_argument("--case", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    case = speed_cases.CASES[arguments.case]
    data = Data(arguments.data)
    tf.keras.utils.set_random_seed(arguments.seed)
    if arguments.system == "limit":
        result = bare_step(case, data)
    elif arguments.system == "lightgbm":
        result = lightgbm(data)
    else:
        result = train(
            tfr.keras if arguments.system == "tf_ranking" else tfr_pipeline.keras,
            case,
            data,
        )
    arguments.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
