"""Cora: test accuracy of papers' subjects with 140 labels, over seeds.

    python tests/bench/citations.py --data=../shared/data/cora/cora.npz
    python tests/bench/citations.py --data=... --system=mlp --seeds=3 \
        --config.pipeline.learning_rate=0.02

The split is that of Planetoid (Yang, Cohen and Salakhutdinov, ICML 2016): 20 labelled
papers of each of seven classes, 500 to validate, 1,000 to test. The training data of
every system holds all 2,708 papers; the classes of all but the 140 are left out.

Systems:

- `propagation`: label propagation over the citations alone, no words (Zhou et al.,
  "Learning with Local and Global Consistency", NIPS 2003); knows no seeds.
- `logistic`: scikit-learn's logistic regression of the words; knows no seeds.
- `mlp`, `graph`, `adversarial`: configs/graph_citations.py through `convert` and the
  pipeline; the epoch that is best on the validation papers is tested.
- `nsl`: `nsl.keras.GraphRegularization` around a Keras model of the same layers, as
  NSL's tutorial has it: the 140 papers with up to `--neighbours` neighbours each, whose
  words it reads whether they have a class or not. `nsl_mlp`: the same without a graph.

`--graph=words` builds the graph of the words instead of the citations: the cosine of
two papers' words, the `--neighbours` nearest of each.

`--attacks=0.01,0.05`: also the accuracy of ours on test papers whose words are moved by
so much against the model, by FGSM and by PGD of ten steps.

Prints for each system the mean accuracy over seeds on the test papers with a 95%
interval (Student's t over seeds), that on the validation papers, by which settings are
to be chosen, and the seconds of a run.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `configs`, and this copy of the package
CONFIG = ROOT / "configs" / "graph_citations.py"
SPLITS = ("train", "valid", "test")
OURS = ("mlp", "graph", "adversarial")
NSL = ("nsl", "nsl_mlp")
SYSTEMS = ("propagation", "logistic", *OURS, *NSL)
GRAPHS = ("citations", "words")


class Cora:
    """The data set.

    Args:
      path: `cora.npz`: a sparse matrix of words, labels, splits and edges.

    Attributes:
      words: float32 `[papers, words]`, 1 for those that a paper has.
      labels: int64 `[papers]`.
      splits: int64 numbers of papers by split.
      edges: int64 `[edges, 2]`, each citation once.
    """

    def __init__(self, path: str):
        with np.load(path) as found:
            parts = (found["values"], found["indices"], found["indptr"])
            matrix = sparse.csr_matrix(parts, found["shape"])
            self.words = matrix.toarray().astype(np.float32)
            self.labels = found["labels"].astype(np.int64)
            self.splits = {split: found[split] for split in SPLITS}
            self.edges = found["edges"].astype(np.int64)

    @property
    def known(self) -> np.ndarray:
        """int64 `[papers]`, the classes that may be trained on, -1 for the others."""
        labels = np.full(len(self.labels), -1)
        rows = self.splits["train"]
        labels[rows] = self.labels[rows]
        return labels

    def write(self, folder: pathlib.Path) -> None:
        """Writes LibSVM text of each split: a class or nothing, words, an id."""
        everything = np.arange(len(self.labels))
        for split, rows, labels in (
            ("train", everything, self.known),
            ("valid", self.splits["valid"], self.labels),
            ("test", self.splits["test"], self.labels),
        ):
            with open(folder / f"{split}.txt", "w") as file:
                for row in rows:
                    label = f"{labels[row]} " if labels[row] >= 0 else ""
                    words = " ".join(
                        f"{i + 1}:1" for i in np.flatnonzero(self.words[row])
                    )
                    file.write(f"{label}{words} # docid = {row}\n")

    def graph(self, kind: str, neighbours: int) -> np.ndarray:
        """Returns float64 `[edges, 3]`: two papers, each pair once, and a weight."""
        if kind == "citations":
            return np.column_stack([self.edges, np.ones(len(self.edges))])
        lengths = np.linalg.norm(self.words, axis=1, keepdims=True)
        vectors = self.words / np.maximum(lengths, 1e-9)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1.0)
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
        pairs = {
            (min(row, other), max(row, other))
            for row, others in enumerate(nearest.tolist())
            for other in others
        }
        return np.array([(a, b, cosines[a, b]) for a, b in sorted(pairs)])


def write_graph(edges: np.ndarray, path: pathlib.Path) -> None:
    """Writes edges in both directions as NSL does: source, target, weight."""
    with open(path, "w") as file:
        for a, b, weight in edges.tolist():
            for pair in ((a, b), (b, a)):
                file.write(f"{int(pair[0])}\t{int(pair[1])}\t{weight:.6g}\n")


def accuracies(cora: Cora, predicted: np.ndarray) -> tuple[float, float]:
    """Returns the shares of validation and test papers that are right."""
    right = predicted == cora.labels
    valid, test = (right[cora.splits[split]].mean() for split in ("valid", "test"))
    return float(valid), float(test)


def propagation(cora: Cora, edges: np.ndarray) -> tuple[float, float]:
    """Spreads the known classes over the graph; keeps 0.9 of what neighbours say."""
    count = len(cora.labels)
    rows, columns = edges[:, :2].astype(int).T
    matrix = sparse.coo_matrix((edges[:, 2], (rows, columns)), (count, count))
    matrix = (matrix + matrix.T).tocsr()
    root = 1.0 / np.sqrt(np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-9))
    matrix = sparse.diags(root) @ matrix @ sparse.diags(root)
    start = np.zeros((count, cora.labels.max() + 1))
    known = cora.splits["train"]
    start[known, cora.labels[known]] = 1.0
    found = start
    for _ in range(100):
        found = 0.9 * (matrix @ found) + 0.1 * start
    return accuracies(cora, found.argmax(axis=1))


def logistic(cora: Cora) -> tuple[float, float]:
    """Fits scikit-learn's classifier, its penalty chosen on the validation papers."""
    rows = cora.splits["train"]
    results = []
    for penalty in (0.1, 1.0, 10.0, 100.0):
        model = LogisticRegression(C=penalty, max_iter=1000)
        model.fit(cora.words[rows], cora.labels[rows])
        results.append(accuracies(cora, model.predict(cora.words)))
    return max(results)


