"""Ranking quality of all systems on the same queries: the figures of docs/results.md.

    python -m tests.bench.results --data=../shared/data --dataset=yandex --work=DIR
    python -m tests.bench.results --data=../shared/data --dataset=clueweb --work=DIR \
        --systems=feature,lightgbm,lightgbm_tuned,dnn,best

`yandex` has five folds by query, those of `tfr-pipeline cv`; `clueweb` rotates its five
parts; both train on three, validate on the next and measure the last, so that each
query is measured once. `lightgbm` is LightGBM's example: the last fifth of its training
queries validates, its test file is measured.

- `feature`: the one column, up or down, that ranks the training queries best.
- `lightgbm`: lambdarank as it comes, early stopping on validation; one thread.
- `lightgbm_tuned`, `catboost_tuned`: the best of `--trials` random settings by inner
  cross-validation, four folds of the training and validation queries of each fold, then
  trained with early stopping on validation. `pip install catboost` first.
- `tf_ranking`: TF-Ranking's own pipeline on ELWC: its best model by validation NDCG@10
  of a DNN 64-32 with batch normalisation, dropout 0.3, Adam at 0.003, as `dnn` has
  them, approximate NDCG and log1p.
- An argument of `configs/letor.py`: `tfr-pipeline cv`, or `train`.
- `NAME-ensemble`: the seeds of `NAME` averaged; `NAME-distilled`: one network of the
  config `NAME` that learns of that ensemble.

Each system has a folder in `--work/DATASET`, with `per_query.parquet`, for
`tfr-pipeline compare`, and `cost.json`; what is there is not made again. Prints
NDCG@1, 5 and 10 (queries without relevant documents skipped; a query's value is the
mean of its seeds), the standard error of the last over queries, the difference from
`--baseline` with its 95% bootstrap interval and randomisation p, seconds of a training
and milliseconds to score a list of 200.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np

from tests.bench.quality import CONFIG, lightgbm_splits
from tests.bench.quality import tfr_pipeline as command

FOLDS, SCORED = 5, 200
# Share of the distance to a teacher; the loss of labels is some hundred times larger.
TEACHER = 0.99
METRICS = ("ndcg@1", "ndcg@5", "ndcg@10")
TREES = ("lightgbm", "lightgbm_tuned", "catboost_tuned")
# A model that has been trained: features `[documents, columns]` to scores.
Score = Callable[[np.ndarray], np.ndarray]


class Part:
    """Some lists, as arrays.

    Args:
      lists: All lists of a file.
      keep: bool `[lists]`.
    """

    def __init__(self, lists: Any, keep: np.ndarray):
        index = np.flatnonzero(keep)
        self.lists = lists.take(index) if len(index) < lists.num_lists else lists
        self.x = np.asarray(self.lists.values["float32"])
        self.y = np.asarray(self.lists.labels)
        self.row_splits = np.asarray(self.lists.row_splits)
        self.lengths = np.diff(self.row_splits)


class Split:
    """Training, validation and test lists of one fold."""

    def __init__(self, fold: int, train: Part, valid: Part, test: Part):
        self.fold, self.train, self.valid, self.test = fold, train, valid, test


class Dataset:
    """The converted files of a data set, and its folds.

    Args:
      name: Which one.
      data: Folder of all of them.
      work: Where converted files and results go.
    """

    def __init__(self, name: str, data: pathlib.Path, work: pathlib.Path):
        self.name, self.work = name, work / name
        self._source = data
        self.folder = self.work / "data"
        self.work.mkdir(parents=True, exist_ok=True)
        getattr(self, f"_convert_{name}")()

    def _convert(
        self, output: pathlib.Path, split: str, files: list[pathlib.Path], *more: str
    ) -> None:
        if not (output / f"{split}.stats.json").exists():
            command(
                "convert",
                f"--input={','.join(map(str, files))}",
                "--input_format=libsvm",
                "--output_format=packed",
                f"--output={output}",
                f"--split={split}",
                *more,
            )

    def _convert_yandex(self) -> None:
        file = self._source / "yandex_letor" / "train.txt.gz"
        self._convert(self.folder, "train", [file], "--num_features=50")

    def _convert_clueweb(self) -> None:
        for i in range(1, FOLDS + 1):
            file = self._source / "clueweb09_letor" / f"P{i}.txt.gz"
            self._convert(self.folder / f"P{i}", "train", [file], "--num_features=42")

    def _convert_lightgbm(self) -> None:
        split = next(lightgbm_splits(self._source, self.work))
        for name in ("train", "valid", "test"):
            part = getattr(split, name)
            more = (f"--query_file={part.query_file}", "--num_features=300")
            self._convert(self.folder, name, part.files, *more)

    def of_cv(self) -> list[str]:
        """Returns the flags that give `cv` this data."""
        if self.name == "clueweb":
            return [f"--parts={self.folder}/P*"]
        return [f"--config.data.dir={self.folder}", f"--folds={FOLDS}"]

    @functools.cached_property
    def splits(self) -> list[Split]:
        """The folds."""
        from tfr_pipeline.choosing.rotations import rotated
        from tfr_pipeline.data.folds import fold_of_lists

        if self.name == "lightgbm":
            parts = []
            for name in ("train", "valid", "test"):
                lists = load(self.folder, name)
                parts.append(Part(lists, np.ones(lists.num_lists, bool)))
            return [Split(1, *parts)]
        if self.name == "yandex":
            lists = load(self.folder, "train")
            folds = fold_of_lists(lists.query_ids, FOLDS)
        else:
            found = [load(self.folder / f"P{i + 1}", "train") for i in range(FOLDS)]
            folds = np.repeat(range(FOLDS), [part.num_lists for part in found])
            lists = type(found[0]).concatenate(found)
        result = []
        for fold in range(FOLDS):
            train, valid, test = rotated(FOLDS, fold)
            parts = [Part(lists, np.isin(folds, n)) for n in (train, [valid], [test])]
            result.append(Split(fold + 1, *parts))
        return result


def load(folder: pathlib.Path, split: str) -> Any:
    """Returns the lists of a split that was converted to packed records."""
    from tfr_pipeline.features import Features
    from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
    from tfr_pipeline.pipeline.datasets.multi_label import builder_from_features

    hparams = DatasetHparams("", str(folder / f"{split}-*"), 1, 1)
    builder = builder_from_features(Features.load(str(folder)), hparams)
    return builder.lists("valid", "packed")


def best_feature(split: Split) -> Score:
    """Returns the column that ranks the training queries best."""
    train = split.train
    found = []
    for index in range(train.x.shape[1]):
        for sign in (1.0, -1.0):
            scores = sign * train.x[:, index]
            found.append((ndcg(train.y, scores, train.row_splits), index, sign))
    _, index, sign = max(found)
    return lambda x: sign * x[:, index]


def ndcgs(labels: np.ndarray, scores: np.ndarray, row_splits: np.ndarray) -> np.ndarray:
    """Returns NDCG@10 `[lists]`, NaN where nothing is relevant."""
    from tfr_pipeline.metrics.evaluation import QueryMetrics

    return QueryMetrics.of(labels, scores, row_splits).skip("ndcg@10")


def ndcg(labels: np.ndarray, scores: np.ndarray, row_splits: np.ndarray) -> float:
    """Returns the mean NDCG@10 over the lists that have a relevant document."""
    return float(np.nanmean(ndcgs(labels, scores, row_splits)))


def lightgbm(train: tuple, valid: tuple, settings: dict[str, Any]) -> Score:
    """Trains LightGBM on features, labels and lengths; stops early."""
    import lightgbm as gbm

    data = gbm.Dataset(train[0], train[1], group=train[2])
    booster = gbm.train(
        {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "verbosity": -1,
            "num_threads": 1,
            "seed": 0,
            "deterministic": True,
            "force_row_wise": True,
            **settings,
        },
        data,
        num_boost_round=1000,
        valid_sets=[gbm.Dataset(valid[0], valid[1], group=valid[2], reference=data)],
        callbacks=[gbm.early_stopping(50, verbose=False)],
    )
    return booster.predict


def catboost(train: tuple, valid: tuple, settings: dict[str, Any]) -> Score:
    """Trains CatBoost on features, labels and lengths; stops early."""
    import catboost as cat

    def pool(part: tuple) -> Any:
        groups = np.repeat(np.arange(len(part[2])), part[2])
        return cat.Pool(part[0], part[1], group_id=groups)

    model = cat.CatBoost(
        {
            "loss_function": "YetiRank",
            "eval_metric": "NDCG:top=10;type=Exp",
            "iterations": 600,
            "early_stopping_rounds": 50,
            "thread_count": 1,
            "random_seed": 0,
            "verbose": False,
            "allow_writing_files": False,
            **settings,
        }
    )
    model.fit(pool(train), eval_set=pool(valid))
    return model.predict


def random_settings(system: str, count: int) -> list[dict[str, Any]]:
    """Draws settings of trees; the first ones are what they come with."""
    random = np.random.default_rng(0)

    def power(low: float, high: float, base: float = 10.0) -> float:
        return float(base ** random.uniform(low, high))

    if system == "catboost_tuned":
        return [{}] + [
            {
                "learning_rate": power(-1.7, -0.5),
                "depth": int(random.integers(3, 9)),
                "l2_leaf_reg": power(-0.5, 1.7),
                "random_strength": power(-1, 1),
                "bagging_temperature": float(random.uniform(0, 1)),
                "rsm": float(random.uniform(0.3, 1)),
                "loss_function": str(random.choice(["YetiRank", "QuerySoftMax"])),
            }
            for _ in range(count - 1)
        ]
    return [{}, {"learning_rate": 0.02}] + [
        {
            "learning_rate": power(-2, -0.7),
            "num_leaves": int(power(2, 6, 2.0)),
            "min_data_in_leaf": int(power(0.7, 2.3)),
            "feature_fraction": float(random.uniform(0.3, 1)),
            "bagging_fraction": float(random.uniform(0.5, 1)),
            "bagging_freq": 1,
            "lambda_l2": power(-2, 2),
            "lambda_l1": power(-3, 1),
            "lambdarank_truncation_level": int(random.choice([10, 20, 30])),
            "max_bin": int(random.choice([63, 255])),
            "objective": str(random.choice(["lambdarank", "rank_xendcg"])),
        }
        for _ in range(count - 2)
    ]


def tuned(system: str, split: Split, trials: int) -> Score:
    """Returns a model with the settings that are best within the training queries."""
    from tfr_pipeline.data.folds import fold_of_lists

    both = [split.train, split.valid]
    x, y = (np.concatenate([getattr(part, key) for part in both]) for key in "xy")
    lengths = np.concatenate([part.lengths for part in both])
    ids = np.concatenate([np.asarray(part.lists.query_ids) for part in both])
    folds = fold_of_lists(ids, 4), fold_of_lists(ids[::-1], 5)[::-1]
    drawn = random_settings(system, trials)
    # Threads of one process would share one OpenMP, which LightGBM does not survive.
    with futures.ProcessPoolExecutor(
        os.cpu_count(),
        multiprocessing.get_context("spawn"),
        _share,
        (system, x, y, lengths, *folds),
    ) as pool:
        results = list(pool.map(_inner_value, drawn))
    best = drawn[int(np.argmax(results))]
    print(f"{system} fold {split.fold}: {max(results):.4f} {best}", file=sys.stderr)
    return _trained(_TRAIN[system], split, best)


_TRAIN = {"lightgbm_tuned": lightgbm, "catboost_tuned": catboost}
# In a process of `tuned`: what it works on.
_shared: list[Any] = []


def _share(*given: Any) -> None:
    _shared[:] = given


def _inner_value(settings: dict[str, Any]) -> float:
    """Returns the mean NDCG@10 of settings over the inner folds."""
    system, x, y, lengths, fold, inner = _shared

    def rows(keep: np.ndarray) -> tuple:
        of = np.repeat(keep, lengths)
        return x[of], y[of], lengths[keep]

    found = []
    for held in range(4):
        other = fold != held
        model = _TRAIN[system](
            rows(other & (inner > 0)), rows(other & (inner == 0)), settings
        )
        test = rows(~other)
        splits = np.append(0, np.cumsum(test[2]))
        found.append(ndcg(test[1], np.asarray(model(test[0])), splits))
    return float(np.mean(found))


def _trained(train: Callable, split: Split, settings: dict[str, Any]) -> Score:
    parts = [(p.x, p.y, p.lengths) for p in (split.train, split.valid)]
    return train(*parts, settings)


def tf_ranking(split: Split, seed: int, work: pathlib.Path) -> Score:
    """Trains TF-Ranking's own pipeline, in this process; scores by its best export."""
    from tfr_pipeline.compat import tf, tfr
    from tfr_pipeline.data.records import encode, tfrecord
    from tfr_pipeline.features import Feature, Features

    width = split.train.x.shape[1]
    features = Features(
        context={},
        example={"features": Feature(shape=(width,), default=0.0)},
        label=("label", Feature(default=-1.0)),
        query_id="query_id",
        document_id="document_id",
        data_format="elwc",
    )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in ("train", "valid"):
        with (work / f"{name}.tfrecord").open("wb") as file:
            file.writelines(
                tfrecord.frame(encode.elwc(getattr(split, name).lists, features))
            )
    longest = int(max(part.lengths.max() for part in (split.train, split.valid)))
    keras, batch = tfr.keras, 16
    tf.keras.utils.set_random_seed(seed)
    spec = features.example_spec

    def log1p(x: Any) -> Any:
        return tf.sign(x) * tf.math.log1p(tf.abs(x))

    builder = keras.model.ModelBuilder(
        input_creator=keras.model.FeatureSpecInputCreator({}, spec),
        preprocessor=keras.model.PreprocessorWithSpec(dict.fromkeys(spec, log1p)),
        scorer=keras.model.DNNScorer(
            hidden_layer_dims=[64, 32],
            output_units=1,
            activation=tf.nn.relu,
            input_batch_norm=True,
            use_batch_norm=True,
            batch_norm_moment=0.9,
            dropout=0.3,
        ),
        mask_feature_name="mask",
        name="bench",
    )
    data = keras.pipeline.SimpleDatasetBuilder(
        {},
        spec,
        mask_feature_name="mask",
        label_spec=features.label_spec,
        hparams=keras.pipeline.DatasetHparams(
            train_input_pattern=str(work / "train.tfrecord"),
            valid_input_pattern=str(work / "valid.tfrecord"),
            train_batch_size=batch,
            valid_batch_size=batch,
            list_size=longest,
            valid_list_size=longest,
        ),
    )
    hparams = keras.pipeline.PipelineHparams(
        model_dir=str(work / "run"),
        num_epochs=40,
        steps_per_epoch=max(1, len(split.train.lengths) // batch),
        validation_steps=max(1, len(split.valid.lengths) // batch),
        learning_rate=0.003,
        loss="approx_ndcg_loss",
        optimizer="adam",
        export_best_model=True,
        best_exporter_metric="ndcg_10",
        best_exporter_metric_higher_better=True,
        strategy=None,
    )
    keras.pipeline.SimplePipeline(builder, data, hparams).train_and_validate(verbose=0)
    loaded = tf.saved_model.load(str(work / "run/export/best_model_by_metric"))
    regress = loaded.signatures["tensorflow/serving/regress"]

    def score(x: np.ndarray) -> np.ndarray:
        rows = [
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        "features": tf.train.Feature(
                            float_list=tf.train.FloatList(value=row)
                        )
                    }
                )
            ).SerializeToString()
            for row in x
        ]
        return next(iter(regress(tf.constant(rows)).values())).numpy().ravel()

    return score


