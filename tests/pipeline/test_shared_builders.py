"""Dataset builders that share lists, splits of one data set, and builders of others."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ranking_data import (
    CONTEXT_SPEC,
    EXAMPLE_SPEC,
    LABEL_SPEC,
    MASK,
    WEIGHT_SPEC,
    packed,
    random_lists,
    write,
    write_elwc,
)
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.pipeline import checks, tasks
from tfr_pipeline.pipeline.datasets.adapter import adapt
from tfr_pipeline.pipeline.datasets.base import NullDatasetBuilder
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.multi_label import MultiLabelDatasetBuilder
from tfr_pipeline.pipeline.datasets.protocol import BatchRequest, Split
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder
from tfr_pipeline.pipeline.hparams import PipelineHparams
from tfr_pipeline.pipeline.run import data_fingerprint, seeds

LENGTHS = [3, 1, 5, 2, 4, 1, 6, 2]
IDS = [f"q{i}" for i in range(len(LENGTHS))]
theirs = tfr.keras.pipeline


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of lists, and beside it one of the same in the packed format."""
    path = tmp_path_factory.mktemp("data") / "lists"
    lists = random_lists(0, LENGTHS)
    write_elwc(path, lists)
    write(f"{path}.packed", [packed(ranked, EXAMPLE_SPEC) for ranked in lists])
    return str(path)


def builder(path, kind=SimpleDatasetBuilder, label=LABEL_SPEC, context=None, **hparams):
    hparams = {"train_batch_size": 3, "valid_batch_size": 3, **hparams}
    return kind(
        CONTEXT_SPEC if context is None else context,
        EXAMPLE_SPEC,
        MASK,
        label,
        DatasetHparams(path, path, **hparams),
        WEIGHT_SPEC,
        query_id="qid",
    )


def arrays(batches):
    return [
        tensor.numpy()
        for batch in batches
        for tensor in tf.nest.flatten(batch, expand_composites=True)
    ]


