"""Spoilt runs, models, environments and words: an error of one line, or the truth.

What a run or a model gives after all is what it gave before it was spoilt.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
from unittest import mock

import pytest

from tests.cli.command_helpers import LETOR
from tests.fuzz import mutations
from tests.fuzz.commands import VALUES, check, run
from tests.fuzz.trained_run import exported, question, same
from tests.pipeline.training_helpers import read_history, untimed

# Not the root of the file system, where some commands would write.
WORDS = (*(value for value in VALUES if value != "/"), "\udcff", "tsv", "test", "{}")
FLAGS = (
    *("model", "data", "output", "per_query", "baselines", "input", "input_format"),
    *("format", "task", "run", "best", "config", "dry_run", "config.seed", "queries"),
    *("config.model_dir", "num_shards", "split", "port", "version", "x"),
)
CLUSTER = {
    "cluster": {"chief": ["a:1"], "worker": ["b:2", "c:3"], "ps": {"0": "[::1]:80"}},
    "task": {"type": "worker", "index": 1},
}
# What a run directory may hold.
PARTS = (
    *("config.json", "history.csv", "metrics.json", "lock", "checkpoints", "export"),
    *("checkpoints/checkpoint", "checkpoints/ckpt-7.index", "checkpoints/template"),
    *("checkpoints/ckpt-7.data-00000-of-00001", "checkpoints/template/saved_model.pb"),
    *("export/latest_model/.newest", "export/latest_model/3/saved_model.pb"),
    *("checkpoints/template/assets.extra/places.json", "saved_model.pb", "variables"),
)


def words_case(rng, sound, folder, output):
    """Sound command lines of which words are lost, doubled, changed or added."""
    shutil.copytree(sound / "elwc", folder / "data")
    text, data = sound / "text.txt", folder / "data"
    ends = ["--queries=4", "--documents=4", "--features=8"]
    config = [f"--config.data.{key}={data}/train-*" for key in ("valid", "test")]
    config += [f"--config.data.dir={data}", f"--config.model_dir={output}"]
    config += ["--config.pipeline.num_epochs=1", "--dry_run"]
    command, *words = rng.choice(
        (
            ["convert", f"--input={text}", f"--output={output}", "--workers=1"],
            ["synthesize", f"--output={output}", *ends],
            ["train", f"--config={LETOR}:dnn", *config],
            [*asked("evaluate", sound, data), f"--output={output}"],
            [*asked("predict", sound, data), f"--output={output}"],
            ["export", f"--run={sound}/model", f"--output={output}"],
            ["doctor", f"--data={data}"],
            ["new", f"{output}"],
        )
    )
    changes = rng.choice((0, 1, 1, 1, 2, 2))
    for _ in range(changes):
        at = rng.randrange(len(words)) if words else 0
        kind = rng.randrange(6)
        if kind == 0:
            words[at : at + 1] = []
        elif kind == 1:
            words[at:at] = words[at : at + 1]
        elif kind == 2 and words:
            words[at] = words[at].partition("=")[0] + "=" + rng.choice(WORDS)
        elif kind == 3:
            words.insert(at, rng.choice(WORDS))
        else:
            value = rng.choice(("", "=" + rng.choice(WORDS)))
            words.insert(at, f"--{rng.choice(FLAGS)}{value}")
    if changes and rng.random() < 0.05:
        command = rng.choice(WORDS)
    here = output.parent / "here"
    here.mkdir()
    with standing_in(here):
        if command == "doctor":
            report(words, folder)
        elif check([command, *words], folder, output) != 0:
            # What is called a run here is a model.
            assert (changes or command == "export") and not list(here.iterdir())


@contextlib.contextmanager
def standing_in(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def asked(command, sound, data):
    words = [command, f"--model={sound}/model"]
    if command == "predict":
        return [*words, f"--input={sound}/text.txt"]
    return [*words, f"--data={data}/train-*"]


def report(words, folder):
    """Runs `doctor`; returns what it found, by what it looked at."""
    before = mutations.tree(folder)
    code, out, err = run("doctor", *words)
    assert "Traceback" not in err, err
    assert mutations.tree(folder) == before
    if code == 2:
        assert out == "" and err.count("error: ") == 1
        return {}
    assert err == ""
    lines = [
        (line[:6].strip(), line[6:34].strip(), line[36:])
        for line in out.removesuffix("\n").split("\n")
    ]
    assert {level for level, _, _ in lines} <= {"ok", "warn", "FAIL"}, out
    assert all(" -> " in rest for level, _, rest in lines if level != "ok"), out
    assert code == int(any(level == "FAIL" for level, _, _ in lines)), out
    return {what: (level, rest) for level, what, rest in lines}


def doctor_case(rng, sound, folder, output):
    """Data folders and TF_CONFIG, of which `doctor` says what is true of them."""
    data = folder / "data"
    shutil.copytree(sound / "elwc", data)
    for path in list(data.glob("train*")):
        shutil.copy(path, data / path.name.replace("train", "valid"))
    for path in rng.sample(sorted(data.iterdir()), rng.randint(0, 2)):
        mutations.spoil(rng, path)
    text = json.dumps(CLUSTER)
    if rng.random() < 0.6:
        text = json.dumps(mutations.spoil_json(rng, CLUSTER))
    elif rng.random() < 0.7:
        spoilt = mutations.mutate(rng, text.encode()).replace(b"\0", b"")
        text = spoilt.decode("utf-8", "surrogateescape")
    words = [f"--data={data}"]
    if rng.random() < 0.3:
        words.append(f"--port={rng.choice(WORDS)}")
    with mock.patch.dict(os.environ, TF_CONFIG=text):
        found = report(words, folder)
        if not found:
            return
        level, said = found["TF_CONFIG"]
        if level == "FAIL":  # then training ends before it begins
            config = [f"--config.data.dir={sound}/elwc", f"--config.model_dir={output}"]
            words = ["train", f"--config={LETOR}:dnn", *config, "--dry_run"]
            assert check(words, folder, output) == 2
        elif "this is" in said:
            jobs, task = (json.loads(text)[key] for key in ("cluster", "task"))
            counts = ", ".join(f"{len(jobs[job])} {job}" for job in jobs)
            assert said == f"{counts}; this is {task['type']} {int(task['index'])}"
    for split in ("train", "valid"):
        level, said = found[f"data: {split}"]
        if level == "ok":
            stats = json.loads((data / f"{split}.stats.json").read_text())
            assert f"1 files, {stats['queries']} queries" in said


def ranking_case(rng, sound, folder, output):
    """Text to rank: each document once, the places of each query from the first."""
    path = folder / "text.txt"
    path.write_bytes(mutations.mutate(rng, (sound / "text.txt").read_bytes()))
    words = [f"--model={sound}/model", f"--input={path}", f"--output={output}"]
    if check(["predict", *words], folder, output) == 0:
        rows = mutations.read_libsvm(path.read_bytes())
        lines = output.read_text().removesuffix("\n").split("\n")
        ranked = [line.split("\t") for line in lines]
        assert sorted(line[0] for line in ranked) == sorted(row[1] for row in rows)
        assert ranked[0][2] == "1"
        for before, (query, _, place, score) in itertools.pairwise(ranked):
            if place != "1":
                assert (before[0], before[2]) == (query, str(int(place) - 1))
                assert float(before[3]) >= float(score)


def garbage_case(rng, sound, folder, output):
    """Folders that are no run, however much they look like one."""
    place = folder / "run"
    place.mkdir()
    for name in rng.sample(PARTS, rng.randint(0, 5)):
        path = place / name
        with contextlib.suppress(OSError):  # a file is where the folder would be
            path.parent.mkdir(parents=True, exist_ok=True)
            if rng.random() < 0.2:
                path.mkdir()
            elif name == "config.json" and rng.random() < 0.7:
                config = {"seed": 1, "pipeline": {"loss": "x"}, "data": {}, "model": {}}
                path.write_text(json.dumps(mutations.spoil_json(rng, config)))
            else:
                path.write_bytes(rng.choice(mutations.TOKENS))
    words = rng.choice(
        (
            ["export", f"--run={place}", *rng.choice(([], ["--best"]))],
            ["evaluate", f"--model={place}", f"--data={sound}/elwc/train-*"],
            ["predict", f"--model={place}", f"--input={sound}/text.txt"],
        )
    )
    assert check([*words, f"--output={output}"], folder, output) != 0


def export_case(rng, trained, folder, output):
    """Checkpoints, template and config: the weights of a step, or none."""
    place = trained.copy(folder / "run", "logs", "export")
    spoilt = rng.sample(spoilable(place), rng.choice((1, 1, 2)))
    if rng.random() < 0.3:  # then the config is read
        shutil.rmtree(place / "checkpoints" / "template")
        spoilt = [place / "config.json"]
    for path in spoilt:
        mutations.spoil(rng, path)
    words = ["export", f"--run={place}", *rng.choice(([], ["--best"]))]
    if rng.random() < 0.15:
        (folder / "file").touch()
        inputs = (place, place / "checkpoints", folder / "file", folder / "file" / "x")
        words.append(f"--output={rng.choice(inputs)}")
        assert check(words, folder, output) != 0
    elif check([*words, f"--output={output}"], folder, output) == 0:
        (version,) = (path for path in output.iterdir() if path.name.isdecimal())
        same(exported(version), trained.weights[int(version.name)])


def spoilable(folder):
    """Files and links below a folder."""
    paths = sorted(folder.rglob("*"))
    return [path for path in paths if path.is_symlink() or path.is_file()]


def served_case(rng, trained, folder, output):
    """Versions, links and models: the answers of one of the models, or none."""
    place = trained.copy(folder / "run", "logs", "checkpoints")
    path = rng.choice(spoilable(place / "export"))
    mutations.spoil(rng, path)
    model = place / rng.choice(("", "export/latest_model", "export/latest_model/20"))
    command = rng.choice(("predict", "evaluate"))
    words = [*question(command, trained.project, model), f"--output={output}"]
    # Other features.json are other defaults, or other columns.
    if check(words, folder, output) == 0 and path.name != "features.json":
        assert output.read_bytes() in trained.answers[command]


def going_on_case(rng, trained, folder, output):
    """Run directories: training ends as it did, or ends before it changes anything."""
    place = trained.copy(folder / "run", "logs")
    paths = spoilable(place / "checkpoints")
    if rng.random() < 0.3:
        paths = [path for path in sorted(place.iterdir()) if path.is_file()]
    for path in rng.sample(paths, rng.choice((1, 1, 2))):
        mutations.spoil(rng, path)
    before = mutations.tree(folder)
    code, _, err = run("train", *trained.project.train_flags(place))
    assert "Traceback" not in err and "(--debug shows where)" not in err, err
    if code:
        assert err.count("error: ") == 1, err
        assert mutations.tree(folder) == before, err
        return
    assert [untimed(row) for row in read_history(place)] == trained.history
    same(exported(place / "export" / "latest_model" / "20"), trained.weights[20])


QUICK = {"words": (words_case, 200), "garbage": (garbage_case, 60)}
QUICK |= {"doctor": (doctor_case, 120), "ranking": (ranking_case, 80)}
# These train first.
LONG = {"export": (export_case, 100), "served": (served_case, 80)}
LONG |= {"going_on": (going_on_case, 40)}


def one(case, number, sound, folder):
    (folder / "in").mkdir(parents=True)
    case(random.Random(number), sound, folder / "in", folder / "out")
    mutations.remove(folder)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("kind", QUICK)
def test_spoilt_words_and_folders_are_named(kind, number, sound, tmp_path):
    one(QUICK[kind][0], number, sound, tmp_path / "case")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"), [(kind, n) for kind in QUICK for n in range(5, QUICK[kind][1])]
)
def test_more_spoilt_words_and_folders_are_named(kind, number, sound, tmp_path):
    one(QUICK[kind][0], number, sound, tmp_path / "case")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"), [(kind, n) for kind in LONG for n in range(LONG[kind][1])]
)
def test_spoilt_runs_and_models_are_named_or_as_they_were(
    kind, number, trained, tmp_path
):
    one(LONG[kind][0], number, trained, tmp_path / "case")