def milliseconds(score: Callable[[], Any]) -> float:
    """Returns how long it takes to score once, the median of 30."""
    times = []
    for _ in range(35):
        start = time.perf_counter()
        score()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[5:]))


def table_of(split: Split, seed: int, scores: np.ndarray) -> Any:
    """Returns the rows of a fold, as `cv` writes them."""
    import pyarrow as pa

    from tfr_pipeline.metrics.evaluation import QueryMetrics

    test = split.test
    metrics = QueryMetrics.of(test.y, scores, test.row_splits)
    count = len(test.lengths)
    columns = {
        "split": ["test"] * count,
        "task": [""] * count,
        "fold": np.full(count, split.fold),
        "seed": np.full(count, seed),
        "query": [str(query) for query in test.lists.query_ids],
        **metrics.columns(),
        **{
            name: pa.array(metrics.skip(name), pa.float64(), from_pandas=True)
            for name in metrics.values
        },
    }
    return pa.table(columns)


def keep(folder: pathlib.Path, tables: list[Any], cost: dict[str, Any]) -> None:
    """Writes what a system has reached."""
    import pyarrow as pa
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.concat_tables(tables), folder / "per_query.parquet")
    (folder / "cost.json").write_text(json.dumps(cost))


def measure_here(
    dataset: Dataset, system: str, seeds: list[int], trials: int, folds: int
) -> None:
    """Measures a system that is not ours."""
    tables, seconds, score = [], [], None
    for split in dataset.splits[:folds]:
        for seed in seeds if system == "tf_ranking" else seeds[:1]:
            start = time.perf_counter()
            if system == "feature":
                score = best_feature(split)
            elif system == "lightgbm":
                score = _trained(lightgbm, split, {})
            elif system == "tf_ranking":
                score = tf_ranking(split, seed, dataset.work / "tf_ranking-run")
            else:
                score = tuned(system, split, trials)
            seconds.append(time.perf_counter() - start)
            found = np.asarray(score(split.test.x), np.float64).ravel()
            tables.append(table_of(split, seed, found))
    x = dataset.splits[0].train.x[:SCORED]
    cost = {"seconds": float(np.mean(seconds)), "ms": milliseconds(lambda: score(x))}
    keep(dataset.work / system, tables, cost)