class Ours:
    """Runs of configs/graph_citations.py.

    Args:
      folder: Where everything is written.
      cora: The data.
      edges: The graph.
      overrides: Words such as `--config.pipeline.num_epochs=50`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        cora: Cora,
        edges: np.ndarray,
        overrides: list[str],
    ):
        from tfr_pipeline.data.convert.conversion import convert
        from tfr_pipeline.data.sources.options import Options

        self._folder, self._overrides, self._cora = folder, overrides, cora
        classes = tuple(str(number) for number in range(cora.labels.max() + 1))
        cora.write(folder)
        for split in SPLITS:
            convert(
                str(folder / f"{split}.txt"),
                str(folder / "data"),
                split=split,
                output_format="packed",
                options=Options(classes=classes, num_features=cora.words.shape[1]),
                report=lambda line: None,
            )
        write_graph(edges, folder / "graph.tsv")

    def run(self, system: str, seed: int) -> tuple[float, float]:
        """Trains with a seed; returns accuracies as `accuracies` does."""
        from tfr_pipeline.experiment.build import build_pipeline
        from tfr_pipeline.experiment.config_files import ConfigFile

        words = [
            f"--config.data.dir={self._folder / 'data'}",
            f"--config.model_dir={self._folder / system / str(seed)}",
            f"--config.seed={seed}",
        ]
        if system == "graph":
            words.append(f"--config.pipeline.graph.edges={self._folder / 'graph.tsv'}")
        config = ConfigFile(f"{CONFIG}:{system}", [*words, *self._overrides]).config()
        pipeline = build_pipeline(config)
        pipeline.train()
        metrics = pipeline.finish()
        self.pipeline = pipeline
        return tuple(metrics[s]["accuracy"]["skip"] for s in ("valid", "test"))

    def under_attack(self, sizes: list[float]) -> list[float]:
        """Returns test accuracies of the last run under FGSM and PGD of each size."""
        from tfr_pipeline import losses
        from tfr_pipeline.compat import tf
        from tfr_pipeline.layout import PACKED_INPUT, BlockLayout
        from tfr_pipeline.pipeline.run import at_checkpoint
        from tfr_pipeline.pipeline.run.attack import attack_of
        from tfr_pipeline.regularization.adversary import perturb

        model = at_checkpoint.model(self.pipeline, best=True)[0]
        specs = self.pipeline._dataset_builder.features.example_spec
        rows = self._cora.splits["test"]
        ones = tf.ones([len(rows)], tf.int64)

        def lists(values):
            return tf.RaggedTensor.from_row_lengths(values, ones)

        batch = {PACKED_INPUT + "float32": lists(tf.constant(self._cora.words[rows]))}
        labels = lists(tf.constant(self._cora.labels[rows], tf.float32))
        loss = losses.get("categorical_cross_entropy_loss")
        found = []
        for size in sizes:
            for steps in (1, 10):
                moved = perturb(
                    model,
                    batch,
                    labels,
                    loss,
                    attack_of(size, steps),
                    BlockLayout.from_spec(specs),
                )
                scores = model(moved, training=False).values.numpy()
                right = scores.argmax(axis=1) == self._cora.labels[rows]
                found.append(float(right.mean()))
        return found


def nsl_run(
    cora: Cora, edges: np.ndarray, neighbours: int, multiplier: float, seed: int
) -> tuple[float, float]:
    """Trains NSL's wrapper with a seed; settings of the network are the config's."""
    from configs import graph_citations
    from tfr_pipeline.compat import nsl, tf

    config = graph_citations.get_config("mlp")
    network, training = config.model.scorer_args, config.pipeline
    tf.keras.utils.set_random_seed(seed)
    rows, width = cora.splits["train"], cora.words.shape[1]
    inputs = {"words": cora.words[rows]}
    for i, (others, weights) in enumerate(_neighbours(cora, edges, neighbours)):
        inputs[f"NL_nbr_{i}_words"] = cora.words[others] * (weights[:, None] > 0)
        inputs[f"NL_nbr_{i}_weight"] = weights[:, None]
    words = tf.keras.Input((width,), name="words")
    hidden = words
    for units in network.hidden_layer_dims:
        hidden = tf.keras.layers.Dense(units, network.activation)(hidden)
        hidden = tf.keras.layers.Dropout(network.dropout)(hidden)
    base = tf.keras.Model({"words": words}, tf.keras.layers.Dense(7)(hidden))
    model = base
    if multiplier:
        settings = nsl.configs.make_graph_reg_config(
            max_neighbors=neighbours,
            multiplier=multiplier,
            distance_type="l2",
            sum_over_axis=-1,
        )
        model = nsl.keras.GraphRegularization(base, settings)
    model.compile(
        tf.keras.optimizers.AdamW(
            training.learning_rate, weight_decay=training.optimizer_args.weight_decay
        ),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    data = tf.data.Dataset.from_tensors((inputs, cora.labels[rows])).cache()
    best = (0.0, 0.0)
    for _ in range(training.num_epochs):
        model.fit(data, verbose=0)
        found = accuracies(cora, base(cora.words).numpy().argmax(axis=1))
        best = found if found[0] > best[0] else best
    return best


def _neighbours(
    cora: Cora, edges: np.ndarray, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the first, second, ... neighbours of the training papers, and weights."""
    heaviest: dict[int, list[tuple[float, int]]] = {}
    for a, b, weight in edges.tolist():
        for one, other in ((a, b), (b, a)):
            heaviest.setdefault(int(one), []).append((weight, int(other)))
    rows = [
        sorted(heaviest.get(row, []))[::-1] for row in cora.splits["train"].tolist()
    ]
    for i in range(count):
        pairs = [row[i] if len(row) > i else (0.0, 0) for row in rows]
        weights, others = zip(*pairs, strict=True)
        yield np.array(others), np.float32(weights)


