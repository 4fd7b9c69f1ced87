"""Spoilt input of every kind: an error of one line, or the values that are there.

Each number is a case of its own, the same in every run.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import warnings

import numpy as np
import pytest

from tests.data.conversion_helpers import all_records, records
from tests.fuzz import mutations
from tests.fuzz.commands import VALUES, check, run
from tests.pipeline.training_helpers import ROOT
from tfr_pipeline.data.records.tfrecord import frame
from tfr_pipeline.errors import PipelineError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

CASES, QUICK = 1200, 100
# What a hundred cases are of; those behind the first two lines load models.
KINDS = (
    *("text",) * 30 + ("query_file",) * 5 + ("csv", "tsv") * 9 + ("flags",) * 12,
    *("records",) * 10 + ("protos",) * 8 + ("features",) * 6 + ("cache",) * 5,
    *("packed",) * 3 + ("statistics",) * 1 + ("model",) * 2,
)
assert len(KINDS) == 100


def text_case(rng, sound, folder, output):
    path = folder / "text.txt"
    times = rng.choice((0, 1, 1, 2, 4))
    path.write_bytes(mutations.mutate(rng, (sound / "text.txt").read_bytes(), times))
    nan = rng.choice(("error", "zero", "keep"))
    words = ["convert", f"--input={path}", f"--output={output}", f"--nan={nan}"]
    if grouped := rng.random() < 0.3:
        words.append("--group_by_query")
    code = check([*words, f"--num_shards={rng.randint(1, 3)}"], folder, output)
    assert code == 0 or times > 0
    if code == 0:
        rows = mutations.read_libsvm(path.read_bytes(), nan)
        if grouped:
            order = list(dict.fromkeys(query for _, query, _ in rows))
            rows.sort(key=lambda row: order.index(row[1]))
        same_rows(rows, mutations.read_elwc(all_records(output)), output)


def same_rows(rows, found, output):
    """Compares rows of text with those of records, and with the statistics."""
    width = len(found[0][2])
    assert [row[:2] for row in found] == [
        (np.float32(label), query) for label, query, _ in rows
    ]
    wanted = np.zeros((len(rows), width), np.float32)
    for number, (_, _, values) in enumerate(rows):
        for index, value in values.items():
            wanted[number, index - 1] = value
    np.testing.assert_allclose([row[2] for row in found], wanted, rtol=2e-7)
    stats = json.loads((output / "train.stats.json").read_text())
    assert stats["documents"] == len(rows)
    assert stats["queries"] == len({query for _, query, _ in rows})


def query_file_case(rng, sound, folder, output):
    for name in ("plain.txt", "plain.query"):
        content = (sound / name).read_bytes()
        times = rng.choice((0, 1, 2))
        (folder / name).write_bytes(mutations.mutate(rng, content, times))
    words = [f"--input={folder}/plain.txt", f"--query_file={folder}/plain.query"]
    if check(["convert", *words, f"--output={output}"], folder, output) == 0:
        lengths = (folder / "plain.query").read_bytes().removeprefix(b"\xef\xbb\xbf")
        stats = json.loads((output / "train.stats.json").read_text())
        assert stats["documents"] == sum(map(int, lengths.split()))


def table_case(kind):
    def case(rng, sound, folder, output):
        path = folder / f"table.{kind}"
        content = (sound / f"table.{kind}").read_bytes()
        if nothing := rng.random() < 0.1:
            path.write_bytes(content)
        else:
            path.write_bytes(mutations.mutate(rng, content))
        words = ["convert", f"--input={path}", f"--input_format={kind}"]
        words += [f"--output={output}", f"--nan={rng.choice(('error', 'zero'))}"]
        if rng.random() < 0.5:
            words.append("--feature_columns=x,y")
        code = check(words, folder, output)
        assert code == 0 or not nothing
        if code == 0:
            found = mutations.read_elwc(all_records(output))
            assert all(math.isfinite(v) for row in found for v in row[2])
            stats = json.loads((output / "train.stats.json").read_text())
            assert stats["documents"] == len(found)

    return case


def flags_case(rng, sound, folder, output):
    shutil.copy(sound / "text.txt", folder / "text.txt")
    words = [f"--input={folder}/text.txt", f"--output={output}"]
    names = ("split", "num_shards", "num_features", "nan", "input_format", "workers")
    names += ("output_format", "query_file", "label_column", "qid_column", "features")
    names += ("docid_column", "feature_columns", "context_columns", "scalar_features")
    names += ("input", "label_columns", "weight_column", "group_by_query", "nothing")
    for name in rng.sample(names, rng.randint(1, 3)):
        value = rng.choice(VALUES)
        if name == "workers" and value.isdigit():
            value = "1"  # processes are slow to start
        words.append(f"--{name}={value}" if rng.random() < 0.9 else f"--{name}")
    check(["convert", *words], folder, output)


def records_case(rng, sound, folder, output):
    kind = rng.choice(("elwc", "seq"))
    path = folder / "in"
    content = (sound / f"in.{kind}").read_bytes()
    path.write_bytes(mutations.mutate(rng, content, rng.choice((1, 1, 2))))
    label = "--label_column=relevance"
    words = [f"--input={path}", f"--input_format={kind}", label, f"--output={output}"]
    if check(["convert", *words], folder, output) == 0:
        # Only that whole records are lost, doubled or exchanged is not found out.
        found = records(path)
        assert set(found) <= set(records(sound / f"in.{kind}"))
        assert b"".join(frame(found)) == path.read_bytes()


def protos_case(rng, sound, folder, output):
    """Sound checksums around spoilt protos."""
    kind = rng.choice(("elwc", "seq"))
    spoilt = records(sound / f"in.{kind}")
    place = rng.randrange(len(spoilt))
    spoilt[place] = mutations.mutate(rng, spoilt[place], 1)
    (folder / "in").write_bytes(b"".join(frame(spoilt)))
    words = [f"--input={folder}/in", f"--input_format={kind}", f"--output={output}"]
    check(["convert", *words, "--label_column=relevance"], folder, output)


def features_case(rng, sound, folder, output):
    shutil.copy(sound / "in.elwc", folder / "in")
    words = [f"--input={folder}/in", "--input_format=elwc", f"--output={output}"]
    assert run("convert", *words, "--label_column=relevance")[0] == 0
    path = folder / "f.json"
    shutil.move(output / "features.json", path)
    mutations.remove(output)
    mutations.spoil(rng, path)
    check(["convert", *words, f"--features={path}"], folder, output)


def lists_of(folder, kind, cache=""):
    hparams = DatasetHparams(f"{folder}/{kind}/train-*", "", 4, 4, cache=cache)
    features = Features.load(str(folder / kind))
    return SimpleDatasetBuilder.from_features(features, hparams).lists(
        "train", "packed"
    )


def cache_case(rng, sound, folder, output):
    shutil.copytree(sound / "elwc", folder / "elwc")
    wanted = lists_of(folder, "elwc")
    lists_of(folder, "elwc", str(folder / "cache"))
    before = mutations.tree(folder / "elwc")
    paths = [path for path in (folder / "cache").rglob("*") if path.is_file()]
    mutations.spoil_file(rng, rng.choice(sorted(paths)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = lists_of(folder, "elwc", str(folder / "cache"))
        except PipelineError as error:
            assert str(folder / "cache") in str(error)
            return
    np.testing.assert_array_equal(found.values["float32"], wanted.values["float32"])
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert found.query_ids.tolist() == wanted.query_ids.tolist()
    assert mutations.tree(folder / "elwc") == before


def packed_case(rng, sound, folder, output):
    kind = rng.choice(("packed", "narrow"))
    shutil.copytree(sound / kind, folder / "packed")
    (path,) = (folder / "packed").glob("train-*")
    spoilt = records(path)
    place = rng.randrange(len(spoilt))
    spoilt[place] = mutations.mutate(rng, spoilt[place], 1)
    path.write_bytes(b"".join(frame(spoilt)))
    words = [f"--model={sound}/model", f"--data={folder}/packed/train-*"]
    check(["evaluate", *words, f"--output={output}"], folder, output)


def statistics_case(rng, sound, folder, output):
    shutil.copytree(sound / "elwc", folder / "elwc")
    path = folder / "elwc" / "train.stats.json"
    mutations.spoil(rng, path)
    words = [f"--model={sound}/model", f"--data={folder}/elwc/train-*"]
    check(["evaluate", *words, f"--output={output}"], folder, output)


def model_case(rng, sound, folder, output):
    shutil.copytree(sound / "model", folder / "model")
    paths = sorted(p for p in (folder / "model").rglob("*") if p.is_file())
    mutations.spoil(rng, rng.choice(paths))
    words = [f"--model={folder}/model", f"--input={sound}/text.txt"]
    check(["predict", *words, f"--output={output}"], folder, output)


def train_case(rng, sound, folder, output):
    """A data folder or a config that is spoilt, as far as `--dry_run` goes."""
    shutil.copytree(sound / "elwc", folder / "elwc")
    config = folder / "config.py"
    shutil.copy(ROOT / "configs" / "letor.py", config)
    words = [f"--config.data.dir={folder}/elwc", f"--config.model_dir={output}"]
    words += [f"--config.data.valid={folder}/elwc/train-*", "--config.data.test="]
    kind = rng.randrange(4)
    if kind == 0:
        mutations.spoil(rng, rng.choice(sorted((folder / "elwc").iterdir())))
    elif kind == 1:
        text = config.read_text()
        config.write_text(text.replace("64, 32", rng.choice(VALUES[:9]), 1))
    elif kind == 2:
        config.write_bytes(mutations.mutate(rng, config.read_bytes(), 1))
    else:
        keys = ("model.scorer", "pipeline.loss", "pipeline.optimizer", "seed")
        keys += ("data.train_batch_size", "pipeline.num_epochs", "model.preprocess")
        keys += ("pipeline.learning_rate", "data.list_size", "pipeline.nothing")
        words.append(f"--config.{rng.choice(keys)}={rng.choice(VALUES)}")
    check(["train", f"--config={config}:dnn", *words, "--dry_run"], folder, output)


def synthesize_case(rng, sound, folder, output):
    words = ["--queries=4", "--documents=4", "--features=8"]
    names = ("queries", "documents", "features", "seed", "force", "nothing")
    for name in rng.sample(names, rng.randint(1, 2)):
        words.append(f"--{name}={rng.choice(VALUES)}")
    check(["synthesize", *words, f"--output={output}"], folder, output)


RUN = {
    "synthesize": synthesize_case,
    "text": text_case,
    "query_file": query_file_case,
    "csv": table_case("csv"),
    "tsv": table_case("tsv"),
    "flags": flags_case,
    "records": records_case,
    "protos": protos_case,
    "features": features_case,
    "cache": cache_case,
    "packed": packed_case,
    "statistics": statistics_case,
    "model": model_case,
    "train": train_case,
}


def one(number, kind, sound, folder):
    (folder / "in").mkdir(parents=True)
    RUN[kind](random.Random(number), sound, folder / "in", folder / "out")
    mutations.remove(folder)


def cases(numbers):
    """Returns `(number, kind)` of each case."""
    return [(n, KINDS[n * 37 % len(KINDS)]) for n in numbers]


@pytest.mark.parametrize(("number", "kind"), cases(range(QUICK)))
def test_spoilt_input_is_named_or_read_as_it_is(number, kind, sound, tmp_path):
    one(number, kind, sound, tmp_path / "case")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, CASES, 50))
def test_more_spoilt_input_is_named_or_read_as_it_is(first, sound, tmp_path):
    for number, kind in cases(range(first, first + 50)):
        print(f"case {number}: {kind}")  # the last one is that which failed
        one(number, kind, sound, tmp_path / str(number))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100))
def test_synthesize_is_refused_or_done(number, sound, tmp_path):
    one(number, "synthesize", sound, tmp_path / "case")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(40))
def test_training_on_spoilt_data_or_settings_is_refused(number, sound, tmp_path):
    one(number, "train", sound, tmp_path / "case")
