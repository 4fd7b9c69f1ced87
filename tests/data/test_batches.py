"""Batches: each list once an epoch, in an order that can be resumed anywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ranking_data import EXAMPLE_SPEC, MASK, elwc, random_lists, write_elwc
from tfr_pipeline.compat import tf, tfr
from tfr_pipeline.data.batching.gather import packed_gather, pad
from tfr_pipeline.data.batching.plan import BatchPlan
from tfr_pipeline.data.reading.loading import load
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.layout import BlockLayout


@st.composite
def plans(draw, empty_lists=False):
    lengths = draw(
        st.lists(st.integers(0 if empty_lists else 1, 9), min_size=1, max_size=30)
    )
    if not sum(lengths):
        lengths[0] = 1
    return {
        "lengths": np.array(lengths),
        "batch_size": draw(st.integers(1, 12)),
        "documents_per_batch": draw(st.none() | st.integers(1, 40)),
        "replicas": draw(st.integers(1, 4)),
        "seed": draw(st.none() | st.integers(0, 9)),
        "by_length": draw(st.booleans()),
    }


def take(dataset, count):
    return [index.numpy().tolist() for index in dataset.take(count)]


def epoch(plan, number):
    order, splits = plan.epoch(number)
    return [part.tolist() for part in np.split(order.numpy(), splits.numpy()[1:-1])]


@given(plans(empty_lists=True), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_list_once(arguments, number):
    plan = BatchPlan(**arguments)
    batches = epoch(plan, number)
    assert len(batches) >= plan.steps * plan.replicas - plan.replicas + 1
    everything = sorted(itertools.chain(*batches))
    assert everything == list(range(len(arguments["lengths"])))


@given(plans(), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_the_order_is_a_function_of_seed_and_epoch(arguments, number):
    again = epoch(BatchPlan(**arguments), number)
    assert epoch(BatchPlan(**arguments), number) == again


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, number):
        plan = BatchPlan(np.ones(50), 50, seed=seed)
        return tuple(plan.epoch(number)[0].numpy())

    orders = {order(seed, number) for seed in range(3) for number in range(3)}
    assert len(orders) == 9


@given(plans(empty_lists=True), st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_a_resumed_run_sees_the_batches_it_would_have_seen(arguments, start):
    plan = BatchPlan(**arguments)
    count = 3 * plan.replicas
    full = take(plan.dataset(), start * plan.replicas + count)
    assert take(plan.dataset(start_step=start), count) == full[start * plan.replicas :]


@given(plans(empty_lists=True))
@settings(max_examples=15, deadline=None)
def test_counts_are_those_of_the_batches_of_training(arguments):
    plan = BatchPlan(**arguments)
    sizes = [row for number in range(2) for row in plan.counts(number).tolist()]
    wanted = [
        [len(index), int(arguments["lengths"][index].sum())]
        for index in take(plan.dataset(), len(sizes))
    ]
    assert sizes == wanted


@given(plans(empty_lists=True))
@settings(max_examples=30, deadline=None)
def test_training_batches_have_documents_and_run_through_each_epoch(arguments):
    plan = BatchPlan(**arguments)
    lengths = arguments["lengths"]
    wanted = [
        batch
        for number in range(3)
        for batch in epoch(plan, number)
        if lengths[batch].sum()
    ]
    assert take(plan.dataset(), len(wanted)) == wanted


@given(plans(empty_lists=True))
@settings(max_examples=40, deadline=None)
def test_batches_keep_to_their_share_of_the_budget(arguments):
    plan = BatchPlan(**arguments)
    lengths = arguments["lengths"]
    batches = epoch(plan, 0)
    if arguments["documents_per_batch"] is None:
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        most = max(arguments["batch_size"], plan.replicas)
        assert plan.has_few_lists or max(sizes) * plan.replicas <= (
            most + plan.replicas - 1
        )
        return
    if plan.has_few_lists:
        return
    share = arguments["documents_per_batch"] / plan.replicas
    for batch in batches:
        # It is over when the share is passed, so by less than its longest list.
        assert lengths[batch].sum() <= share + lengths.max()


def test_equal_lists_fill_document_budgets_evenly():
    plan = BatchPlan(np.full(100, 10), 1, documents_per_batch=100, replicas=2, seed=1)
    assert plan.steps == 10
    assert {len(batch) for batch in epoch(plan, 0)} == {5}


@pytest.mark.parametrize("replicas, workers", [(2, 2), (4, 2), (6, 3), (3, 1)])
@pytest.mark.parametrize("repeat", [True, False])
def test_the_shares_of_workers_make_up_each_global_batch(replicas, workers, repeat):
    plan = BatchPlan(np.arange(1, 40), 8, replicas=replicas, seed=3)
    local = replicas // workers
    count = plan.steps * replicas
    whole = take(plan.dataset(repeat=repeat), count)
    shares = [
        take(plan.dataset(repeat=repeat, shard=(worker, workers)), count // workers)
        for worker in range(workers)
    ]
    joined = [
        batch
        for step in range(plan.steps)
        for share in shares
        for batch in share[step * local : (step + 1) * local]
    ]
    assert joined == whole


def test_the_share_of_a_worker_is_resumed_too():
    plan = BatchPlan(np.arange(1, 40), 8, replicas=4, seed=3)
    full = take(plan.dataset(shard=(1, 2)), 40)
    assert take(plan.dataset(start_step=7, shard=(1, 2)), 26) == full[14:]


def test_without_seed_one_pass_goes_over_the_lists_once_and_in_order():
    plan = BatchPlan(np.arange(11), 3, replicas=2)
    batches = [index.numpy() for index in plan.dataset(repeat=False)]
    assert np.concatenate(batches).tolist() == list(range(11))


def skewed(count=600):
    """Lengths as those of real lists: most are short, few are long."""
    return np.random.default_rng(0).lognormal(2.7, 0.6, count).astype(int).clip(1, 100)


def padding(lengths, batches):
    """Returns which part of the places of padded batches has no document."""
    places = sum(len(batch) * lengths[batch].max() for batch in batches)
    return 1.0 - lengths.sum() / places


@pytest.mark.parametrize("replicas", [1, 2])
def test_lists_of_a_batch_are_about_equally_long_if_they_go_by_length(replicas):
    lengths = skewed()
    random, alike = (
        epoch(BatchPlan(lengths, 16, seed=1, replicas=replicas, by_length=by), 2)
        for by in (False, True)
    )
    assert padding(lengths, random) > 0.5
    assert padding(lengths, alike) < 0.2
    # Batches come in any order, and so do the lists within each.
    means = [lengths[batch].mean() for batch in alike]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4
    rising = [np.diff(lengths[batch]) >= 0 for batch in alike]
    assert 0.3 < np.concatenate(rising).mean() < 0.8


def test_lists_of_one_length_meet_others_in_each_epoch():
    lengths = np.repeat(np.arange(1, 5), 40)
    plan = BatchPlan(lengths, 8, seed=1, by_length=True)
    first, second = (
        {
            frozenset(pair)
            for b in epoch(plan, e)
            for pair in itertools.combinations(b, 2)
        }
        for e in (0, 1)
    )
    # Chance puts two of forty lists into one of five batches in 7 of 39 cases.
    assert len(first & second) / len(first) < 0.3


def test_batches_cut_by_documents_do_not_go_by_length():
    plans = [BatchPlan(skewed(), 8, 200, seed=1, by_length=by) for by in (False, True)]
    assert epoch(plans[0], 1) == epoch(plans[1], 1)


def test_lists_without_documents_do_not_come_together_by_length():
    lengths = np.where(np.arange(64) % 4, 5, 0)
    plan = BatchPlan(lengths, 8, seed=0, by_length=True)
    assert all(len(plan.counts(number)) == plan.steps for number in range(5))


def test_a_list_longer_than_the_budget_leaves_no_batch_without_documents():
    lengths = np.array([1, 1, 100, 1, 1])
    plan = BatchPlan(lengths, 1, documents_per_batch=4, seed=0)
    batches = take(plan.dataset(), 12)
    assert all(batches)
    assert max(lengths[batch].sum() for batch in batches) <= 104
    first = list(itertools.chain(*(b for b in epoch(plan, 0))))
    assert sorted(first) == [0, 1, 2, 3, 4]


@given(plans())
@settings(max_examples=40, deadline=None)
def test_the_steps_of_each_epoch_are_one_pass(arguments):
    plan = BatchPlan(**arguments)
    lists = len(arguments["lengths"])
    if lists < plan.replicas:
        return
    count = plan.steps * plan.replicas
    batches = take(plan.dataset(), 3 * count)
    for number in range(3):
        passed = batches[number * count : (number + 1) * count]
        assert sorted(itertools.chain(*passed)) == list(range(lists))


@given(plans())
@settings(max_examples=40, deadline=None)
def test_a_global_batch_has_the_same_lists_for_any_number_of_replicas(arguments):
    one = BatchPlan(**{**arguments, "replicas": 1})
    many = BatchPlan(**arguments)
    if many.steps != one.steps:
        assert many.has_few_lists
        return
    replicas = many.replicas
    shared = [len(batch) >= replicas for batch in epoch(one, 1)]
    if not all(shared):
        return  # A list as long as the batch, with too few others beside it.
    local = epoch(many, 1)
    for step, batch in enumerate(epoch(one, 1)):
        parts = local[step * replicas : (step + 1) * replicas]
        assert all(parts)
        assert sorted(itertools.chain(*parts)) == sorted(batch)


def test_validation_has_the_same_batches_for_any_number_of_replicas():
    plan = BatchPlan(np.ones(7), 5, replicas=4, training=False)
    assert plan.steps == 2
    batches = [index.numpy().tolist() for index in plan.dataset(repeat=False)]
    assert len(batches) == 8
    joined = [list(itertools.chain(*part)) for part in (batches[:4], batches[4:])]
    one = BatchPlan(np.ones(7), 5, training=False).dataset(repeat=False)
    assert joined == [index.numpy().tolist() for index in one]


def test_fewer_lists_than_replicas_still_feed_every_replica():
    plan = BatchPlan(np.array([2, 3]), 8, replicas=4, seed=0)
    batches = take(plan.dataset(), 8)
    assert len(batches) == 8
    assert all(len(batch) == 1 for batch in batches)


def test_the_lists_of_a_step_can_be_looked_up():
    plan = BatchPlan(np.arange(1, 30), 7, replicas=2, seed=5)
    batches = take(plan.dataset(), 12)
    for step in range(6):
        wanted = batches[2 * step] + batches[2 * step + 1]
        assert plan.batch_of_step(step).tolist() == wanted


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Lists in memory, with a feature matrix of each dtype, and their source."""
    source = random_lists(0, [4, 1, 0, 6, 2], missing=0.2)
    path = write_elwc(tmp_path_factory.mktemp("lists") / "f", source)
    extra = {
        "relevance": tf.io.FixedLenFeature((1,), tf.float32),
        "weight": tf.io.FixedLenFeature((1,), tf.float32),
    }
    context = {"query_vector": tf.io.FixedLenFeature((2,), tf.float32, [0.0, 1.0])}
    parser = RecordParser(context, EXAMPLE_SPEC, extra, "qid")
    return source, load([path], parser, "relevance", "weight"), context