def assert_same_batches(found, wanted):
    for one, other in zip(arrays(found), arrays(wanted), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def chosen(*ids):
    return lambda query_ids: np.isin(query_ids.astype(str), ids)


def folds(made, pattern, fold_of, count):
    """Yields a builder for each fold: that one for validation, the rest to train."""
    for number in range(count):

        def keep(ids, number=number):
            return np.array([fold_of[query] == number for query in ids])

        yield made.with_splits(
            {
                "train": Split(pattern, lambda ids, keep=keep: ~keep(ids)),
                "valid": Split(pattern, keep),
            }
        )


@pytest.mark.parametrize("seed, count", [(0, 2), (1, 3), (2, 5)])
def test_folds_by_query_are_disjoint_and_complete(path, seed, count):
    rng = np.random.default_rng(seed)
    numbers = rng.permutation([*range(count), *rng.integers(0, count, 8 - count)])
    made, held_out = builder(path), []
    whole = made.lists("train", "packed")
    for fold in folds(made, path, dict(zip(IDS, numbers, strict=True)), count):
        train, valid = (fold.lists(name, "packed") for name in ("train", "valid"))
        held_out += valid.query_ids.tolist()
        assert sorted([*train.query_ids, *valid.query_ids]) == IDS
        for part in (train, valid):
            for i, query in enumerate(part.query_ids):
                mine, number = part.slice(i, i + 1), IDS.index(query)
                its = whole.slice(number, number + 1)
                assert_same(mine.values, its.values)
                assert_same(mine.context, its.context)
                np.testing.assert_array_equal(mine.labels, its.labels)
                np.testing.assert_array_equal(mine.weights, its.weights)
    assert sorted(held_out) == IDS


def test_all_folds_and_layouts_are_made_of_files_that_are_read_once(path, parses):
    made = builder(path)
    fold_of = {query: number % 2 for number, query in enumerate(IDS)}
    for number, fold in enumerate(folds(made, path, fold_of, 2)):
        lengths = [n for n, q in zip(LENGTHS, IDS, strict=True) if fold_of[q] == number]
        for layout in fold.layouts:
            batches = list(fold.make_dataset("valid", layout))
            labels = [batch[1] for batch in batches]
            if layout == "packed":
                found = np.concatenate([label.row_lengths() for label in labels])
            else:
                found = np.concatenate([b[0][MASK].numpy().sum(1) for b in batches])
            assert found.tolist() == lengths
        assert next(iter(fold.build_train_dataset()))[1].shape[0] == 2  # of 4
    assert len(parses) == 1


def test_folds_of_one_file_are_other_data_to_a_run(path):
    found = []
    for fold in (chosen("q0", "q1"), chosen("q0", "q2"), None):
        splits = {"train": Split(path, fold)}
        found.append(data_fingerprint.of_builder(builder(path).with_splits(splits)))
    for one in found:
        for other in found:
            differs = bool(data_fingerprint.difference(one, other))
            assert differs == (one is not other)


def test_only_splits_that_there_are_have_a_name(path):
    made = builder(path)
    assert made.splits == {"train": Split(path), "valid": Split(path)}
    fewer = made.with_splits({"train": Split(path)})
    assert list(fewer.splits) == ["train"]
    with pytest.raises(DataError):
        fewer.lists("valid")
    with pytest.raises(ConfigError, match=r"unknown split 'vaild'.*'valid'"):
        made.with_splits({"vaild": Split(path)})


@pytest.mark.parametrize(
    "keep, error, words",
    [
        (lambda ids: ids, ConfigError, "expected bool of shape .8,., .*found object"),
        (lambda ids: np.ones(3, bool), ConfigError, r"bool of shape \(3,\)"),
        (lambda ids: ids == "none", DataError, "the split keeps, found none among 8"),
    ],
)
def test_a_query_filter_that_does_not_fit_is_explained(path, keep, error, words):
    made = builder(path).with_splits({"train": Split(path, keep)})
    with pytest.raises(error, match=words):
        made.lists("train")


def test_splits_are_refused_where_datasets_are_built_in_another_way(path):
    class Own(SimpleDatasetBuilder):
        def build_train_dataset(self):
            return self._build_dataset(path, 2)

    with pytest.raises(ConfigError, match="with_splits: Own reads its files in a way"):
        builder(path, Own).with_splits({"train": Split(path)})


SETTINGS = [
    {"list_size": 2, "valid_list_size": 3, "convert_labels_to_binary": True},
    {"documents_per_batch": 6, "seed": 4, "truncation": "bm25", "list_size": 3},
    {"train_batch_size": 5, "valid_list_size": 1},
]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_builders_that_share_lists_read_once_and_make_batches_of_their_own(
    path, parses, layout
):
    alone = [builder(path, **settings) for settings in SETTINGS]

    def some(made):
        train = made.make_dataset("train", layout).take(4)
        return arrays([*made.make_dataset("valid", layout), *train])

    wanted = [some(made) for made in alone]
    parses.clear()
    shared = [builder(path, **settings) for settings in SETTINGS]
    for made in shared[1:]:
        made.kept = shared[0].kept
    for made, expected in zip(shared, wanted, strict=True):
        for one, other in zip(some(made), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(parses) == 1


def test_builders_that_read_other_things_of_a_file_do_not_get_each_others_lists(path):
    one, other = builder(path), builder(path, context={})
    several = builder(
        path, MultiLabelDatasetBuilder, {"a": LABEL_SPEC, "b": WEIGHT_SPEC}
    )
    other.kept = several.kept = one.kept
    assert set(one.lists("train").context) == set(CONTEXT_SPEC)
    assert not other.lists("train").context
    assert several.lists("train").labels.shape == (sum(LENGTHS), 2)
    assert one.lists("train").labels.shape == (sum(LENGTHS),)


def test_settings_that_are_changed_make_other_batches(path):
    made = builder(path, list_size=1, valid_list_size=1)
    for split in ("train", "valid"):
        made.plan(split, "packed").counts(0)
    made.hparams.list_size = made.hparams.valid_list_size = None
    made.hparams.convert_labels_to_binary = True
    wanted = builder(path, convert_labels_to_binary=True)
    for split in ("train", "valid"):
        np.testing.assert_array_equal(
            made.plan(split, "packed").counts(0), wanted.plan(split, "packed").counts(0)
        )
        np.testing.assert_array_equal(
            made.lists(split, "packed").labels, wanted.lists(split, "packed").labels
        )


def test_each_of_several_pipelines_orders_the_lists_by_its_own_seed(path, tmp_path):
    def batches(made):
        return made.make_dataset("train", "packed").take(6)

    shared = builder(path, seed=None)
    hparams = PipelineHparams(str(tmp_path), 1, 1, 1, 0.1, "softmax_loss")
    told = checks.described(hparams, shared)
    for seed in (5, 6, 5):
        seeds.plant(seed, shared)
        assert checks.described(hparams, shared) == told
        assert_same_batches(batches(shared), batches(builder(path, seed=seed)))
    given = builder(path, seed=7)
    seeds.plant(5, given)
    assert given.hparams.seed == 7


def test_a_request_is_what_its_fields_are_by_name(path):
    made = builder(path)
    fields = {"split": "train", "layout": "packed", "replicas": 2, "start_step": 1}
    wanted = made.make_dataset(**fields).take(5)
    assert_same_batches(made.make_dataset(BatchRequest(**fields)).take(5), wanted)
    assert_same_batches(BatchRequest(**fields).ask(made).take(5), wanted)
    with pytest.raises(TypeError):
        made.make_dataset("train", "packed", replica=2)


def test_an_override_of_make_dataset_gets_what_a_pipeline_asks_for(path):
    seen = []

    class Named(SimpleDatasetBuilder):
        def make_dataset(self, split, layout="padded", **settings):
            seen.append((split, layout, settings))
            return super().make_dataset(split, layout, **settings)

    class Any(SimpleDatasetBuilder):
        def make_dataset(self, *args, **kwargs):
            seen.append((*args, kwargs))
            return super().make_dataset(*args, **kwargs)

    request = BatchRequest(split="train", layout="packed", start_step=2)
    wanted = builder(path).make_dataset(request).take(3)
    for kind in (Named, Any):
        assert_same_batches(request.ask(builder(path, kind)).take(3), wanted)
    assert seen == [("train", "packed", {"start_step": 2})] * 2


def test_a_subclass_may_call_an_attribute_of_its_own_hparams(path):
    class Mine(SimpleDatasetBuilder):
        """As a script for TF-Ranking may have it."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.hparams = args[4]

    made = builder(path, Mine)
    assert made.hparams is made._hparams
    assert made.splits["train"].pattern == path


@pytest.mark.parametrize("packed_files", [False, True])
def test_a_step_of_ones_own_gets_labels_and_weights_as_they_are_in_files(
    path, packed_files
):
    seen = {}

    class Own(SimpleDatasetBuilder):
        def _features_and_labels(self, features):
            seen.update({name: value.dtype for name, value in features.items()})
            return features, features[LABEL_SPEC[0]][..., 0], features[WEIGHT_SPEC[0]]

    source = f"{path}.packed" if packed_files else path
    made = builder(source, Own, convert_labels_to_binary=True)
    lists = builder(source).lists("valid", "packed")
    assert lists.labels.max() > 1
    batches = list(made.make_dataset("valid", "padded"))
    masks = [batch[0][MASK].numpy() for batch in batches]
    for column, wanted in ((1, lists.labels), (2, lists.weights)):
        found = [b[column].numpy()[m] for b, m in zip(batches, masks, strict=True)]
        np.testing.assert_array_equal(np.concatenate(found).ravel(), wanted)
    assert seen[LABEL_SPEC[0]] == LABEL_SPEC[1].dtype
    # What is evaluated has the labels that were asked for.
    assert made.lists("valid", "packed").labels.max() == 1


def test_documents_without_features_have_labels_and_a_mask(path):
    arguments = CONTEXT_SPEC, {}, MASK, LABEL_SPEC, DatasetHparams(path, path, 8, 8)
    found = next(iter(SimpleDatasetBuilder(*arguments).build_valid_dataset()))
    wanted = next(iter(builder(path, valid_batch_size=8).build_valid_dataset()))
    assert_same_batches([found[1], found[0][MASK]], [wanted[1], wanted[0][MASK]])


def test_builders_of_other_makes_are_asked_as_far_as_they_can_answer(path):
    hparams = theirs.DatasetHparams(path, "", 2, 2)
    arguments = {}, EXAMPLE_SPEC, MASK
    simple = adapt(theirs.SimpleDatasetBuilder(*arguments, LABEL_SPEC, hparams))
    assert simple.hparams is hparams and simple.layouts == ()
    assert simple.splits == {"train": Split(path)}
    assert simple.specs.example == EXAMPLE_SPEC
    labels = {"a": LABEL_SPEC, "b": WEIGHT_SPEC}
    several = theirs.MultiLabelDatasetBuilder(*arguments, labels, hparams)
    assert tasks.of_data(several) == ("a", "b")
    batch = {"x": [[1.0]]}, {"click": [[1.0]]}
    null = NullDatasetBuilder(tf.data.Dataset.from_tensors(batch), None)
    assert adapt(null).hparams is None and not adapt(null).splits
    assert tasks.of_data(null) == ("click",)
    assert next(iter(adapt(null).build_train_dataset()))[1]["click"] == 1
    with pytest.raises(ConfigError, match="NullDatasetBuilder: expected a dataset bu"):
        adapt(null).lists("train")
    ours = builder(path)
    assert adapt(ours) is ours