def measure_ours(
    dataset: Dataset, system: str, seeds: list[int], flags: list[str]
) -> None:
    """Measures a config of ours, by `cv`; by `train` where there are no folds."""
    folder = dataset.work / system
    config = [f"--config={CONFIG}:{system}", f"--config.seed={seeds[0]}", *flags]
    if dataset.name == "lightgbm":
        tables = []
        for seed in seeds:
            run = folder / f"fold-1-seed-{seed}"
            command(
                "train",
                *config,
                f"--config.data.dir={dataset.folder}",
                f"--config.model_dir={run}",
                f"--config.seed={seed}",
            )
            tables.append(_of_run(run, 1, seed))
        keep(folder, tables, {})
    else:
        command(
            "cv",
            *config,
            *dataset.of_cv(),
            f"--seeds={len(seeds)}",
            f"--config.model_dir={folder}",
        )
    runs = sorted(folder.glob("fold-*"))
    _cost(dataset, folder, runs)


def _cost(dataset: Dataset, folder: pathlib.Path, runs: list[pathlib.Path]) -> None:
    seconds = float(np.mean([seconds_of(run) for run in runs]))
    cost = {"seconds": seconds, "ms": _rank_milliseconds(dataset, runs)}
    (folder / "cost.json").write_text(json.dumps(cost))


