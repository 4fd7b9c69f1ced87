"""`model.preprocess` of a config: names, globs, steps and what is wrong with them."""

from __future__ import annotations

import functools

import pytest

import tfr_pipeline as tfr
from tfr_pipeline.compat import tf
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.experiment.preprocessing import steps
from tfr_pipeline.experiment.settings import problem
from tfr_pipeline.features import Feature, Features
from tfr_pipeline.model.preprocess import PreprocessorWithSpec, signed_log1p

preprocessing = tfr.keras.preprocessing
FEATURES = Features(
    context={"query": Feature("string", (1,), "")},
    example={
        **{name: Feature() for name in ("price", "price_old", "bm25")},
        "year": Feature("int64", (1,), 0),
        "title": Feature("string", (1,), ""),
    },
)


def doubled(values, times=2.0):
    return values * times


def described(preprocess, **model):
    """Returns what is done to each feature, as `Chain.describe` says it."""
    found = steps({"preprocess": preprocess, **model}, FEATURES)
    chains = PreprocessorWithSpec(
        {n: x if isinstance(x, list) else [x] for n, x in found.items()}
    ).chains
    return {name: chain.describe() for name, chain in chains.items()}


def test_one_word_is_for_all_numbers():
    found = steps({"preprocess": "log1p"}, FEATURES)
    assert found == dict.fromkeys(["price", "price_old", "bm25", "year"], signed_log1p)
    assert steps({"preprocess": "none"}, FEATURES) == {}
    assert steps({}, FEATURES) == {}


def test_one_list_is_for_all_numbers():
    assert problem("model.preprocess", ["log1p", {"clip": [0, 1]}]) == ""
    found = described(["log1p", {"clip": [0, 1]}])
    assert sorted(found) == ["bm25", "price", "price_old", "year"]
    assert described({"clip": [0, 1]})["bm25"] == found["bm25"][1:]


def test_a_name_counts_more_than_a_glob_and_the_nearest_glob_the_most():
    # In the order of a ConfigDict, which sorts its keys.
    found = described(
        {
            "*": "log1p",
            "p*": "standardize",
            "price": {"clip": [0, 9]},
            "price_*": "none",
            "title": ["tokens", {"embedding": 4, "oov": 3}],
        }
    )
    assert sorted(found) == ["bm25", "price", "title", "year"]
    assert found["price"] == [{"step": "Clip", "bounds": [0.0, 9.0]}]
    assert found["bm25"] == ["signed_log1p"]
    tokens, embedding = found["title"]
    assert tokens == {"step": "Tokens", "ngrams": 1}
    assert (embedding["dim"], embedding["oov"]) == (4, 3)


TABLE = Features(
    context={"season": Feature("int64", (1,), 0)},
    example={
        "features": Feature("float32", (2,), 0.0, types=("numeric", "date")),
        "dates": Feature("float32", (2,), 0.0, types=("date", "date")),
        "price": Feature(),
        "vector": Feature("float32", (3,), 0.0, types=("list",)),
        "brand": Feature("string", (1,), "", types=("categorical",)),
        "title": Feature("string", (1,), "", types=("text",)),
        "body": Feature("string", (1,), ""),
        "tags": Feature("string", (), None, "ragged", types=("list",)),
        "codes": Feature("int64", (), None, "varlen"),
    },
)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("numeric", ["price", "vector"]),
        ("date", ["dates"]),
        ("boolean", []),
        ("integer", ["season"]),
        ("categorical", ["brand"]),
        ("text", ["body", "title"]),
        ("list", ["codes", "tags"]),
    ],
)
def test_a_type_is_for_all_features_that_are_of_it(kind, names):
    found = steps({"preprocess": {f"type:{kind}": {"hashing": 3}}}, TABLE)
    assert sorted(found) == names


def test_a_type_counts_more_than_all_numbers_and_less_than_a_glob():
    wanted = {"*": {"clip": [0, 1]}, "type:date": {"clip": [0, 2]}}
    wanted |= {"type:numeric": {"clip": [0, 3]}, "p*": {"clip": [0, 4]}}
    found = steps({"preprocess": wanted}, TABLE)
    assert {name: step.keywords["bounds"][1] for name, (step,) in found.items()} == {
        **dict.fromkeys(["season", "features", "codes"], 1),
        **{"dates": 2, "vector": 3, "price": 4},
    }


def test_features_with_one_step_are_grouped():
    found = PreprocessorWithSpec(
        steps({"preprocess": ["log1p", "standardize"]}, FEATURES)
    ).functions()
    assert len({id(function) for function in found.values()}) == 1


def test_steps_of_ones_own_take_arguments():
    own = f"{__name__}:doubled"
    (step,) = steps({"preprocess": {"price": {own: 3.0}}}, FEATURES)["price"]
    assert step(tf.constant(2.0)) == 6.0
    given = {"preprocess": own, "preprocess_args": {"times": 5.0}}
    functions = steps(given, FEATURES)
    assert len({id(function) for function in functions.values()}) == 1
    assert functions["bm25"](tf.constant(2.0)) == 10.0
    layer = "tf_keras.layers:Rescaling"
    if not tf.keras.layers.Rescaling.__module__.startswith("tf_keras"):
        layer = "keras.layers:Rescaling"
    (made,) = steps({"preprocess": {"bm25": {layer: 0.5}}}, FEATURES)["bm25"]
    assert isinstance(made, functools.partial) and made().scale == 0.5


@pytest.mark.parametrize(
    ("preprocess", "words"),
    [
        ("standardise", "did you mean 'standardize'"),
        ({"prise": "log1p"}, "unknown feature 'prise'.*did you mean 'price'"),
        ({"prise*": "log1p"}, "No feature fits this glob"),
        ({"type:txt": "tokens"}, "unknown type 'txt'.*did you mean 'text'"),
        (
            {"price": {"clip": [0, 1], "log1p": None}},
            "expected one step in a dict, fou",
        ),
        ({"price": {"discretise": 3}}, "did you mean 'discretize'"),
        ({"price": {"discretize": 3, "encod": "ordinal"}}, "did you mean 'encode'"),
        ({"price": {"discretize": 1}}, "whole number from 2 on, found 1"),
        ({"price": {"log1p": 3}}, "takes no argument of that kind"),
        ({"price": {"clip": 3}}, "expected two numbers, the lower one first, found 3"),
        ({"price": [3]}, "expected the name of a step"),
        ({"price": {"none": 3}}, "'none' takes no arguments"),
        ({"price": {"missing": "mode"}}, "number, 'mean' or 'median', found 'mode'"),
    ],
)
def test_what_is_wrong_is_named(preprocess, words):
    with pytest.raises(ConfigError, match=words):
        described(preprocess)


def test_arguments_that_nothing_takes_warn():
    with pytest.warns(UserWarning, match="preprocess_args has no effect"):
        steps({"preprocess": "none", "preprocess_args": {"a": 1}}, FEATURES)
