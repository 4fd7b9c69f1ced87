"""An export needs nothing but TensorFlow, and is whole or absent."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.pipeline.training_helpers import environment, tree
from tests.ranking_data import CONTEXT_SPEC, RankedList, elwc, random_lists
from tests.serving.serving_helpers import (
    make_builder,
    make_signatures,
    randomize,
    rank_inputs,
)
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import RunError
from tfr_pipeline.serving.export import export_saved_model
from tfr_pipeline.serving.signatures import PREDICT, RANK, REGRESS, SERVING_DEFAULT

LISTS = random_lists(5, [3, 2, 4])
FLOAT = tf.io.FixedLenFeature((1,), tf.float32, 0.0)
KEYS = {PREDICT, REGRESS, RANK, SERVING_DEFAULT}
layouts = pytest.mark.parametrize("layout", ["padded", "packed"])


def trained(layout, seed=1):
    """A model with optimizer slots and metric variables."""
    builder = make_builder()
    model = randomize(
        builder.build() if layout == "padded" else builder.build_packed(), seed
    )
    model.compile("adam", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    assert len(model.optimizer.variables) > len(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def models():
    return {layout: trained(layout) for layout in ("padded", "packed")}


@pytest.fixture(scope="module")
def exports(models, tmp_path_factory):
    """`(path, scores of the model)` by layout."""
    result = {}
    for layout, model in models.items():
        path = str(tmp_path_factory.mktemp(layout) / "model" / "7")
        functions = make_signatures(model)()
        assert export_saved_model(model, functions, path, {"a.txt": "é"}) == path
        result[layout] = path, functions[RANK](**rank_inputs(LISTS))["scores"].numpy()
    return result


ELSEWHERE = """
import sys
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
inputs = np.load(sys.argv[2])
raw = {n: tf.constant(inputs[n]) for n in inputs.files if n != "serialized"}
raw["ids"] = tf.constant([], tf.string)
serialized = tf.constant(list(inputs["serialized"]))
np.savez(
    sys.argv[3],
    rank=loaded.signatures["rank"](**raw)["scores"],
    predict=loaded.signatures["tensorflow/serving/predict"](serialized)["outputs"],
)
packages = {name.split(".")[0] for name in sys.modules}
assert not packages & {"tfr_pipeline", "tensorflow_ranking"}
"""


@pytest.mark.parametrize(
    "layout", [pytest.param("padded", marks=pytest.mark.slow), "packed"]
)
def test_an_export_loads_where_only_tensorflow_is(exports, layout, tmp_path):
    path, scores = exports[layout]
    raw = {n: v.numpy() for n, v in rank_inputs(LISTS).items() if n != "ids"}
    serialized = np.array([elwc(ranked) for ranked in LISTS], "S")
    # A NumPy string loses the zero bytes at its end; a list's last byte is none.
    np.savez(tmp_path / "in.npz", serialized=serialized, **raw)
    variables = {
        name: value
        for name, value in environment().items()
        if name not in ("PYTHONPATH", "TF_USE_LEGACY_KERAS")
    }
    moved = tmp_path / "moved"
    shutil.copytree(path, moved)
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "moved", "in.npz", "out.npz"],
        cwd=tmp_path,
        env=variables,
        check=True,
    )
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["rank"], scores, rtol=1e-5, atol=1e-6)
    predicted = np.concatenate(
        [found["predict"][i, :n] for i, n in enumerate([3, 2, 4])]
    )
    np.testing.assert_allclose(predicted, scores, rtol=1e-5, atol=1e-6)


@layouts
def test_an_export_holds_the_weights_and_no_optimizer(exports, models, layout):
    path, _ = exports[layout]
    variables = tf.train.list_variables(os.path.join(path, "variables", "variables"))
    shapes = sorted(
        tuple(shape) for name, shape in variables if "CHECKPOINTABLE" not in name
    )
    assert shapes == sorted(tuple(w.shape) for w in models[layout].weights)
    size = sum(p.stat().st_size for p in pathlib.Path(path, "variables").iterdir())
    assert size < 40000
    assert not pathlib.Path(path, "keras_metadata.pb").exists()
    loaded = tf.saved_model.load(path)
    assert set(loaded.signatures) == KEYS


@layouts
def test_an_export_keeps_its_extra_files_and_no_temporary(exports, layout):
    path = pathlib.Path(exports[layout][0])
    assert (path / "assets.extra" / "a.txt").read_text("utf-8") == "é"
    assert os.listdir(path.parent) == ["7"]


def test_ids_default_to_none_for_a_server(exports):
    from tensorflow.core.protobuf import saved_model_pb2

    path, _ = exports["packed"]
    message = saved_model_pb2.SavedModel()
    message.ParseFromString(pathlib.Path(path, "saved_model.pb").read_bytes())
    signature = message.meta_graphs[0].signature_def[RANK]
    assert list(signature.defaults) == ["ids"]
    assert tf.make_ndarray(signature.defaults["ids"]).shape == (0,)
    assert {"row_splits", "ids", "bm25", "query_vector"} <= set(signature.inputs)
    assert set(signature.outputs) == {"scores", "ranks", "ids"}


def test_an_export_replaces_another_as_a_whole(models, tmp_path):
    path = tmp_path / "1"
    first, second = models["packed"], trained("packed", seed=9)
    functions = make_signatures(first)()
    export_saved_model(first, functions, str(path), {"features.json": "old"})
    functions = make_signatures(second)()
    export_saved_model(second, {RANK: functions[RANK]}, str(path))
    assert not (path / "assets.extra").exists()
    assert os.listdir(tmp_path) == ["1"]
    loaded = tf.saved_model.load(str(path))
    assert set(loaded.signatures) == {RANK}
    inputs = rank_inputs(LISTS)
    wanted = functions[RANK](**inputs)["scores"]
    found = loaded.signatures[RANK](**inputs)["scores"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["more", "assets.extra/warmup", "variables.txt"])
def test_an_export_never_replaces_what_somebody_added(exports, models, tmp_path, name):
    path = tmp_path / "1"
    shutil.copytree(exports["packed"][0], path)
    (path / "assets.extra" / "a.txt").unlink()
    (path / name).write_text("from elsewhere")
    before = tree(path)
    with pytest.raises(RunError, match=f"found '{name}' in it"):
        export_saved_model(models["packed"], {}, str(path))
    assert tree(path) == before
    assert os.listdir(tmp_path) == ["1"]


def test_a_failed_export_leaves_the_one_before(exports, models, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exports["packed"][0], path)
    (path / "assets.extra" / "a.txt").rename(path / "assets.extra" / "features.json")
    before = tree(path)
    with pytest.raises(RunError, match="nothing was left there"):
        # A folder that does not exist cannot hold the extra file.
        functions = make_signatures(models["packed"])()
        export_saved_model(models["packed"], functions, str(path), {"no/a.txt": ""})
    assert tree(path) == before
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize("below", ["1", "more/1"])
def test_an_export_below_a_file_is_refused_by_name(models, tmp_path, below):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / below
    with pytest.raises(RunError, match=rf"export to {path} failed"):
        export_saved_model(models["packed"], {}, str(path))
    assert os.listdir(tmp_path) == ["file"]


FULL_DISK = """
import os, resource, sys
from tests.serving.serving_helpers import make_builder, make_signatures, tf
from tfr_pipeline.errors import RunError
from tfr_pipeline.model.scorers import DNNScorer
from tfr_pipeline.serving.export import export_saved_model

