"""`import tfr_pipeline as tfr` has every name of TF-Ranking, called in the same way."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import tfr_pipeline
from tests.pipeline.training_helpers import environment
from tests.ranking_data import LABEL_SPEC, MASK, random_lists, write_elwc
from tfr_pipeline.compat import tf, tfr

FACES = (
    "model",
    "pipeline",
    "saved_model",
    "losses",
    "metrics",
    "layers",
    "strategy_utils",
)
# Names of ours whose parameters are not TF-Ranking's, and why.
EXCEPTIONS = {
    # TF-Ranking's private mark for "no partitioner given" is an object of its own.
    "get_strategy": "variable_partitioner",
    # TF-Ranking 0.5.5 has 1.0, as the class that it takes the loss from; 0.5.3 has 0.1.
    "YetiLogisticLoss": "temperature",
}


def face(name):
    return importlib.import_module(f"tfr_pipeline.keras.{name}")


def is_theirs(value):
    module = getattr(value, "__module__", None) or ""
    return callable(value) and module.startswith("tensorflow_ranking.")


def names():
    """Returns `(face, name)` of what TF-Ranking itself defines."""
    return [
        (module, name)
        for module in FACES
        for name, value in vars(getattr(tfr.keras, module)).items()
        if is_theirs(value) and not name.startswith("_")
    ]


def replaced():
    return [
        (module, name)
        for module, name in names()
        if getattr(face(module), name) is not getattr(getattr(tfr.keras, module), name)
    ]


def replaced_classes(*modules):
    return [
        (module, name)
        for module, name in replaced()
        if inspect.isclass(getattr(face(module), name)) and module in modules
    ]


def test_the_classes_of_a_pipeline_are_ours():
    found = {name for _, name in replaced()}
    assert len(found) > 50
    assert {"ModelBuilder", "SimplePipeline", "Signatures", "SoftmaxLoss"} <= found


@pytest.mark.parametrize("module", FACES)
def test_faces_have_every_name_of_tf_ranking(module):
    ours, theirs = face(module), getattr(tfr.keras, module)
    assert getattr(tfr_pipeline.keras, module) is ours
    assert not [name for name in dir(theirs) if not hasattr(ours, name)]
    assert set(dir(theirs)) <= set(dir(ours))


# Functions stay in their modules: two of them are called `get`.
@pytest.mark.parametrize(
    "module, name",
    [(m, n) for m, n in names() if m != "strategy_utils" and n[0].isupper()],
)
def test_classes_are_also_at_the_top(module, name):
    assert getattr(tfr_pipeline, name) is getattr(face(module), name)


def parameters(function):
    return list(inspect.signature(function).parameters.values())


def same(ours, theirs):
    """Whether `ours` has the parameters of `theirs`, and others by keyword only."""
    ours, theirs = parameters(ours), parameters(theirs)
    known = {p.name for p in theirs}
    kept = [
        p for p in ours if p.name in known or p.kind != inspect.Parameter.KEYWORD_ONLY
    ]
    return [(p.name, p.default) for p in kept] == [(p.name, p.default) for p in theirs]


@pytest.mark.parametrize("module, name", replaced())
def test_parameters_are_tf_rankings(module, name):
    ours, theirs = getattr(face(module), name), getattr(tfr.keras, module)
    theirs = getattr(theirs, name)
    if name not in EXCEPTIONS:
        assert same(ours, theirs), (inspect.signature(ours), inspect.signature(theirs))
    else:
        differ = {
            a.name
            for a, b in zip(parameters(ours), parameters(theirs), strict=True)
            if (a.name, a.default) != (b.name, b.default)
        }
        assert differ <= {EXCEPTIONS[name]}


@pytest.mark.parametrize("module, name", replaced_classes(*FACES))
def test_methods_take_tf_rankings_parameters(module, name):
    ours, theirs = getattr(face(module), name), getattr(tfr.keras, module)
    theirs = getattr(theirs, name)
    for method, function in vars(theirs).items():
        if not inspect.isfunction(function) or method == "__init__":
            continue
        if method.startswith("_") and method != "__call__":
            continue
        mine = getattr(ours, method)
        found, wanted = parameters(mine), parameters(function)
        assert [p.name for p in found[: len(wanted)]] == [p.name for p in wanted], (
            method
        )


@pytest.mark.parametrize(
    "path",
    [
        "data.build_ranking_dataset",
        "data.parse_from_example_list",
        "data.ELWC",
        "losses.make_loss_fn",
        "losses.create_ndcg_lambda_weight",
        "metrics.make_ranking_metric_fn",
        "metrics.compute_mean",
        "utils.padded_nd_indices",
        "utils",
        "feature",
        "losses_impl",
        "metrics_impl",
        "keras.layers.utils",
        "keras.network",
        "keras.model.create_keras_model",
        "keras.strategy_utils.get_output_filepath",
    ],
)
def test_what_is_not_replaced_is_tf_rankings(path):
    ours, theirs = tfr_pipeline, tfr
    for name in path.split("."):
        ours, theirs = getattr(ours, name), getattr(theirs, name)
    assert ours is theirs


@pytest.mark.parametrize("module", ["losses", "metrics", "data", "model", "utils"])
def test_modules_have_every_public_name_of_tf_rankings(module):
    ours, theirs = getattr(tfr_pipeline, module), getattr(tfr, module)
    missing = [
        name
        for name in dir(theirs)
        if not name.startswith("_") and not hasattr(ours, name)
    ]
    assert not missing


@pytest.mark.parametrize(
    "module",
    ["", ".keras", ".losses", ".metrics", ".data", ".model", ".keras.losses"],
)
def test_unknown_names_are_attribute_errors(module):
    with pytest.raises(AttributeError, match="no attribute 'NoSuch'"):
        importlib.import_module(f"tfr_pipeline{module}").NoSuch  # noqa: B018
    with pytest.raises(AttributeError, match="__no_such__"):
        importlib.import_module(f"tfr_pipeline{module}").__no_such__  # noqa: B018


def test_importing_the_packages_does_not_load_tensorflow():
    script = """
