"""Workers of one job evaluate its export together, as one process would alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.pipeline import multi_task_data
from tests.pipeline.test_multi_worker import free_ports
from tests.pipeline.training_helpers import environment, make_config, read_json
from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.convert.conversion import Options, convert
from tfr_pipeline.data.synthesize import SPLITS, Size, synthesize
from tfr_pipeline.errors import DataError
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.features import Features
from tfr_pipeline.metrics.evaluation import QueryMetrics
from tfr_pipeline.metrics.query_table import FILE_NAME, QueryTable
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.run import peers, shared_evaluation
from tfr_pipeline.pipeline.run.measuring import Measured, evaluate
from tfr_pipeline.serving import predictor as predictor_lib
from tfr_pipeline.serving.predictor import Predictor

TASKS = ("relevance", "click")
WORKERS = 2
DOCUMENTS_PER_CALL = 40
# Data of a few kB is large, and sharing it always worth it. Notes what is read of which
# file, and which files are read whole. argv: config, what is noted, method to call,
# number of the worker to be killed while it evaluates.
WORKER = f"""
import json, os, signal, sys
from tfr_pipeline.data.batching import windowed
from tfr_pipeline.data.reading import loading, ranges
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.run import peers, shared_evaluation
from tfr_pipeline.serving import predictor

windowed.WINDOW, windowed.BLOCK = 2_000, 400
predictor._DOCUMENTS_PER_CALL = {DOCUMENTS_PER_CALL}
shared_evaluation._PIECE = 100
shared_evaluation._EXCHANGE = shared_evaluation._WORTH = 0.0
peers._PIECE = 1000
config, place, method, killed = sys.argv[1:]
worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
notes = {{"ranges": [], "whole": [], "measured": 0}}

def noted(path, start, stop, content=ranges._content):
    notes["ranges"].append([os.path.basename(path), start, stop])
    return content(path, start, stop)

def load(paths, parser, label, weight=None, reader=None, *others, **more):
    if not isinstance(reader, ranges.RecordRange):
        notes["whole"] += map(os.path.basename, paths)
    return load_lists(paths, parser, label, weight, reader, *others, **more)

def of_part(cls, *args):
    if killed == str(worker):
        os.kill(os.getpid(), signal.SIGKILL)
    notes["measured"] += args[1].num_lists
    return measure(*args)

load_lists, loading.load, ranges._content = loading.load, load, noted
measure = shared_evaluation.Measured.of_part
shared_evaluation.Measured.of_part = classmethod(of_part)
getattr(build_pipeline(json.loads(config)), method)()
with open(place, "w") as file:
    json.dump(notes, file)
