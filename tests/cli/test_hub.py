"""`docs/hub.md`: its code, configs and commands, to a module that others fine-tune."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.command_helpers import shell_of
from tests.pipeline.training_helpers import ROOT, read_json
from tests.serving.test_module import ELSEWHERE
from tfr_pipeline.cli.main import main
from tfr_pipeline.compat import hub, tf
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

PAGE = ROOT / "docs" / "hub.md"
WORDS = ["time", "people", "water", "music", "school"]
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        model_dir="run",
        data=dict(dir="data", train_batch_size=4, valid_batch_size=4),
        model=dict(scorer_args=dict(hidden_layer_dims=(8,)), **{model}),
        pipeline=dict(
            num_epochs=3, loss="softmax_loss", learning_rate=0.1, **{pipeline}
        ),
    ))
"""


def of_page(word: str) -> list[str]:
    """Returns the words of the command of the page that has this one."""
    lines = shell_of(PAGE).replace("\\\n", " ").splitlines()
    (found,) = [words for words in map(shlex.split, lines) if word in words]
    assert found[0] == "tfr-pipeline"
    return found[1:]


def snippets() -> list[str]:
    """Returns the Python of the page: code first, then parts of configs."""
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [text for text in found if text]


def write_table(path, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = ["qid,label,query,title,price"]
    for query in range(12):
        word = WORDS[query % len(WORDS)]
        for place in range(4):
            other = random.choice([w for w in WORDS if w != word])
            title = f"the {word if place % 2 else other} of {random.choice(WORDS)}"
            rows.append(f"q{query},{place % 2},{word},{title},{random.random():.2f}")
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def project(text_module, tmp_path_factory):
    """The folder that the page is about, where this process then is."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(text_module, folder / "modules" / "nnlm" / "2")
    for seed, split in enumerate(("train", "valid")):
        write_table(folder / f"{split}.csv", seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = of_page("--output=data")
        assert main(words) == 0
        valid = [word.replace("train.csv", "valid.csv") for word in words]
        assert main([*valid, "--split=valid"]) == 0
        yield folder


def test_its_code_builds_a_model(project) -> None:
    code, *_ = snippets()
    names: dict[str, object] = {}
    exec(code, names)
    model = names["builder"].build()
    assert model.count_params() > 512 * 64


def test_its_first_command_makes_vectors(project, text_module) -> None:
    assert main(of_page("--output=vectors")) == 0
    features = Features.load("vectors")
    assert features.context["query"].shape == features.example["title"].shape == (512,)


def test_vectors_of_another_program_are_joined(project) -> None:
    random = np.random.default_rng(2)
    vectors = random.normal(size=(8, 2, 16)).astype(np.float32)
    vectors[:, 0] = vectors[::4, :1].repeat(4, axis=0)[:, 0]
    table = {
        "qid": [f"q{row // 4}" for row in range(8)],
        "label": [row % 2 for row in range(8)],
        "query": [WORDS[row // 4] for row in range(8)],
        "title": [f"title {row}" for row in range(8)],
        "query_vector": vectors[:, 0].tolist(),
        "title_vector": vectors[:, 1].tolist(),
    }
    pq.write_table(pa.table(table), "vectors.parquet")
    assert main(of_page("--output=joined")) == 0
    hparams = DatasetHparams("joined/train-*", "", 2, 2)
    builder = SimpleDatasetBuilder.from_features(Features.load("joined"), hparams)
    lists = builder.lists("train")
    np.testing.assert_array_equal(lists.values["float32"], vectors[:, 1])
    np.testing.assert_array_equal(lists.context["query_vector"], vectors[::4, 0])


def write_config(path, *parts: str) -> None:
    """Writes a config with parts of the page; later ones count more."""
    found = {"model": {}, "pipeline": {}}
    for part in parts:
        for key, value in eval(f"{{{part}}}").items():
            found[key].update(value)
    path.write_text(CONFIG.format(**found))


def test_its_config_is_one(project, capsys) -> None:
    _, model, *_ = snippets()
    write_config(project / "frozen.py", model)
    assert main(["train", "--config=frozen.py", "--dry_run"]) == 0
    assert "hub_encoder" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trained_module_is_fine_tuned_by_a_process_without_this_package(
    project, text_module
) -> None:
    _, model, pipeline = snippets()
    write_config(project / "trained.py", model, pipeline)
    assert main(["train", "--config=trained.py"]) == 0
    words = of_page("export")
    assert main(words) == 0
    # What training has made of it, by hand.
    step = read_json("run/metrics.json")["step"]
    reader = tf.train.load_checkpoint(f"run/checkpoints/ckpt-{step}")
    module = hub.load(text_module)
    (own,) = module.variables
    (trained,) = (
        reader.get_tensor(name)
        for name, shape in reader.get_variable_to_shape_map().items()
        if shape == own.shape.as_list() and "optimizer" not in name.lower()
    )
    texts = ["the water", "", "music at school"]
    before = module(texts).numpy()
    own.assign(trained)
    expected = module(texts).numpy()
    assert np.abs(expected - before).max() > 1e-3
    path = next(word.partition("=")[2] for word in words if "--output=" in word)
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE, path, json.dumps(texts)],
        env={**os.environ, "PYTHONPATH": "", "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found["vectors"], expected, rtol=1e-5, atol=1e-6)
    assert found["trained"] > 0 and not found["package"]