model = make_builder(scorer=DNNScorer(hidden_layer_dims=[400, 400])).build_packed()
functions = make_signatures(model)()
{limit}
try:
    export_saved_model(model, functions, sys.argv[1])
except RunError as error:
    assert "nothing was left there" in str(error), error
    assert "MB are free" in str(error), error
else:
    raise AssertionError("no error")
"""
LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"


def export_elsewhere(folder, limit=""):
    (folder / "before").write_text("whole")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK.format(limit=limit), str(folder / "m" / "1")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == ["before"]


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)],
            capture_output=True,
        ).returncode
    )
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    try:
        export_elsewhere(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_that_cannot_grow_leaves_nothing_behind(tmp_path):
    export_elsewhere(tmp_path, LIMIT)


def vocabulary_file(folder):
    path = folder / "words.txt"
    path.write_text("a\nb\nc\n")
    return tf.keras.layers.StringLookup(vocabulary=str(path), output_mode="one_hot")


def adapted(folder):
    layer = tf.keras.layers.StringLookup(output_mode="one_hot")
    layer.adapt(tf.constant(["a", "b", "c", "a"]))
    return layer


LOOKUPS = {
    "list": lambda folder: tf.keras.layers.StringLookup(
        vocabulary=["a", "b", "c"], output_mode="one_hot"
    ),
    "file": vocabulary_file,
    "adapted": adapted,
    "hashing": lambda folder: tf.keras.Sequential(
        [tf.keras.layers.Hashing(8), tf.keras.layers.Embedding(8, 2)]
    ),
}


@pytest.mark.parametrize(
    "kind, layout",
    [("list", "padded"), *((kind, "packed") for kind in LOOKUPS if kind != "list")],
)
def test_lookups_of_text_survive_the_export(tmp_path, layout, kind):
    context, spec = {"q": tf.io.FixedLenFeature((1,), tf.string, "")}, {"x": FLOAT}
    layer = LOOKUPS[kind](tmp_path)

    def lookup(tensor):
        return tf.keras.layers.Flatten()(layer(tensor))

    builder = make_builder(context, spec, {"q": lookup})
    model = randomize(builder.build() if layout == "padded" else builder.build_packed())
    functions = make_signatures(model, context, spec)()
    path = tmp_path / "1"
    export_saved_model(model, functions, str(path))
    (tmp_path / "words.txt").unlink(missing_ok=True)
    lists = [
        RankedList({"q": np.array([q], object)}, [{"x": np.float32([1])}] * 2)
        for q in ("a", "b", "c", "unknown")
    ]
    inputs = rank_inputs(lists, context, spec)
    wanted = functions[RANK](**inputs)["scores"]
    found = tf.saved_model.load(str(path)).signatures[RANK](**inputs)["scores"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert len(set(np.round(found, 4))) >= 3


def test_text_of_documents_survives_the_export_of_a_padded_model(tmp_path):
    layer = tf.keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="int")
    spec = {"x": FLOAT, "word": tf.io.FixedLenFeature((1,), tf.string, "")}

    def number(tensor):
        return tf.cast(layer(tensor), tf.float32)

    model = randomize(
        make_builder(
            CONTEXT_SPEC,
            spec,
            {"word": number, "query_length": lambda t: tf.cast(t, tf.float32)},
        ).build()
    )
    functions = make_signatures(model, CONTEXT_SPEC, spec)()
    export_saved_model(model, functions, str(tmp_path / "1"))
    lists = [
        RankedList(
            {}, [{"x": np.float32([1]), "word": np.array([w], object)} for w in "abz"]
        )
    ]
    serialized = tf.constant([elwc(ranked) for ranked in lists])
    wanted = functions[PREDICT](serialized)["outputs"]
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    found = loaded.signatures[PREDICT](serialized)["outputs"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert len(set(np.round(found[0], 4))) == 3
