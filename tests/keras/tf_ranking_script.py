"""A script as users of TF-Ranking have it, with every class of the pipeline API.

`test_one_import.py` runs it as it stands and with its one import line changed. It
trains four pipelines on the ELWC files in a folder and prints, as JSON, the seconds
of each and what its validation came to.
"""

import csv
import glob
import json
import os
import sys
import time

import tensorflow_ranking as tfr  # isort: skip
import tensorflow as tf

DATA, OUTPUT = sys.argv[1:3]
MASK = "example_list_mask"
NUM_FEATURES = 12
results = {}


def scalar(default=0.0):
    return tf.io.FixedLenFeature(shape=(1,), dtype=tf.float32, default_value=default)


context_spec = {"query_length": scalar()}
example_spec = {f"f{i}": scalar() for i in range(NUM_FEATURES)}
label_specs = {"click": ("click", scalar(-1.0)), "buy": ("buy", scalar(-1.0))}


def dataset_hparams():
    return tfr.keras.pipeline.DatasetHparams(
        train_input_pattern=os.path.join(DATA, "train-*"),
        valid_input_pattern=os.path.join(DATA, "valid-*"),
        train_batch_size=16,
        valid_batch_size=16,
        list_size=20,
        dataset_reader=tf.data.TFRecordDataset,
    )


def pipeline_hparams(name, loss, **more):
    return tfr.keras.pipeline.PipelineHparams(
        model_dir=os.path.join(OUTPUT, name),
        num_epochs=4,
        steps_per_epoch=40,
        validation_steps=4,
        learning_rate=0.02,
        loss=loss,
        strategy=None,
        **more,
    )


def log1p(tensor):
    return tf.sign(tensor) * tf.math.log1p(tf.abs(tensor))


class Logs:
    """Keeps what `model.fit` reports of validation."""

    def build_callbacks(self):
        path = os.path.join(OUTPUT, f"{self._model_builder._name}.csv")
        return [tf.keras.callbacks.CSVLogger(path), *super().build_callbacks()]


def timed(pipeline, name, metric=None):
    start = time.time()
    pipeline.train_and_validate(verbose=0)
    results[name] = {"seconds": time.time() - start}
    if metric:
        with open(os.path.join(OUTPUT, f"{name}.csv")) as file:
            last = list(csv.DictReader(file))[-1]
        results[name]["validation"] = float(last[f"val_{metric}"])


def exported_ndcg(path):
    loaded = tf.saved_model.load(path)
    predict = loaded.signatures[tf.saved_model.PREDICT_METHOD_NAME]
    metric = tfr.keras.metrics.NDCGMetric(topn=10)
    for records in tf.data.TFRecordDataset(glob.glob(f"{DATA}/valid-*")).batch(16):
        scores = predict(records)[tf.saved_model.PREDICT_OUTPUTS]
        parsed = tfr.data.parse_from_example_list(
            records,
            example_feature_spec=dict([label_specs["click"]]),
            list_size=int(scores.shape[1]),
        )
        metric.update_state(parsed["click"][:, :, 0], scores)
    return float(metric.result())


# 1. The pipeline of the guide.

simple_dataset = tfr.keras.pipeline.SimpleDatasetBuilder(
    context_spec, example_spec, MASK, label_specs["click"], dataset_hparams()
)
simple_model = tfr.keras.model.ModelBuilder(
    input_creator=tfr.keras.model.FeatureSpecInputCreator(context_spec, example_spec),
    preprocessor=tfr.keras.model.PreprocessorWithSpec(
        dict.fromkeys([*context_spec, *example_spec], log1p)
    ),
    scorer=tfr.keras.model.DNNScorer(
        hidden_layer_dims=[32, 16],
        output_units=1,
        activation=tf.nn.relu,
        use_batch_norm=True,
        batch_norm_moment=0.9,
        dropout=0.1,
    ),
    mask_feature_name=MASK,
    name="simple",
)
hparams = pipeline_hparams(
    "simple",
    "approx_ndcg_loss",
    export_best_model=True,
    best_exporter_metric="ndcg_10",
    best_exporter_metric_higher_better=True,
)