"""


def start(config, folder, method="train_and_validate", killed=-1, script=WORKER):
    """Starts two workers; each writes its notes into the folder."""
    folder.mkdir(exist_ok=True)
    hosts = [f"localhost:{port}" for port in free_ports(WORKERS)]
    workers = []
    for index in range(WORKERS):
        task = {"type": "worker", "index": index}
        arguments = (json.dumps(config), folder / f"{index}.json", method, killed)
        with open(folder / f"{index}.log", "w") as log:
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-c", script, *map(str, arguments)],
                    env=environment(
                        TF_CONFIG=json.dumps(
                            {"cluster": {"worker": hosts}, "task": task}
                        ),
                        TMPDIR=str(folder),
                    ),
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )
    return workers


def run(config, folder, method="train_and_validate", script=WORKER):
    """Runs two workers; returns what they noted."""
    for index, worker in enumerate(start(config, folder, method, script=script)):
        code = worker.wait(timeout=240)
        assert code == 0, (folder / f"{index}.log").read_text()[-3000:]
    return [read_json(folder / f"{index}.json") for index in range(WORKERS)]


def single(folder):
    """Data with one label."""
    synthesize(str(folder / "text"), Size(queries=200, documents=12, features=8))
    for split in SPLITS:
        convert(
            str(folder / "text" / f"{split}.txt"),
            str(folder / "data"),
            split=split,
            num_shards=3,
        )
    return folder / "data"


def several(folder):
    """Data with two labels, of which one is in the last lists of each split only."""
    random = np.random.default_rng(0)
    names = [f"x{number}" for number in range(multi_task_data.WIDTH)]
    for split in SPLITS:
        rows = ["\t".join(["qid", "relevance", "click", *names])]
        for query in range(60):
            for x in random.normal(size=(random.integers(1, 9), len(names))):
                label = str(int(x[0] > 0.3)) if split == "train" or query > 40 else ""
                grade = str(int(np.clip(round(x[1] + 1), 0, 4)))
                values = [f"{value:.4f}" for value in x]
                rows.append("\t".join([f"{split} {query}", grade, label, *values]))
        text = folder / f"{split}.tsv"
        text.write_text("\n".join(rows) + "\n")
        convert(
            str(text),
            str(folder / "data"),
            input_format="tsv",
            split=split,
            num_shards=2,
            options=Options(label_columns=TASKS),
        )
    return folder / "data"


def config_of(data, model_dir, tasks=1):
    settings = {
        "num_epochs": 1,
        "strategy": "MultiWorkerMirroredStrategy",
        "export_best_model": True,
    }
    if tasks > 1:
        metric = "relevance/ndcg_10"
        config = multi_task_data.make_config(data, model_dir, **settings)
    else:
        metric = "ndcg_10"
        config = make_config(data, model_dir, **settings)
    config["pipeline"]["best_exporter_metric"] = metric
    config["pipeline"]["best_exporter_metric_higher_better"] = True
    return config


@pytest.fixture
def small_portions(monkeypatch):
    monkeypatch.setattr(predictor_lib, "_DOCUMENTS_PER_CALL", DOCUMENTS_PER_CALL)


def assert_as_alone(config, folder):
    """Compares what a run wrote with what this process says of its export."""
    run_dir, queries = config["model_dir"], QueryTable()
    predictor = Predictor(run_dir)
    alone = build_pipeline(
        {**config, "pipeline": {**config["pipeline"], "strategy": None}}
    )
    found = read_json(f"{run_dir}/metrics.json")
    for split in ("valid", "test"):

        def add(*args, split=split):
            queries.add(split, *args)

        lists = alone._dataset_builder.lists(split, "packed")
        wanted = evaluate(predictor, lists, add)
        assert found[split] == wanted
        assert list(found[split]) == list(wanted)
    queries.write(str(folder / "alone.parquet"))
    with open(f"{run_dir}/{FILE_NAME}", "rb") as file:
        assert file.read() == (folder / "alone.parquet").read_bytes()
    return found


def read_of(notes, split):
    """Returns the bytes of files that were read, as pairs of file and kB."""
    return {
        (path, byte)
        for path, begin, end in notes["ranges"]
        if path.startswith(split)
        for byte in range(begin, end)
    }


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2])
def test_workers_measure_together_what_one_process_measures(
    tmp_path, tasks, small_portions
):
    data = single(tmp_path) if tasks == 1 else several(tmp_path)
    config = config_of(data, tmp_path / "run", tasks)
    notes = run(config, tmp_path / "workers")
    found = assert_as_alone(config, tmp_path)
    if tasks > 1:
        assert tuple(found["test"]) == TASKS
    # Each has read its own part alone, of the validation lists in training as well.
    for split in ("valid", "test"):
        sizes = [path.stat().st_size for path in data.glob(f"{split}-*")]
        first, second = (read_of(one, split) for one in notes)
        assert len(first | second) == sum(sizes)
        assert max(len(first), len(second)) < 0.65 * sum(sizes)
    assert not [path for one in notes for path in one["whole"]]
    assert min(one["measured"] for one in notes) > 0
    assert not list((tmp_path / "workers").glob("tfr_pipeline*"))


@pytest.mark.slow
def test_a_worker_that_dies_while_it_evaluates_ends_the_job_which_can_go_on(
    tmp_path, small_portions
):
    config = config_of(single(tmp_path), tmp_path / "run")
    running = start(config, tmp_path / "workers", killed=1)
    codes = [worker.wait(timeout=240) for worker in running]
    assert codes[0] > 0 and codes[1] == -9
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert "export" in left and not {"metrics.json", FILE_NAME} & left
    run(config, tmp_path / "workers")
    assert_as_alone(config, tmp_path)


@pytest.mark.slow
def test_small_data_is_evaluated_by_the_chief_alone(tmp_path):
    config = config_of(single(tmp_path), tmp_path / "run")
    script = WORKER
    for line in WORKER.splitlines():
        if line.startswith("shared_evaluation._E") or "WINDOW" in line:
            script = script.replace(line, "")
    assert "_WORTH" not in script and "WINDOW" not in script
    chief, other = run(config, tmp_path / "workers", script=script)
    assert chief["measured"] >= 100 and other["measured"] == 0
    assert not [path for path in other["whole"] if path.startswith("test")]
    assert_as_alone(config, tmp_path)


# The numbers


def lists_of(seed, labels=3):
    """Random lists with ties, some without documents, relevant ones or labels."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 9, 40)
    lengths[:2] = 3
    splits = np.concatenate([[0], np.cumsum(lengths)])
    found = random.integers(-1, labels, splits[-1]).astype(np.float32)
    scores = random.integers(0, 5, splits[-1]).astype(np.float32)
    return found, scores, splits