INDICES = [[0, 3], [3, 2, 0], [1], [2], [4, 4]]


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("list_size", [None, 1, 3, 20])
def test_packed_batches_hold_the_documents_of_their_lists(read, index, list_size):
    _, lists, _ = read
    features, labels, weights = packed_gather(lists, list_size)(
        tf.constant(index, tf.int64)
    )

    def wanted(array):
        splits = lists.row_splits
        return [array[splits[i] : splits[i + 1]][:list_size].tolist() for i in index]

    assert labels.to_list() == wanted(lists.labels)
    assert weights.to_list() == wanted(lists.weights)
    for dtype, block in lists.values.items():
        assert features[f"documents_{dtype}"].to_list() == wanted(block)
    found = features["query_vector"].numpy()
    np.testing.assert_array_equal(found, lists.context["query_vector"][index])


def test_lists_without_labels_make_batches_without_labels(read):
    _, lists, _ = read
    bare = lists.slice(0, 2)
    bare.labels = bare.weights = None
    _, labels, weights = packed_gather(bare)(tf.constant([1, 0], tf.int64))
    assert labels is None
    assert weights is None


@pytest.mark.parametrize("index", [[0, 3], [3, 2, 0], [1], [4, 4]])
@pytest.mark.parametrize("list_size", [None, 1, 3, 20])
def test_padded_batches_are_tf_rankings_tensors(read, index, list_size):
    source, lists, context = read
    wanted = tfr.data.parse_from_example_list(
        [elwc(source[i]) for i in index],
        list_size,
        context,
        EXAMPLE_SPEC,
        mask_feature_name=MASK,
    )
    features, _, _ = packed_gather(lists, list_size)(tf.constant(index, tf.int64))
    defaults = {name: spec.default_value for name, spec in EXAMPLE_SPEC.items()}
    layout = BlockLayout.from_spec(EXAMPLE_SPEC)
    found = pad(features, layout, list_size, defaults, MASK)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == value.dtype