class LoggedSimplePipeline(Logs, tfr.keras.pipeline.SimplePipeline):
    pass


timed(
    LoggedSimplePipeline(simple_model, simple_dataset, hparams),
    "simple",
    "metric/ndcg_10",
)
for export in ("latest_model", "best_model_by_metric"):
    results[export] = {"validation": exported_ndcg(f"{OUTPUT}/simple/export/{export}")}


# 2. Own subclasses of every part.


class OwnInputs(tfr.keras.model.InputCreator):
    def __call__(self):
        example = {
            name: tf.keras.Input((None, 1), name=name, dtype=tf.float32)
            for name in example_spec
        }
        context = {"query_length": tf.keras.Input((1,), name="query_length")}
        return context, example


class OwnPreprocessor(tfr.keras.model.Preprocessor):
    def __call__(self, context_inputs, example_inputs, mask):
        centred = {
            name: value - tf.reduce_mean(value, axis=1, keepdims=True)
            for name, value in example_inputs.items()
        }
        return context_inputs, centred


class OwnScorer(tfr.keras.model.Scorer):
    def __call__(self, context_features, example_features, mask):
        features = tf.concat([example_features[n] for n in sorted(example_spec)], -1)
        hidden = tf.keras.layers.Dense(16, "tanh")(features)
        scores = tf.squeeze(tf.keras.layers.Dense(1)(hidden), -1)
        return tf.where(mask, scores, tf.math.log(1e-10))


class OwnDataset(tfr.keras.pipeline.BaseDatasetBuilder):
    def _features_and_labels(self, features):
        features = dict(features)
        label = tf.squeeze(features.pop("click"), axis=2)
        weight = tf.where(label > 2.0, 2.0, 1.0)
        return features, label, weight


class OwnPipeline(Logs, tfr.keras.pipeline.ModelFitPipeline):
    def build_loss(self):
        weight = tfr.keras.losses.NDCGLambdaWeight(topn=10)
        return tfr.keras.losses.PairwiseLogisticLoss(lambda_weight=weight)

    def build_metrics(self):
        return [tfr.keras.metrics.get("mrr", name="metric/mrr")]

    def build_weighted_metrics(self):
        return [tfr.keras.metrics.NDCGMetric(name="weighted_metric/ndcg")]


own_model = tfr.keras.model.ModelBuilder(
    OwnInputs(), OwnPreprocessor(), OwnScorer(), MASK, "own"
)
own_dataset = OwnDataset(
    context_spec, example_spec, dict([label_specs["click"]]), MASK, dataset_hparams()
)
hparams = pipeline_hparams("own", "", use_weighted_metrics=True)
timed(OwnPipeline(own_model, own_dataset, hparams), "own", "weighted_metric/ndcg")


# 3. Two tasks, with a univariate scorer of two heads.


class TwoHeads(tfr.keras.model.UnivariateScorer):
    def _score_flattened(self, context_features, example_features):
        names = sorted(example_features)
        inputs = tf.concat([example_features[name] for name in names], axis=-1)
        shared = tf.keras.layers.Dense(16, activation="relu")(inputs)
        return {
            task: tf.keras.layers.Dense(1, name=f"{task}_head")(shared)
            for task in label_specs
        }


class TwoTaskModel(tfr.keras.model.ModelBuilderWithMask):
    def create_inputs(self):
        creator = tfr.keras.model.FeatureSpecInputCreator(context_spec, example_spec)
        context_inputs, example_inputs = creator()
        mask = tf.keras.Input((None,), name=self._mask_feature_name, dtype=tf.bool)
        return context_inputs, example_inputs, mask

    def preprocess(self, context_inputs, example_inputs, mask):
        spec = dict.fromkeys(example_spec, log1p)
        preprocess = tfr.keras.model.PreprocessorWithSpec(spec)
        return preprocess(context_inputs, example_inputs, mask)

    def score(self, context_features, example_features, mask):
        return TwoHeads()(context_features, example_features, mask)