def measured(labels, scores, splits, first, last, tasks=("",)):
    a, b = splits[first], splits[last]
    part = labels[a:b], scores[a:b], splits[first : last + 1] - a
    return Measured(
        np.array([f"q\n{number} \u00e9" for number in range(first, last)], object),
        {task: QueryMetrics.of_part(*part) for task in tasks},
        len(tasks) > 1,
    )


def assert_same(found, wanted):
    assert found.query_ids.tolist() == wanted.query_ids.tolist()
    assert list(found.tasks) == list(wanted.tasks)
    for one, other in zip(found.tasks.values(), wanted.tasks.values(), strict=True):
        assert list(one.values) == list(other.values)
        for name in ("documents", "relevant", "label_sum"):
            array, expected = getattr(one, name), getattr(other, name)
            assert array.dtype == expected.dtype
            assert array.tobytes() == expected.tobytes()
        for name, array in one.values.items():
            assert array.tobytes() == other.values[name].tobytes()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tasks", [("",), ("outputs[0]", "a/b")])
def test_what_parts_measure_is_to_the_bit_what_the_whole_does(seed, tasks):
    arrays = lists_of(seed)
    wanted = measured(*arrays, 0, 40, tasks)
    assert_same(wanted.whole(), wanted)
    bounds = [0, *sorted(np.random.default_rng(seed).choice(39, 5, False) + 1), 40]
    parts = [measured(*arrays, a, b, tasks) for a, b in itertools.pairwise(bounds)]
    sent = [Measured.from_bytes(part.to_bytes()) for part in parts]
    found = Measured.concatenate(sent).whole()
    assert_same(found, wanted)
    assert found.means() == wanted.means()
    direct = QueryMetrics.of(*arrays)
    for name, values in direct.values.items():
        assert found.tasks[tasks[0]].values[name].tobytes() == values.tobytes()


def test_a_label_that_one_part_lacks_is_measured_and_one_that_all_lack_is_not():
    labels, scores, splits = lists_of(0)
    labels = np.maximum(labels, 0.0)
    half = splits[20]
    late = np.where(np.arange(len(labels)) < half, -1.0, labels)
    never = np.full(len(labels), -1.0)
    parts = []
    for first, last in ((0, 20), (20, 40)):
        one = measured(late, scores, splits, first, last, ("late", "none"))
        none = measured(never, scores, splits, first, last, ("late", "none"))
        one.tasks["none"] = none.tasks["none"]
        parts.append(one)
    found = Measured.concatenate(parts).whole()
    assert list(found.tasks) == ["late"]
    values = QueryMetrics.of(late, scores, splits).values
    for name, array in found.tasks["late"].values.items():
        np.testing.assert_array_equal(array, values[name])
    with pytest.raises(DataError, match="no documents with a label"):
        measured(never, scores, splits, 0, 40).whole()


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
def test_parts_are_cut_where_lists_may_be_and_are_about_equal(workers):
    random = np.random.default_rng(workers)
    lengths = random.integers(0, 30, 300)
    inner = np.sort(random.choice(299, 40, replace=False)) + 1
    cuts = np.concatenate([[0], inner, [300]])
    firsts = shared_evaluation.share_out(lengths, cuts, workers)
    assert len(firsts) == workers + 1 and firsts == sorted(firsts)
    assert firsts[0] == 0 and firsts[-1] == 300 and set(firsts) <= set(cuts)
    largest = np.add.reduceat(lengths, cuts[:-1]).max()
    shares = [lengths[a:b].sum() for a, b in itertools.pairwise(firsts)]
    assert max(shares) <= lengths.sum() / workers + largest


