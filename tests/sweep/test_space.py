"""The vocabulary of search spaces, against points written out by hand."""

from __future__ import annotations

import itertools

import pytest

from tfr_pipeline.errors import ConfigError
from tfr_pipeline.sweep import hyper
from tfr_pipeline.sweep.domains import Interval
from tfr_pipeline.sweep.space import of_plain


def points(space):
    return list(of_plain(space).points())


def test_a_sweep_takes_values_in_their_order_and_each_once():
    assert points(hyper.sweep("a", [3, 1, 3])) == [{"a": 3}, {"a": 1}]


def test_a_product_combines_all_and_the_last_one_varies_first():
    space = hyper.product(
        hyper.sweep("a", [1, 2]), hyper.sweep("b", ["x", "y"]), hyper.fixed("c", None)
    )
    assert points(space) == [
        {"a": 1, "b": "x", "c": None},
        {"a": 1, "b": "y", "c": None},
        {"a": 2, "b": "x", "c": None},
        {"a": 2, "b": "y", "c": None},
    ]


def test_zipit_takes_first_with_first():
    space = hyper.zipit(hyper.sweep("a", [1, 2]), hyper.sweep("b", [(8,), (4, 2)]))
    assert points(space) == [{"a": 1, "b": (8,)}, {"a": 2, "b": (4, 2)}]


def test_chainit_takes_one_space_after_the_other_and_each_point_once():
    space = hyper.chainit(
        hyper.sweep("a", [1, 2]), hyper.sweep("b", [1]), hyper.sweep("a", [2, 3])
    )
    assert points(space) == [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 3}]


def test_words_nest():
    space = hyper.product(
        hyper.chainit(
            hyper.zipit(hyper.sweep("a", [1, 2]), hyper.sweep("b", [3, 4])),
            hyper.fixed("a", 9),
        ),
        hyper.sweep("c", [5, 6]),
    )
    wanted = [
        {**first, "c": c}
        for first in ({"a": 1, "b": 3}, {"a": 2, "b": 4}, {"a": 9})
        for c in (5, 6)
    ]
    assert points(space) == wanted


def test_a_condition_adds_points_only_where_it_holds():
    space = hyper.product(
        hyper.categorical("loss", ["softmax", "lambda", "mse"]),
        hyper.when("loss", "softmax", hyper.sweep("t", [1, 2])),
        hyper.when("loss", ["lambda", "mse"], hyper.sweep("t", [3])),
    )
    assert points(space) == [
        {"loss": "softmax", "t": 1},
        {"loss": "softmax", "t": 2},
        {"loss": "lambda", "t": 3},
        {"loss": "mse", "t": 3},
    ]


def test_a_dict_is_the_product_of_its_entries():
    space = {"a": [1, 2], "b": {"low": 0.1, "high": 0.3, "step": 0.1}, "c": "x"}
    wanted = [
        {"a": a, "b": b, "c": "x"}
        for a, b in itertools.product([1, 2], [0.1, 0.2, 0.3])
    ]
    assert points(space) == wanted


def test_a_list_of_points_is_taken_as_it_is():
    assert points([{"a": 1}, {"b": 2}]) == [{"a": 1}, {"b": 2}]


def test_discrete_values_rise():
    assert points(hyper.discrete("a", [8, 2, 4])) == [{"a": 2}, {"a": 4}, {"a": 8}]


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ((1, 4), [1, 2, 3, 4]),
        ((1, 8, False, 3), [1, 4, 7]),
        ((0, 0.5, False, 0.25), [0.0, 0.25, 0.5]),
        ((0.1, 0.75, False, 0.3), [0.1, 0.4, 0.7]),
    ],
)
def test_intervals_with_steps_are_counted_off(args, wanted):
    space = hyper.interval("a", *args)
    assert space.finite
    assert [point["a"] for point in points(space)] == wanted