task_dataset = tfr.keras.pipeline.MultiLabelDatasetBuilder(
    context_spec, example_spec, MASK, label_specs, dataset_hparams()
)
hparams = pipeline_hparams(
    "tasks",
    {"click": "softmax_loss", "buy": "softmax_loss"},
    loss_weights={"click": 1.0, "buy": 0.5},
)
task_model = TwoTaskModel(MASK, "tasks")


class TwoTaskPipeline(Logs, tfr.keras.pipeline.MultiTaskPipeline):
    pass


timed(TwoTaskPipeline(task_model, task_dataset, hparams), "tasks", "buy_metric/ndcg_10")


# 4. A model and datasets made elsewhere; GAM; inputs by type.


class OwnKerasModel(tfr.keras.model.AbstractModelBuilder):
    _name = "elsewhere"

    def build(self):
        types = {n: tf.TensorSpec([None, None, 1], tf.float32) for n in example_spec}
        types[MASK] = tf.TensorSpec([None, None], tf.bool)
        create = tfr.keras.model.TypeSpecInputCreator(
            types, example_feature_names=list(types)
        )
        _, inputs = create()
        scorer = tfr.keras.model.GAMScorer(
            example_hidden_layer_dims=[8], activation=tf.nn.relu, use_batch_norm=False
        )
        features = {name: inputs[name] for name in example_spec}
        scores = scorer({}, features, inputs[MASK])
        return tf.keras.Model(inputs, scores, name=self._name)


class OwnDatasets(tfr.keras.pipeline.AbstractDatasetBuilder):
    def build_train_dataset(self):
        return simple_dataset.build_train_dataset().map(self.without_query)

    def build_valid_dataset(self):
        return simple_dataset.build_valid_dataset().map(self.without_query)

    def without_query(self, features, label):
        features = {n: v for n, v in features.items() if n != "query_length"}
        return features, label

    def build_signatures(self, model):
        return tfr.keras.saved_model.Signatures(model, {}, example_spec, MASK)()


class OwnTraining(tfr.keras.pipeline.AbstractPipeline):
    def __init__(self, model_builder, dataset_builder, path):
        self.model_builder, self.datasets = model_builder, dataset_builder
        self.path = path

    def build_loss(self):
        return tfr.keras.losses.get("softmax_loss")

    def build_metrics(self):
        return []

    def build_weighted_metrics(self):
        return []

    def train_and_validate(self, verbose=0):
        strategy = tfr.keras.strategy_utils.get_strategy("MirroredStrategy")
        with tfr.keras.strategy_utils.strategy_scope(strategy):
            model = self.model_builder.build()
            model.compile(tf.keras.optimizers.Adam(0.02), loss=self.build_loss())
        data = self.datasets.build_train_dataset()
        model.fit(data, epochs=2, steps_per_epoch=40, verbose=verbose)
        signatures = self.datasets.build_signatures(model)
        path = tfr.keras.strategy_utils.get_output_filepath(self.path, strategy)
        model.save(path, signatures=signatures)


own_datasets = OwnDatasets()
timed(OwnTraining(OwnKerasModel(), own_datasets, f"{OUTPUT}/by_hand"), "by_hand")
null_dataset = tfr.keras.pipeline.NullDatasetBuilder(
    own_datasets.build_train_dataset(), own_datasets.build_valid_dataset()
)
hparams = pipeline_hparams("elsewhere", "softmax_loss")
pipeline = LoggedSimplePipeline(OwnKerasModel(), null_dataset, hparams)
timed(pipeline, "elsewhere", "metric/ndcg_10")
print(json.dumps(results))