def report(system: str, results: list[tuple[float, float]], seconds: float) -> None:
    """Prints a line of a table."""
    valid, test = 100 * np.array(results).T
    interval = ""
    if len(test) > 1:
        spread = stats.t.ppf(0.975, len(test) - 1) * stats.sem(test)
        interval = f" +- {spread:.1f}"
    print(
        f"{system:<12} test {test.mean():5.1f}{interval}  "
        f"[{test.min():.1f} to {test.max():.1f}]  valid {valid.mean():5.1f}  "
        f"seeds {len(test)}  {seconds / len(test):.1f} s each",
        flush=True,
    )


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="path of cora.npz")
    parser.add_argument("--system", default="propagation,logistic,mlp")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--graph", choices=GRAPHS, default="citations")
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--multiplier", type=float, default=0.1, help="that of `nsl`")
    parser.add_argument("--attacks", default="", help="sizes, such as 0.01,0.05")
    args, overrides = parser.parse_known_args()
    sizes = [float(size) for size in args.attacks.split(",") if size]
    if unknown := [word for word in overrides if not word.startswith("--config.")]:
        parser.error(f"unknown words: {' '.join(unknown)}")
    cora = Cora(args.data)
    edges = cora.graph(args.graph, args.neighbours)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    ours = None
    with tempfile.TemporaryDirectory() as folder:
        for system in args.system.split(","):
            if system not in SYSTEMS:
                parser.error(f"expected systems of {SYSTEMS}, found {system!r}")
            start = time.perf_counter()
            if system == "propagation":
                results = [propagation(cora, edges)]
            elif system == "logistic":
                results = [logistic(cora)]
            elif system in NSL:
                factor = args.multiplier if system == "nsl" else 0.0
                results = [
                    nsl_run(cora, edges, args.neighbours, factor, seed)
                    for seed in seeds
                ]
            else:
                if ours is None:
                    ours = Ours(pathlib.Path(folder), cora, edges, overrides)
                results, attacked = [], []
                for seed in seeds:
                    results.append(ours.run(system, seed))
                    attacked.append(ours.under_attack(sizes))
            report(system, results, time.perf_counter() - start)
            if sizes and system in OURS:
                means = iter(100 * np.mean(attacked, axis=0))
                for size in sizes:
                    print(f"  {size}: FGSM {next(means):.1f} PGD {next(means):.1f}")


if __name__ == "__main__":
    main()
