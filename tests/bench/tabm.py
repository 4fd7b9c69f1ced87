"""What members cost: a training step of `tabm` against one of a `dnn` of its width.

    python -m tests.bench.tabm
    python -m tests.bench.tabm --members=8,16,32 --lists=16 --list_size=120

Networks of three layers of 128 with dropout 0.2, softmax loss and AdamW, on packed
batches of random lists; `dnn` has batch normalisation, as in `configs/letor.py`,
`plain` has none. All take turns, ten steps at a time, in one process. Prints
milliseconds a step and the ratio to `dnn`, medians over the turns; and milliseconds to
score one list of 200 documents.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

WIDTH, LAYERS, STEPS = 128, 3, 10
SCORED = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", default="8,16")
    parser.add_argument("--lists", type=int, default=32)
    parser.add_argument("--list_size", type=int, default=24, help="mean length")
    parser.add_argument("--features", type=int, default=136)
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    from tfr_pipeline.compat import tf
    from tfr_pipeline.layout import PACKED_INPUT
    from tfr_pipeline.model.scorers import DNNScorer
    from tfr_pipeline.model.tabular_scorers import TabMScorer

    random = np.random.default_rng(0)

    def batch(lengths: np.ndarray) -> tuple[dict, tf.RaggedTensor]:
        values = random.normal(size=(lengths.sum(), args.features)).astype("f4")
        labels = random.integers(0, 5, lengths.sum()).astype("f4")
        ragged = tf.RaggedTensor.from_row_lengths
        return {PACKED_INPUT + "float32": ragged(values, lengths)}, ragged(
            labels, lengths
        )

    batches = [
        batch(random.integers(1, 2 * args.list_size, args.lists)) for _ in range(STEPS)
    ]
    dims = (WIDTH,) * LAYERS
    network = {"hidden_layer_dims": dims, "activation": "relu", "dropout": 0.2}
    norm = {"use_batch_norm": True, "input_batch_norm": True, "batch_norm_moment": 0.9}
    scorers = {
        "dnn": DNNScorer(**network, **norm),
        "plain": DNNScorer(**network, use_batch_norm=False),
    }
    for k in map(int, args.members.split(",")):
        scorers[f"tabm k={k}"] = TabMScorer(k=k, hidden_layer_dims=dims, dropout=0.2)
    steps, models = {}, {}
    for name, scorer in scorers.items():
        models[name], steps[name] = _trainer(tf, scorer, batches, args.features)
        steps[name]()
    one = batch(np.array([SCORED]))[0]
    calls = {
        name: tf.function(lambda x, model=model: model(x, training=False))
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in scorers}
    scored: dict[str, list[float]] = {name: [] for name in scorers}
    for turn in range(args.turns):
        for name in scorers:
            start = time.perf_counter()
            steps[name]()
            seconds = (time.perf_counter() - start) / STEPS
            calls[name](one)
            start = time.perf_counter()
            for _ in range(STEPS):
                calls[name](one).values.numpy()
            if turn:
                times[name].append(seconds)
                scored[name].append((time.perf_counter() - start) / STEPS)
    print(f"{args.lists} lists of {args.list_size} documents, {args.features} features")
    for name, seconds in times.items():
        ratios = np.array(seconds) / np.array(times["dnn"])
        print(
            f"{name:10} {1e3 * np.median(seconds):7.2f} ms a step, "
            f"{np.median(ratios):5.2f} times dnn; "
            f"{1e3 * np.median(scored[name]):6.2f} ms to score {SCORED} documents"
        )


def _trainer(tf, scorer, batches, features):
    """Returns a model, and a function that takes a step on each batch."""
    from tfr_pipeline import losses
    from tfr_pipeline.model.builders import ModelBuilder
    from tfr_pipeline.model.inputs import FeatureSpecInputCreator
    from tfr_pipeline.optimizers.factory import build_optimizer

    spec = {"x": tf.io.FixedLenFeature((features,), tf.float32, [0.0] * features)}
    creator = FeatureSpecInputCreator({}, spec)
    model = ModelBuilder(creator, {}, scorer, "mask").build_packed()
    model.compile(
        build_optimizer("adamw", 2e-3, 1000, "constant"),
        losses.get("softmax_loss"),
        steps_per_execution=STEPS,
    )
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches * 10000),
        output_signature=tf.nest.map_structure(_spec_of, batches[0]),
    ).prefetch(2)
    iterator = iter(data)
    function = model.make_train_function()
    return model, lambda: float(function(iterator)["loss"])


def _spec_of(value):
    from tfr_pipeline.compat import tf

    shape = [None, None, *value.shape[2:]]
    return tf.RaggedTensorSpec(shape, value.dtype, 1, tf.int64)


if __name__ == "__main__":
    main()
