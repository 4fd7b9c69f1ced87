"""Steps of preprocessing learn and do what NumPy and scikit-learn do."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from scipy.stats import norm, rankdata
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import (
    KBinsDiscretizer,
    QuantileTransformer,
    StandardScaler,
)

import tfr_pipeline as tfr
from tfr_pipeline.compat import tf
from tfr_pipeline.data import sketches
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.layout import BlockLayout
from tfr_pipeline.model.feature_block import FeatureBlock
from tfr_pipeline.model.preprocess import PreprocessorWithSpec, preprocess_packed
from tfr_pipeline.model.steps import fitting, text

steps = tfr.keras.preprocessing
LENGTHS = np.array([5, 1, 7, 3, 0, 4])
SPLITS = np.concatenate([[0], np.cumsum(LENGTHS)])
WORDS = ["red wine", "Red, red wine!", "", "white wine & cheese", "no_1 CHEESE"]


def columns(rows: int, seed: int = 0) -> np.ndarray:
    """Returns float32 `[rows, 4]`: continuous, many ties, mostly 0, far from 0."""
    random = np.random.default_rng(seed)
    values = random.exponential(size=(rows, 4))
    values[:, 1] = np.round(values[:, 1] * 2)
    values[random.random(rows) < 0.7, 2] = 0.0
    values[:, 3] += 100.0
    return values.astype(np.float32)


class Together:
    """A `fitting.Job` of workers that are threads."""

    def __init__(self, workers: int):
        self.workers = workers
        self._said: dict[int, bytes] = {}
        self._barrier = threading.Barrier(workers)
        self._made = b""

    def of(self, number: int) -> Together:
        job = Together.__new__(Together)
        job.__dict__ = {**self.__dict__, "number": number, "all": self}
        return job

    def gather(self, mine):
        self._said[self.number] = mine
        self._barrier.wait(60)
        found = [self._said[i] for i in range(self.workers)]
        self._barrier.wait(60)
        return found

    def from_chief(self, make):
        if self.number == 0:
            self.all._made = make()
        self._barrier.wait(60)
        return self.all._made


def learn(spec, data, workers=1, splits=None, context=()):
    """Lets the steps of a spec learn of arrays by name; returns the preprocessor."""
    preprocessor = PreprocessorWithSpec(spec)
    rows = len(next(value for name, value in data.items() if name not in context))
    splits = np.arange(rows + 1) if splits is None else splits
    kinds = {
        name: (name in context, np.asarray(value).dtype) for name, value in data.items()
    }
    shares = np.linspace(0, len(splits) - 1, workers + 1).astype(int)

    def read(worker):
        # Two pieces, one of them without a list.
        first, last = shares[worker], shares[worker + 1]
        for start, stop in ((first, last), (last, last)):
            low, high = splits[start], splits[stop]
            yield fitting.Piece(
                {n: v[start:stop] for n, v in data.items() if n in context},
                {n: v[low:high] for n, v in data.items() if n not in context},
                splits[start : stop + 1] - low,
            )

    results, errors = {}, []
    job = Together(workers)

    def work(number):
        try:
            results[number] = fitting.fit(
                preprocessor.chains,
                kinds,
                lambda: read(number),
                job.of(number) if workers > 1 else None,
            )
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[i]) for i in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        assert len(errors) == workers  # nobody waits for ever
        raise errors[0]
    assert all(result == results[0] for result in results.values())
    preprocessor.learnt = results[0]
    return preprocessor


def outputs(preprocessor, data, spec, context=()):
    """Returns packed and padded results for the documents of `LENGTHS`."""
    example = {name: spec[name] for name in data if name not in context}
    layout = BlockLayout.from_spec(example)
    matrices = {
        dtype: tf.constant(
            np.concatenate([data[slot.name].reshape(SPLITS[-1], -1) for slot in row], 1)
        )
        for dtype, row in layout.slots.items()
    }
    queries = {name: tf.constant(data[name]) for name in context}
    row_ids = tf.constant(np.repeat(np.arange(len(LENGTHS)), LENGTHS))
    _, block = preprocess_packed(
        preprocessor.functions(),
        {},
        queries,
        FeatureBlock.from_matrices(layout, matrices),
        {},
        (row_ids, tf.constant(SPLITS)),
    )
    padded = {
        name: tf.RaggedTensor.from_row_splits(data[name], SPLITS).to_tensor(-99)
        for name in example
    }
    mask = tf.sequence_mask(LENGTHS)
    _, features = preprocessor(queries, padded, mask)
    packed = {name: np.asarray(block[name]) for name in block}
    return packed, {name: np.asarray(x[mask]) for name, x in features.items()}


def apply(preprocessor, name, values):
    """Returns what becomes of a feature `[rows, ...]`, as one list."""
    values = tf.constant(values)[tf.newaxis]
    mask = tf.ones(values.shape[:2], tf.bool)
    return preprocessor({}, {name: values}, mask)[1][name][0].numpy()


@pytest.mark.parametrize("workers", [1, 3])
def test_standardize_is_the_scaler_of_scikit_learn(workers):
    values = columns(500)
    values[::9, 0] = np.nan
    spec = {"x": [steps.Standardize(), steps.Missing()]}
    preprocessor = learn(spec, {"x": values}, workers)
    scaler = StandardScaler().fit(values.astype(float))
    learnt = preprocessor.learnt["x"]["0 Standardize"]
    np.testing.assert_allclose(learnt["mean"], scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(learnt["deviation"], scaler.scale_, rtol=1e-12)
    found = apply(preprocessor, "x", values).reshape(-1, 4, 2)
    expected = scaler.transform(values.astype(float))
    np.testing.assert_array_equal(found[..., 1], np.isnan(values))
    np.testing.assert_allclose(
        found[..., 0], np.nan_to_num(expected), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_quantile_normal_is_the_transformer_of_scikit_learn(workers):
    values = columns(3000)
    values[::9, 0] = np.nan
    spec = {"x": [steps.QuantileNormal(ends="extreme"), steps.Missing()]}
    preprocessor = learn(spec, {"x": values}, workers)
    transformer = QuantileTransformer(output_distribution="normal", subsample=None)
    transformer.fit(values.astype(float))
    new = np.concatenate([values, columns(200, seed=1) * 1.5 - 0.5])
    found = apply(preprocessor, "x", new).reshape(-1, 4, 2)[..., 0]
    expected = np.nan_to_num(transformer.transform(new.astype(float)))
    # Values and ranks are float32: at the ends, 1e-7 of a rank makes a large step.
    np.testing.assert_allclose(norm.cdf(found), norm.cdf(expected), atol=5e-5)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_quantile_normal_has_no_more_quantiles_than_values():
    values = columns(30)
    preprocessor = learn({"x": steps.QuantileNormal(ends="extreme")}, {"x": values})
    transformer = QuantileTransformer(n_quantiles=30, output_distribution="normal")
    expected = transformer.fit_transform(values.astype(float))
    np.testing.assert_allclose(apply(preprocessor, "x", values), expected, atol=1e-4)


def test_the_ends_of_quantile_normal_have_the_middle_of_their_ranks():
    values = np.concatenate([np.zeros(500), np.arange(1, 401), np.full(100, 500.0)])
    preprocessor = learn(
        {"x": steps.QuantileNormal()}, {"x": np.float32(values)[:, np.newaxis]}
    )
    new = np.float32([[-1], [0], [200.5], [500], [501]])
    ranks = np.array([0.0005, 0.25, 0.7, 0.95, 0.9995])
    found = norm.cdf(apply(preprocessor, "x", new))[:, 0]
    np.testing.assert_allclose(found, ranks, atol=1e-3)
    # Away from the ends it is what scikit-learn's is.
    values = columns(3000)[:, :1]
    both = [
        apply(learn({"x": steps.QuantileNormal(ends=ends)}, {"x": values}), "x", values)
        for ends in ("middle", "extreme")
    ]
    inside = np.abs(both[1]) < 3
    assert inside.mean() > 0.99
    np.testing.assert_allclose(both[0][inside], both[1][inside], atol=1e-6)


def van_der_waerden(values, row_splits):
    """Returns normal quantiles of the ranks of lists, by SciPy."""
    found = np.full(values.shape, np.nan)
    for start, stop in itertools.pairwise(row_splits):
        for column in range(values.shape[1]):
            part = values[start:stop, column]
            there = ~np.isnan(part)
            ranks = rankdata(part[there]) / (there.sum() + 1)
            found[start:stop, column][there] = norm.ppf(ranks)
    return found


@pytest.mark.parametrize("beside", [False, True])
def test_list_quantile_normal_has_the_ranks_of_scipy(beside):
    rows = int(SPLITS[-1])
    values = columns(rows)
    values[:, 1] = np.random.default_rng(0).integers(0, 3, rows)  # ties
    values[::4, 2] = np.nan
    values[1, 2] = np.inf
    data = {"x": values}
    spec = {"x": tf.io.FixedLenFeature((4,), tf.float32)}
    made = {"x": [steps.ListQuantileNormal(beside=beside), steps.Missing()]}
    packed, padded = outputs(learn(made, data, splits=SPLITS), data, spec)
    expected = np.nan_to_num(van_der_waerden(values, SPLITS))
    for found in (packed["x"], padded["x"]):
        found = np.asarray(found).reshape(rows, 4, -1, 2)[..., 0]
        assert found.shape[2] == 1 + beside
        np.testing.assert_allclose(found[..., -1], expected, atol=1e-5)
        if beside:
            np.testing.assert_array_equal(
                found[..., 0], np.where(np.isnan(values), 0, values)
            )


@pytest.mark.parametrize("workers", [1, 3])
def test_discretize_has_the_bins_of_scikit_learn(workers):
    values = columns(1000)[:, [0, 3]]
    preprocessor = learn({"x": steps.Discretize(5)}, {"x": values}, workers)
    bins = KBinsDiscretizer(
        5,
        strategy="quantile",
        encode="onehot-dense",
        quantile_method="linear",
        subsample=None,
    )
    expected = bins.fit_transform(values.astype(float))
    np.testing.assert_array_equal(apply(preprocessor, "x", values), expected)
    ordinal = learn({"x": steps.Discretize(5, encode="ordinal")}, {"x": values})
    found = apply(ordinal, "x", np.array([[-1.0, 9999.0], [np.nan, 0]], np.float32))
    np.testing.assert_array_equal(found, [[0, 4], [-1, 0]])


@pytest.mark.parametrize("workers", [1, 3])
def test_clipping_at_quantiles_and_filling_with_means_are_those_of_numpy(workers):
    values = columns(777)
    spec = {"x": steps.ClipQuantiles([0.1, 0.9])}
    low, high = np.quantile(values.astype(float), [0.1, 0.9], axis=0)
    preprocessor = learn(spec, {"x": values}, workers)
    np.testing.assert_allclose(
        apply(preprocessor, "x", values), values.clip(low, high), rtol=1e-6
    )
    holes = values.copy()
    holes[::3] = np.nan
    for name, function in (("mean", np.nanmean), ("median", np.nanmedian)):
        preprocessor = learn({"x": steps.Missing(name)}, {"x": holes}, workers)
        filled = apply(preprocessor, "x", holes).reshape(-1, 4, 2)[..., 0]
        expected = np.where(np.isnan(holes), function(holes.astype(float), 0), holes)
        np.testing.assert_allclose(filled, expected, rtol=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
def test_beyond_what_is_exact_quantiles_are_within_the_bound(workers, monkeypatch):
    monkeypatch.setattr(sketches, "EXACT_VALUES", 40_000)
    values = columns(40_000)
    ranks = np.linspace(0, 1, 1000)
    preprocessor = learn({"x": steps.QuantileNormal()}, {"x": values}, workers)
    found = np.array(preprocessor.learnt["x"]["0 QuantileNormal"]["quantiles"])
    for column, quantiles in zip(np.sort(values, axis=0).T, found, strict=True):
        least = np.searchsorted(column, np.float32(quantiles), "left") / len(column)
        most = np.searchsorted(column, np.float32(quantiles), "right") / len(column)
        wrong = np.maximum(np.maximum(least - ranks, ranks - most), 0)
        assert wrong.max() < 2e-3
        assert quantiles[0] == column[0] and quantiles[-1] == column[-1]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_vocabulary_has_the_most_frequent_values_first(workers):
    values = np.array([[b"b"], [b"a"], [b"c"], [b"b"], [b""], [b"c"]] * 3, object)
    spec = {"x": steps.OneHot(max_values=2, oov=2)}
    preprocessor = learn(spec, {"x": values}, workers)
    learnt = preprocessor.learnt["x"]["0 OneHot"]
    assert learnt == {"vocabulary": ["b", "c"], "counts": [6, 6]}
    found = apply(preprocessor, "x", np.array([[b"c"], [b"b"], [b"zz"]], object))
    np.testing.assert_array_equal(found[:2], [[0, 0, 0, 1], [0, 0, 1, 0]])
    assert found[2, :2].sum() == 1 and not found[2, 2:].any()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ngrams", [1, 2])
def test_tf_idf_is_the_vectorizer_of_scikit_learn(workers, ngrams):
    texts = np.array([[word.encode()] for word in WORDS], object)
    spec = {"x": steps.TfIdf(7, ngrams=ngrams)}
    preprocessor = learn(spec, {"x": texts}, workers)
    vocabulary = preprocessor.learnt["x"]["0 TfIdf"]["vocabulary"]
    assert len(vocabulary) == (5 if ngrams == 1 else 7) and vocabulary[0] == "wine"
    vectorizer = TfidfVectorizer(
        ngram_range=(1, ngrams), token_pattern=r"\w+", vocabulary=vocabulary
    )
    expected = vectorizer.fit_transform(WORDS).toarray()
    np.testing.assert_allclose(apply(preprocessor, "x", texts), expected, atol=1e-6)


def test_a_projection_of_tf_idf_is_its_vector_times_a_matrix():
    texts = np.array([[word.encode()] for word in WORDS], object)
    preprocessor = learn({"x": steps.TfIdf(dim=3)}, {"x": texts})
    learnt = preprocessor.learnt["x"]["0 TfIdf"]
    narrow = steps.TfIdf(dim=3, statistics=learnt)
    found = narrow(tf.constant(texts)[tf.newaxis])[0]
    wide = steps.TfIdf(statistics=learnt)(tf.constant(texts))
    np.testing.assert_allclose(found, wide @ narrow.matrix, atol=1e-6)


def test_words_of_ragged_texts_are_joined():
    ragged = tf.ragged.constant([[["red", "Wine"], []], [["x y"]]])
    found = text.words(ragged, 2)
    assert found.to_list() == [
        [[b"red", b"wine", b"red wine"], []],
        [[b"x", b"y", b"x y"]],
    ]


ALL = {
    "a": [steps.signed_log1p, steps.Standardize()],
    "b": [steps.signed_log1p, steps.Standardize()],
    "c": [steps.ListStandardize(), steps.Missing()],
    "d": [steps.QuantileNormal(50), steps.Discretize(3)],
    "n": [{}, {}],
    "m": steps.Embedding(3, shared="ids"),
    "q": steps.Embedding(3, shared="ids"),
}


def test_packed_and_padded_documents_become_the_same():
    spec = {
        **{name: tf.io.FixedLenFeature((2,), tf.float32) for name in "abcd"},
        "n": tf.io.FixedLenFeature((1,), tf.int64),
        "m": tf.io.FixedLenFeature((2,), tf.int64),
        "q": tf.io.FixedLenFeature((1,), tf.int64),
    }
    rows = int(SPLITS[-1])
    data = {name: columns(rows, i)[:, :2] for i, name in enumerate("abcd")}
    data["c"][3] = np.nan
    random = np.random.default_rng(0)
    data["n"] = random.integers(0, 9, (rows, 1))
    data["m"] = random.integers(0, 9, (rows, 2))
    data["q"] = random.integers(5, 12, (len(LENGTHS), 1))
    made = {**ALL, "n": [steps.Discretize(3, encode="ordinal"), steps.OneHot(oov=1)]}
    preprocessor = learn(made, data, splits=SPLITS, context=("q",))
    assert preprocessor.learnt["shared ids"]["Embedding"]["vocabulary"][0]
    tf.keras.utils.set_random_seed(1)
    packed, _ = outputs(preprocessor, data, spec, ("q",))
    tf.keras.utils.set_random_seed(1)
    _, padded = outputs(preprocessor, data, spec, ("q",))
    widths = {"a": 2, "b": 2, "c": 4, "d": 6, "n": 4, "m": 6}
    for name, width in widths.items():
        assert packed[name].shape == (rows, width), name
        if name != "m":  # its vectors are drawn
            np.testing.assert_allclose(padded[name], packed[name], atol=1e-5)


def test_features_with_equal_steps_are_preprocessed_at_once():
    names = [f"x{i:03}" for i in range(136)]
    spec = {name: [steps.signed_log1p, steps.Standardize()] for name in names}
    values = columns(300)
    data = {name: values[:, [i % 3]] * (i + 1) for i, name in enumerate(names)}
    preprocessor = learn(spec, data)
    layout = BlockLayout.from_spec(
        {name: tf.io.FixedLenFeature((1,), tf.float32) for name in names}
    )
    matrix = np.concatenate(list(data.values()), axis=1)

    def block(matrix):
        return FeatureBlock.from_matrices(layout, {"float32": matrix}).map(
            preprocessor.functions()
        )

    found = block(tf.constant(matrix)).concat()
    expected = StandardScaler().fit_transform(np.log1p(matrix.astype(float)))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    graph = tf.function(lambda x: block(x).concat()).get_concrete_function(matrix).graph
    assert len(graph.get_operations()) < 40


def test_a_step_given_its_statistics_learns_nothing():
    given = steps.Standardize(statistics={"mean": [1.0], "deviation": [2.0]})
    preprocessor = learn({"x": given}, {"x": columns(5)[:, :1]})
    assert preprocessor.learnt == {}
    assert apply(preprocessor, "x", np.array([[5.0]], np.float32)) == [[2.0]]


def test_a_step_that_has_not_learnt_says_so():
    with pytest.raises(ConfigError, match="it has learnt nothing yet"):
        apply(PreprocessorWithSpec({"x": steps.Standardize()}), "x", columns(2))


def test_a_constant_column_becomes_0():
    values = np.full((9, 1), 3.0, np.float32)
    new = np.array([[3.0], [4.0], [-5.0]], np.float32)
    for step in (steps.Standardize(), steps.QuantileNormal()):
        preprocessor = learn({"x": step}, {"x": values})
        np.testing.assert_array_equal(apply(preprocessor, "x", new), [[0]] * 3)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("step", "values", "message"),
    [
        (steps.Standardize(), [[np.nan]] * 4, "'x'.*found none, or none that are num"),
        (steps.QuantileNormal(), [[1.0], [np.inf], [2.0]], "'x'.*infinite.*'clip'"),
        (steps.Standardize(), [[1.0], [np.nan], [2.0]], "'x' is missing.*1 places"),
        (
            steps.Embedding(2, min_count=3),
            [[b"a"], [b"b"], [b"a"]],
            "'x'.*none that occurs 3",
        ),
        (steps.OneHot(), [[b"a"], [b"\xff"], [b"b"]], "'x'.*UTF-8"),
    ],
)
def test_what_cannot_be_learnt_names_the_feature(workers, step, values, message):
    is_text = isinstance(values[0][0], bytes)
    array = np.array(values, object if is_text else np.float32)
    good = np.full_like(array, b"a" if is_text else 1.0)
    with pytest.raises(DataError, match=message):
        learn({"w": step, "x": step}, {"w": good, "x": array}, workers)


@pytest.mark.parametrize("wide", [steps.Missing(), tf.math.abs])
def test_what_cannot_be_learnt_names_the_column(wide):
    values = np.ones((4, 3), np.float32)
    values[:, 1] = np.nan
    chains = PreprocessorWithSpec({n: [wide, steps.Standardize()] for n in "wx"})
    piece = fitting.Piece(
        {}, {"w": np.ones((4, 2), np.float32), "x": values}, np.array([0, 4])
    )
    columns = {"w": ("u", "v"), "x": ("price", "rating", "age")}
    kinds = dict.fromkeys("wx", "float32")
    if wide is tf.math.abs:
        with pytest.raises(DataError, match="column 'rating' of feature 'x': Standard"):
            fitting.fit(chains.chains, kinds, lambda: [piece], columns=columns)
    values[2, 2] = np.inf
    with pytest.raises(DataError, match="column 'age' of feature 'x' of the training"):
        fitting.fit(chains.chains, kinds, lambda: [piece], columns=columns)


@pytest.mark.parametrize(
    "step", [steps.Tokens(), steps.Embedding(2, buckets=3), steps.Missing()]
)
def test_sparse_values_are_refused(step):
    values = [b"a"] if "string" in step.takes else [1.0]
    sparse = tf.SparseTensor([[0, 0, 0]], values, [1, 1, 1])
    with pytest.raises(ConfigError, match=r"'x': \w+ takes dense or ragged values"):
        PreprocessorWithSpec({"x": step})({}, {"x": sparse}, tf.ones([1, 1]))


@pytest.mark.parametrize(
    ("step", "value", "message"),
    [
        (
            steps.Clip([0, 1]),
            [[b"a"]],
            "'x': Clip takes float32 or int64, found string",
        ),
        (steps.TfIdf(), [[1.0]], "'x': TfIdf takes string, found float32"),
    ],
)
def test_a_step_of_another_dtype_is_named(step, value, message):
    given = (
        step
        if not step.learns
        else step.with_statistics(
            {"vocabulary": ["a"], "documents_with": [1], "documents": 1}
        )
    )
    with pytest.raises(ConfigError, match=message):
        apply(PreprocessorWithSpec({"x": given}), "x", value)


def test_features_that_share_vectors_share_arguments():
    spec = {
        "x": steps.Embedding(2, buckets=5, shared="s"),
        "y": steps.Embedding(3, buckets=5, shared="s"),
    }
    values = tf.constant([[["a"]]])
    with pytest.raises(ConfigError, match="share 's', but not its arguments"):
        PreprocessorWithSpec(spec)({}, {"x": values, "y": values}, tf.ones([1, 1]))


def test_steps_are_saved_with_what_they_have_learnt(tmp_path):
    values = columns(50)
    preprocessor = learn(
        {"x": [steps.QuantileNormal(9), steps.Missing()]}, {"x": values}
    )
    inputs = tf.keras.Input((None, 4), name="x")
    mask = tf.keras.Input((None,), dtype=tf.bool, name="mask")
    outputs = preprocessor({}, {"x": inputs}, mask)[1]["x"]
    model = tf.keras.Model([inputs, mask], outputs)
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    batch = [tf.constant(values)[tf.newaxis], tf.ones([1, 50], tf.bool)]
    np.testing.assert_array_equal(again(batch), model(batch))


def test_a_function_that_mixes_documents_makes_the_model_padded():
    def centered(values):
        return values - tf.reduce_mean(values, axis=1, keepdims=True)

    def layouts(*steps):
        spec = {"x": tf.io.FixedLenFeature((1,), tf.float32)}
        return tfr.keras.model.ModelBuilder(
            tfr.keras.model.FeatureSpecInputCreator({}, spec),
            {"x": list(steps)},
            tfr.keras.model.DNNScorer(hidden_layer_dims=[2]),
            "mask",
        ).layouts

    assert layouts(tf.math.square, centered, steps.Clip([0, 1])) == ("padded",)
    assert layouts(tf.math.square, steps.ListStandardize()) == ("packed", "padded")