def test_pieces_are_read_at_cuts_and_are_not_too_large(monkeypatch):
    monkeypatch.setattr(shared_evaluation, "_PIECE", 50)
    lengths = np.array([10] * 20)
    cuts = np.arange(3, 20, 2)
    found = shared_evaluation.pieces(lengths, cuts).tolist()
    assert found[0] == 3 and found[-1] == 19 and set(found) <= set(cuts.tolist())
    assert all(b - a <= 7 for a, b in itertools.pairwise(found))


class Portions:
    """Cuts as a `Predictor` does."""

    def portions(self, lengths):
        return list(predictor_lib._portions(np.asarray(lengths), False))


@pytest.mark.parametrize("lengths", [[0, 90, 0, 0, 50, 60, 1, 0], [5, 0, 99, 99, 0]])
def test_there_are_documents_between_cuts(lengths, small_portions):
    cuts = shared_evaluation._cuts(Portions(), np.array(lengths))
    assert cuts[0] == 0 and cuts[-1] == len(lengths)
    assert np.add.reduceat(lengths, cuts[:-1]).min() > 0
    # Cut again from there, they are cut in the same places.
    for place, cut in enumerate(cuts[:-1]):
        rest = shared_evaluation._cuts(Portions(), np.array(lengths[cut:]))
        assert (rest + cut).tolist() == cuts[place:].tolist()


@pytest.mark.parametrize("count", [0, 1, 7, 4096, (1 << 24) + 1])
def test_workers_tell_each_other_bytes_of_any_length(count):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    content = np.random.default_rng(count).bytes(count)
    assert peers.send(strategy, content) == content
    if count:
        assert peers.exchange(strategy, content) == [content]


def test_lists_without_ids_keep_their_numbers_in_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(windowed, "WINDOW", 2_000)
    data = single(tmp_path)
    features = dataclasses.replace(Features.load(str(data)), query_id=None)
    hparams = DatasetHparams(f"{data}/train-*", f"{data}/test-*", 16, 16)

    def builder():
        return SimpleDatasetBuilder.from_features(features, hparams)

    wanted = builder().lists("valid").query_ids
    made = builder()
    assert made.known_lengths("valid") is not None
    numbers = np.arange(20, 40)
    found = made.some_lists("valid", numbers, "packed")
    assert found.query_ids.tolist() == wanted[numbers].tolist()
    assert not made.kept._known


def test_lengths_are_known_of_an_index_or_of_what_was_read(tmp_path, monkeypatch):
    data = single(tmp_path)
    features = Features.load(str(data))

    def builder(**settings):
        pattern = f"{data}/test-*"
        hparams = DatasetHparams(pattern, pattern, 16, 16, **settings)
        return SimpleDatasetBuilder.from_features(features, hparams)

    made = builder()
    assert made.known_lengths("valid") is None  # small: it would be read whole
    wanted = made.lists("valid").lengths.tolist()
    assert made.known_lengths("valid").tolist() == wanted
    monkeypatch.setattr(windowed, "WINDOW", 2_000)
    assert builder().known_lengths("valid").tolist() == wanted
    assert builder(sharding="none").known_lengths("valid") is None
    (data / "test.index.npz").unlink()  # it is made anew
    monkeypatch.setenv("TFR_PIPELINE_CACHE", str(tmp_path / "cache"))
    assert builder().known_lengths("valid").tolist() == wanted