import sys
import tfr_pipeline
from tfr_pipeline import data, files, keras, losses, metrics, model
from tfr_pipeline.losses import RankingLossKey
from tfr_pipeline.metrics import RankingMetricKey, evaluation
found = [name for name in sys.modules if name.split(".")[0] in
         ("tensorflow", "keras", "tf_keras", "tensorflow_ranking")]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True)


SPEC = {"bm25": tf.io.FixedLenFeature((1,), tf.float32, 0.0)}


def script_of_tf_ranking(tfr, folder, path, **replace):
    """The published example of a pipeline, with `tfr` either library."""
    keras = tfr.keras
    dataset_hparams = keras.pipeline.DatasetHparams(
        train_input_pattern=path,
        valid_input_pattern=path,
        train_batch_size=2,
        valid_batch_size=2,
        list_size=3,
        dataset_reader=tf.data.TFRecordDataset,
    )
    pipeline_hparams = keras.pipeline.PipelineHparams(
        model_dir=str(folder),
        num_epochs=1,
        steps_per_epoch=1,
        validation_steps=1,
        learning_rate=0.05,
        loss="softmax_loss",
        export_best_model=False,
    )
    parts = {
        "model_builder": lambda: keras.model.ModelBuilder(
            input_creator=keras.model.FeatureSpecInputCreator({}, SPEC),
            preprocessor=keras.model.PreprocessorWithSpec({}),
            scorer=keras.model.DNNScorer(hidden_layer_dims=[4], output_units=1),
            mask_feature_name=MASK,
            name="ranker",
        ),
        "dataset_builder": lambda: keras.pipeline.SimpleDatasetBuilder(
            {}, SPEC, MASK, LABEL_SPEC, dataset_hparams
        ),
        "hparams": lambda: pipeline_hparams,
    }
    made = {name: replace.get(name) or make() for name, make in parts.items()}
    pipeline = keras.pipeline.SimplePipeline(**made)
    return made, pipeline


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "train"
    return write_elwc(file, random_lists(0, [3, 2, 3, 1], {}, SPEC))


def exports_after_training(pipeline, export):
    """Trains; returns whether there are finite weights in the export."""
    pipeline.train_and_validate(verbose=0)
    (found,) = export.glob("**/latest_model/saved_model.pb")
    loaded = tf.saved_model.load(str(found.parent))
    assert loaded.signatures["tensorflow/serving/predict"]
    reader = tf.train.load_checkpoint(str(found.parent / "variables" / "variables"))
    values = [
        reader.get_tensor(name)
        for name, dtype in reader.get_variable_to_dtype_map().items()
        if dtype == tf.float32
    ]
    return len(values) >= 4 and all(np.isfinite(value).all() for value in values)


@pytest.mark.parametrize("parts", [("model_builder", "hparams"), ("dataset_builder",)])
def test_our_pipeline_trains_parts_of_tf_ranking(tmp_path, path, parts):
    theirs, _ = script_of_tf_ranking(tfr, tmp_path / "run", path)
    _, pipeline = script_of_tf_ranking(
        tfr_pipeline, tmp_path / "run", path, **{part: theirs[part] for part in parts}
    )
    assert exports_after_training(pipeline, tmp_path / "run")


@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 16),
    reason="TF-Ranking's own pipeline runs with TensorFlow 2.15",
)
def test_tf_rankings_pipeline_trains_our_parts(tmp_path, path):
    ours, _ = script_of_tf_ranking(tfr_pipeline, tmp_path / "run", path)
    _, pipeline = script_of_tf_ranking(tfr, tmp_path / "run", path, **ours)
    assert exports_after_training(pipeline, tmp_path / "run")


@pytest.mark.parametrize(
    "module, name", replaced_classes("model", "pipeline", "saved_model")
)
def test_our_classes_are_subclasses_of_theirs(module, name):
    ours, theirs = getattr(face(module), name), getattr(tfr.keras, module)
    if name in ("SimplePipeline", "MultiTaskPipeline"):
        name = "ModelFitPipeline"  # nothing takes a pipeline
    assert issubclass(ours, getattr(theirs, name))


def test_the_page_for_users_of_tf_ranking_has_every_name():
    if not tfr.__version__.startswith("0.5.5"):
        pytest.skip("tensorflow-ranking 0.5.5 is the reference: LANE=tf215")
    path = pathlib.Path(__file__).parents[2] / "docs" / "compare_tf_ranking.py"
    spec = importlib.util.spec_from_file_location("compare_tf_ranking", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    table = script.table()
    assert table.count("\n") > 70
    assert "MISSING" not in table and "DIFFERS" not in table
    assert table in script.PAGE.read_text(), "run docs/compare_tf_ranking.py"