def test_padding_takes_defaults_of_any_form():
    spec = {
        "a": tf.io.FixedLenFeature((2,), tf.float32, np.array([1.0, 2.0])),
        "b": tf.io.FixedLenFeature((), tf.float32),
        "c": tf.io.FixedLenFeature((1, 2), tf.float32, [[3.0, 4.0]]),
    }
    block = tf.RaggedTensor.from_row_lengths(tf.zeros([1, 5]), [1])
    found = pad(
        {"documents_float32": block},
        BlockLayout.from_spec(spec),
        2,
        {name: s.default_value for name, s in spec.items()},
        None,
    )
    assert found["a"].numpy().tolist() == [[[0, 0], [1, 2]]]
    assert found["b"].numpy().tolist() == [[0, 0]]
    assert found["c"].numpy().tolist() == [[[[0, 0]], [[3, 4]]]]
    assert set(found) == {"a", "b", "c"}


def test_a_query_feature_may_be_called_as_packed_documents_are(read):
    _, lists, _ = read
    features, _, _ = packed_gather(lists)(tf.constant([0], tf.int64))
    features["documents_seen"] = tf.constant([[3.0]])
    found = pad(features, BlockLayout.from_spec(EXAMPLE_SPEC), None, {}, MASK)
    assert found["documents_seen"].numpy().tolist() == [[3.0]]