def seconds_of(run: pathlib.Path) -> float:
    """Returns the seconds that a run took, exports and evaluation included."""
    found = json.loads((run / "metrics.json").read_text())["seconds"]
    return sum(found.values()) if isinstance(found, dict) else found


def _rank_milliseconds(dataset: Dataset, runs: list[pathlib.Path]) -> float:
    from tfr_pipeline.compat import tf
    from tfr_pipeline.serving.predictor import find_export, load

    model = load(find_export(str(runs[0])))
    rank = model.signatures["rank"]
    x = tf.constant(dataset.splits[0].train.x[:SCORED])
    splits = tf.constant([0, len(x)], tf.int64)
    ids = tf.constant([""] * len(x))
    arguments = {"features": x, "row_splits": splits, "ids": ids}
    return milliseconds(lambda: rank(**arguments))


def _of_run(run: pathlib.Path, fold: int, seed: int) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(run / "per_query.parquet")
    table = table.filter(pa.compute.equal(table["split"], "test"))
    for place, (name, value) in enumerate((("fold", fold), ("seed", seed)), start=2):
        column = pa.array(np.full(table.num_rows, value, np.int64))
        table = table.add_column(place, name, column)
    return table


def measure_ensemble(dataset: Dataset, name: str) -> None:
    """Averages the seeds of a config, fold by fold."""
    folder, tables = dataset.work / f"{name}-ensemble", []
    outputs = []
    for split in dataset.splits:
        runs = sorted((dataset.work / name).glob(f"fold-{split.fold}-seed-*"))
        output = folder / f"fold-{split.fold}"
        if not (output / "per_query.parquet").exists():
            command("ensemble", *map(str, runs), f"--output={output}")
        tables.append(_of_run(output, split.fold, 0))
        outputs.append(output)
    keep(folder, tables, {})
    one = json.loads((dataset.work / name / "cost.json").read_text())["seconds"]
    ms = _rank_milliseconds(dataset, outputs)
    (folder / "cost.json").write_text(
        json.dumps({"seconds": one * len(runs), "ms": ms})
    )


