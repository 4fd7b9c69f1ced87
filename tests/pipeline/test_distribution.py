"""Batches against replicas, before anything is trained."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tfr_pipeline.compat import tf
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.distribute import limits

FLOAT = tf.io.FixedLenFeature((1,), tf.float32, 0.0)


def hparams(train=8, valid=8, **other):
    return DatasetHparams("train", "valid", train, valid, **other)


def test_a_global_batch_needs_a_list_for_each_replica():
    limits.check_batch_sizes(hparams(4, 4), 4)
    with pytest.raises(ConfigError, match=r"train_batch_size: expected .* 4 replicas"):
        limits.check_batch_sizes(hparams(3), 4)
    with pytest.raises(ConfigError, match="documents_per_batch: expected"):
        limits.check_batch_sizes(hparams(documents_per_batch=3), 4)
    with pytest.warns(UserWarning, match="valid_batch_size=3, over 4 replicas"):
        limits.check_batch_sizes(hparams(valid=3), 4)


def test_builders_without_batch_sizes_are_left_alone():
    limits.check_batch_sizes(None, 4)


def test_document_budgets_that_leave_replicas_without_lists_are_found():
    lengths = np.full(40, 10)
    limits.check_plan(BatchPlan(lengths, 8, 40, replicas=4), 40)
    with pytest.raises(ConfigError, match="batches of at least 4 lists"):
        limits.check_plan(BatchPlan(lengths, 8, 30, replicas=4), 30)
    with pytest.raises(ConfigError, match="at least 4 lists, one for each replica"):
        limits.check_plan(BatchPlan(lengths[:3], 8, replicas=4), None)


@pytest.mark.parametrize(
    ("changes", "specs", "found"),
    [
        ({"list_size": None}, {}, "list_size is None"),
        ({"valid_list_size": None}, {}, "valid_list_size is None"),
        ({"documents_per_batch": 99}, {}, "documents_per_batch makes unequal"),
        ({}, {"b": tf.io.FixedLenFeature((), tf.string)}, "feature 'b' is string"),
        ({}, {"b": tf.io.FixedLenFeature((), tf.int64)}, "feature 'b' is int64"),
        ({}, {"b": tf.io.VarLenFeature(tf.float32)}, "'b' is a VarLenFeature"),
    ],
)
def test_what_a_tpu_cannot_do_is_said_with_what_to_do(changes, specs, found):
    sizes = {"list_size": 50, "valid_list_size": 50}
    limits.check_static_shapes(hparams(**sizes), {"a": FLOAT}, True)
    wrong = hparams(**{**sizes, **changes})
    with pytest.raises(ConfigError, match=found):
        limits.check_static_shapes(wrong, {"a": FLOAT, **specs}, True)


def test_batches_of_others_need_one_shape_and_what_a_tpu_can_hold():
    def batch(**changes):
        given = {"a": tf.TensorSpec([8, 50, 1]), "mask": tf.TensorSpec([8, 50], bool)}
        return {**given, **changes}, tf.TensorSpec([8, 50])

    limits.check_elements("train", batch())
    for wrong in (
        tf.TensorSpec([None, 50, 1]),
        tf.TensorSpec([8], tf.string),
        tf.TensorSpec([8], tf.int64),
        tf.RaggedTensorSpec([8, None]),
    ):
        with pytest.raises(ConfigError, match=r"valid batches of one shape.*found"):
            limits.check_elements("valid", batch(b=wrong))


def test_a_tpu_of_another_machine_is_refused():
    limits.check_tpu_host("local")
    with pytest.raises(ConfigError, match=r"found 'grpc://10\.0\.0\.2:8470'"):
        limits.check_tpu_host("grpc://10.0.0.2:8470")


def test_without_validation_its_shapes_do_not_matter():
    without = hparams(list_size=50, valid=3)
    limits.check_static_shapes(without, {"a": FLOAT}, False)


def test_foreign_datasets_are_shared_by_element_unless_they_say_otherwise():
    policies = tf.data.experimental.AutoShardPolicy

    def policy(dataset):
        shared = limits.share_out(dataset)
        return shared.options().experimental_distribute.auto_shard_policy

    dataset = tf.data.Dataset.range(4)
    assert policy(dataset) == policies.DATA
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policies.FILE
    assert policy(dataset.with_options(options)) == policies.FILE
    assert limits.share_out(None) is None


def test_one_replica_takes_any_batch():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limits.check_batch_sizes(hparams(1, 1), 1)