@pytest.mark.parametrize("args", [(0.0, 1.0), (1, 100, True), (1e-4, 1e-1, True)])
def test_intervals_without_steps_have_no_last_point(args):
    assert not hyper.product(hyper.interval("a", *args)).finite


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["x", 2, None], ("x", 2, None)),
        ([1, True], ("1", "true")),
        ([(8,), (4, 2)], ("[8]", "[4, 2]")),
        ([{"a": 1}, "x"], ('{"a": 1}', '"x"')),
    ],
)
def test_values_that_optuna_cannot_tell_apart_are_called_by_their_json(values, labels):
    (_, domain), *_ = hyper.sweep("a", values).leaves()
    assert domain.labels == labels
    assert [domain.label_of(value) for value in values] == list(labels)


def test_the_description_tells_spaces_apart_and_is_the_same_for_lists_and_tuples():
    def described(*args):
        return hyper.product(hyper.sweep("a", args), hyper.interval("b", 0, 1.0))

    assert described((8,)).describe() == described([8]).describe()
    assert described((8,)).describe() != described((9,)).describe()
    assert described(1, 2).describe() == ["a: 1, 2", "b: 0 to 1.0"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: of_plain({}), "empty"),
        (lambda: of_plain([]), "expected points"),
        (lambda: of_plain(3), "expected a space"),
        (lambda: of_plain({"a": []}), "a: expected values, found none"),
        (lambda: of_plain({"a": {"low": 1}}), "low, high"),
        (lambda: hyper.sweep("a", "text"), "expected a list"),
        (lambda: hyper.sweep("a", [float("nan")]), "a: expected text, finite"),
        (lambda: hyper.sweep("a", [object()]), "a: expected text, finite"),
        (lambda: hyper.sweep("a..b", [1]), "a..b"),
        (lambda: hyper.discrete("a", ["x"]), "expected numbers"),
        (lambda: hyper.interval("a", 2, 1), "low=2 and high=1"),
        (lambda: hyper.interval("a", 0, 1, log=True), "needs low > 0"),
        (lambda: hyper.interval("a", 1, 2, log=True, step=1), "log or step"),
        (lambda: hyper.interval("a", 1, 2, step=0), "above 0"),
        (lambda: hyper.interval("a", 1, float("inf")), "finite number for high"),
        (lambda: hyper.interval("a", "1", 2), "finite number for low"),
        (lambda: hyper.product(), "none"),
        (lambda: hyper.product(hyper.fixed("a", 1), hyper.fixed("a", 2)), "in two"),
        (
            lambda: hyper.zipit(hyper.sweep("a", [1]), hyper.sweep("b", [1, 2])),
            "sizes of 1, 2",
        ),
        (lambda: hyper.zipit(hyper.fixed("a", 1), hyper.fixed("a", 2)), "found a"),
        (lambda: hyper.chainit(hyper.interval("a", 0.0, 1.0)), "finite spaces"),
        (
            lambda: hyper.product(hyper.when("b", 1, hyper.fixed("a", 1))),
            "found none",
        ),
        (
            lambda: hyper.product(
                hyper.sweep("b", [1, 2]),
                hyper.when("b", [1, 2], hyper.fixed("a", 1)),
                hyper.when("b", 2, hyper.fixed("a", 2)),
            ),
            "found a in two parts",
        ),
        (lambda: hyper.study({"a": [1]}, metrics="x"), "did you mean 'metric'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_explained(make, words):
    with pytest.raises(ConfigError, match=r"get_sweep|hyper\.study") as error:
        make()
    assert words in str(error.value)


def test_steps_of_an_interval_are_those_of_optuna():
    optuna = pytest.importorskip("optuna")
    domain = Interval.of("a", 0.1, 0.75, False, 0.3)
    study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler())
    found = set()
    study.optimize(lambda t: found.add(domain.suggest(t, "a")) or 0.0, n_trials=9)
    assert found == {0.1, 0.4, 0.7}