def measure_distilled(
    dataset: Dataset, name: str, seeds: list[int], flags: list[str]
) -> None:
    """Trains a config on the ensemble of the fold, and the labels."""
    folder, tables, done = dataset.work / f"{name}-distilled", [], []
    for split in dataset.splits:
        for seed in seeds:
            teacher = dataset.work / f"{name}-ensemble" / f"fold-{split.fold}"
            member = dataset.work / name / f"fold-{split.fold}-seed-{seeds[0]}"
            run = folder / f"fold-{split.fold}-seed-{seed}"
            data = json.loads((member / "config.json").read_text())["data"]
            keys = (
                "dir",
                "train",
                "valid",
                "test",
                "features",
                "folds",
                "fold",
                "test_fold",
            )
            given = [
                f"--config.data.{k}={data[k]}" for k in keys if data.get(k) is not None
            ]
            command(
                "train",
                f"--config={CONFIG}:{name}",
                *given,
                f"--config.model_dir={run}",
                f"--config.seed={seed}",
                f"--config.pipeline.distill="
                f"{{'teacher': '{teacher}', 'weight': {TEACHER}}}",
                *flags,
            )
            tables.append(_of_run(run, split.fold, seed))
            done.append(run)
    keep(folder, tables, {})
    _cost(dataset, folder, done)


def report(dataset: Dataset, systems: list[str], baseline: str) -> Iterator[str]:
    """Yields the lines of the table."""
    folders = [str(dataset.work / name) for name in systems]
    output = dataset.work / "compare.json"
    if baseline in systems and len(systems) > 1:
        command(
            "compare",
            *folders,
            f"--baseline={dataset.work / baseline}",
            f"--metric={','.join(METRICS)}",
            f"--output={output}",
        )
    from tfr_pipeline.choosing.systems import find

    found = {s.name: s for s in find(folders)}
    results = json.loads(output.read_text())["results"][0] if output.exists() else {}
    differences = {
        c["system"]: c
        for c in results.get("comparisons", ())
        if c["metric"] == METRICS[-1] and c["convention"] == "skip"
    }
    yield (
        "| | NDCG@1 | NDCG@5 | NDCG@10 | error | less the baseline | p | s | ms |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for name in systems:
        values = found[name].values("test")[""]
        means = [values.mean(metric) for metric in METRICS]
        last = values.values[METRICS[-1]]
        last = last[np.isfinite(last)]
        cost = json.loads((dataset.work / name / "cost.json").read_text())
        c = differences.get(name)
        more = " | "
        if c and c["difference"] is not None:
            low, high = ("-" if end is None else f"{end:+.4f}" for end in c["ci"])
            more = (
                f"{c['difference']:+.4f} [{low}, {high}] | {c['p_randomisation']:.4f}"
            )
        cells = [name, *(f"{m:.4f}" for m in means)]
        error = np.std(last, ddof=1) / len(last) ** 0.5
        cells += [f"{error:.4f}", more, f"{cost['seconds']:.1f}", f"{cost['ms']:.2f}"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument(
        "--dataset", choices=("yandex", "clueweb", "lightgbm"), required=True
    )
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument(
        "--systems", default="feature,lightgbm,lightgbm_tuned,dnn,gam,tabm,best"
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--baseline", default="lightgbm_tuned")
    parser.add_argument(
        "--folds",
        type=int,
        default=FOLDS,
        help="the first folds only, of trees and tf_ranking: enough for what they cost",
    )
    args, flags = parser.parse_known_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    dataset = Dataset(args.dataset, args.data.resolve(), args.work.resolve())
    systems = args.systems.split(",")
    for system in systems:
        if (dataset.work / system / "cost.json").exists():
            continue
        name, _, kind = system.partition("-")
        if kind == "ensemble":
            measure_ensemble(dataset, name)
        elif kind == "distilled":
            measure_distilled(dataset, name, seeds, flags)
        elif system in (*TREES, "feature", "tf_ranking"):
            measure_here(dataset, system, seeds, args.trials, args.folds)
        else:
            measure_ours(dataset, system, seeds, flags)
        print(f"{system} is measured", file=sys.stderr, flush=True)
    for line in report(dataset, systems, args.baseline):
        print(line)


if __name__ == "__main__":
    main()
