"""Makes lists to rank of queries, documents and judgements: what BM25 finds.

    pip install bm25s
    python docs/text_lists.py --documents=documents.tsv --judgements=qrels.txt \
        --train=train.tsv --valid=valid.tsv --test=test.tsv --output=lists

Writes `lists/train.parquet` and so on for `tfr-pipeline convert`: a row for each of the
documents that BM25 finds for a query, with its label, the texts, and numbers that say
how they fit. Training queries get the judged documents that were not found as well;
other lists are those that a search would come to rank.

- Documents are TSV without a header, `id title text`, or TREC's `<DOC>`s.
- Queries are TSV, `id text`, or TREC's `<top>`s, of which titles are taken.
- Judgements are TREC's, `query 0 document grade`, or TSV, `query document grade`. What
  is not judged, or below 0, gets 0.

The index is made once, in memory. Text is UTF-8; words are lower-case, not stemmed.
"""

from __future__ import annotations

import argparse
import html
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "valid", "test")
# `bm25`, of title and text together, is what documents are found by.
NUMBERS = (
    "bm25",
    "bm25_title",
    "bm25_text",
    "overlap_title",
    "overlap_text",
    "length_title",
    "length_text",
    "length_query",
)
SCHEMA = pa.schema(
    [("qid", pa.string()), ("docid", pa.string()), ("label", pa.float32())]
    + [(name, pa.string()) for name in ("query", "title", "text")]
    + [(name, pa.float32()) for name in NUMBERS]
)
# TREC closes few of its tags.
_ELEMENT = r"(?is)<{0}>(.*?)(?=</?(?:{0}|desc|narr|text|title)>|$)"


def read(path: str) -> str:
    """Returns what is in a file."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{path}: expected a file of UTF-8: {error}.")


def rows(
    path: str, columns: tuple[int, ...], separator: str | None = "\t"
) -> Iterator[list[str]]:
    """Yields the cells of each line that is not empty; blanks separate without one."""
    for number, line in enumerate(read(path).split("\n"), 1):
        cells = line.split(separator)
        if line.strip():
            if len(cells) not in columns:
                sys.exit(
                    f"{path}:{number}: expected {' or '.join(map(str, columns))} "
                    f"columns, found {len(cells)}."
                )
            yield cells


def elements(path: str, outer: str, inner: tuple[str, ...]) -> Iterator[list[str]]:
    """Yields the texts within TREC's elements, of those that are there twice both."""
    for found in re.findall(rf"(?is)<{outer}>(.*?)</{outer}>", read(path)):
        cells = []
        for tag in inner:
            parts = " ".join(re.findall(_ELEMENT.format(tag), found))
            cells.append(" ".join(html.unescape(re.sub("<.*?>", " ", parts)).split()))
        yield cells


def records(path: str, outer: str, inner: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns texts by id, of a file of either kind."""
    found: dict[str, list[str]] = {}
    is_trec = read(path).lstrip().startswith("<")
    cells = elements(path, outer, inner) if is_trec else rows(path, (len(inner),))
    for name, *texts in cells:
        name = re.sub(r"^Number:\s*", "", name)
        if not name or name in found:
            sys.exit(f"{path}: expected ids, each of one record, found {name!r}.")
        found[name] = texts
    if not found:
        sys.exit(f"{path}: expected records, found none.")
    return found


def read_judgements(path: str) -> dict[str, dict[str, float]]:
    """Returns grades by query and document."""
    grades: dict[str, dict[str, float]] = {}
    for query, *_, document, grade in rows(path, (3, 4), separator=None):
        try:
            grades.setdefault(query, {})[document] = max(0.0, float(grade))
        except ValueError:
            sys.exit(f"{path}: expected a number as a grade, found {grade!r}.")
    return grades


def words(texts: Iterable[str]) -> list[list[str]]:
    """Returns the words of each text that are no stop words."""
    return bm25s.tokenize(
        list(texts), stopwords="en", return_ids=False, show_progress=False
    )


class Field:
    """A field of all documents: its words, and BM25 over them."""

    def __init__(self, texts: list[list[str]]):
        self.sets = [frozenset(text) for text in texts]
        self.lengths = np.array([len(text) for text in texts])
        self.bm25 = None
        if self.lengths.any():
            self.bm25 = bm25s.BM25()
            self.bm25.index(texts, show_progress=False)

    def scores(self, query: list[str]) -> np.ndarray:
        """Returns BM25 of every document."""
        if self.bm25 is None or not query:
            return np.zeros(len(self.sets), np.float32)
        return self.bm25.get_scores(query)

    def overlap(self, query: list[str], documents: np.ndarray) -> list[float]:
        """Returns which share of the words of a query these documents have."""
        asked = set(query)
        return [len(asked & self.sets[i]) / max(len(asked), 1) for i in documents]


class Lists:
    """Lists of documents for queries.

    Args:
      documents: Maps ids to title and text.
      depth: How many documents BM25 finds for a query, at most.
    """

    def __init__(self, documents: dict[str, list[str]], depth: int):
        self.depth = depth
        self.ids = list(documents)
        self.places = {name: place for place, name in enumerate(self.ids)}
        self.texts = list(documents.values())
        titles = words(title for title, _ in self.texts)
        texts = words(text for _, text in self.texts)
        self.title, self.text = Field(titles), Field(texts)
        self.whole = Field([a + b for a, b in zip(titles, texts, strict=True)])

    def of(
        self, query: str, grades: dict[str, float], with_judged: bool
    ) -> dict[str, Any]:
        """Returns the list of a query, columns by name; the best of BM25 first.

        Args:
          query: Its text.
          grades: Those of documents that are judged.
          with_judged: Whether these are in the list even if they are not found.
        """
        asked = words([query])[0]
        bm25 = self.whole.scores(asked)
        found = np.argsort(-bm25, kind="stable")[: self.depth]
        found = found[bm25[found] > 0]
        if with_judged:
            judged = [self.places[name] for name in grades if name in self.places]
            more = np.setdiff1d(np.array(judged, np.int64), found)
            found = np.concatenate([found, more])
        names = [self.ids[place] for place in found]
        count = len(found)
        return {
            "docid": names,
            "label": [grades.get(name, 0.0) for name in names],
            "query": [query] * count,
            "title": [self.texts[place][0] for place in found],
            "text": [self.texts[place][1] for place in found],
            "bm25": bm25[found],
            "bm25_title": self.title.scores(asked)[found],
            "bm25_text": self.text.scores(asked)[found],
            "overlap_title": self.title.overlap(asked, found),
            "overlap_text": self.text.overlap(asked, found),
            "length_title": self.title.lengths[found],
            "length_text": self.text.lengths[found],
            "length_query": [len(asked)] * count,
        }


def write(
    path: pathlib.Path,
    lists: Lists,
    queries: dict[str, list[str]],
    grades: dict[str, dict[str, float]],
    with_judged: bool,
) -> None:
    """Writes the lists of queries, and says how many there are."""
    if not grades.keys() & queries.keys():
        sys.exit(f"{path}: expected judgements of its queries, found none: other ids?")
    documents = relevant = empty = 0
    with pq.ParquetWriter(path, SCHEMA) as file:
        for name, (query,) in queries.items():
            found = lists.of(query, grades.get(name, {}), with_judged)
            count = len(found["docid"])
            table = pa.table({"qid": [name] * count, **found}, schema=SCHEMA)
            file.write_table(table)
            documents += count
            empty += not count
            relevant += sum(label > 0 for label in found["label"])
    print(
        f"{path}: {len(queries) - empty} queries, {documents} documents, {relevant} of "
        f"them relevant; {empty} queries found nothing"
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", required=True)
    parser.add_argument("--judgements", required=True)
    for split in SPLITS:
        parser.add_argument(f"--{split}", help=f"queries of {split}.parquet")
    parser.add_argument("--depth", type=int, default=100, help="documents a query")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder")
    args = parser.parse_args()
    grades = read_judgements(args.judgements)
    queries = {
        split: records(vars(args)[split], "top", ("num", "title"))
        for split in SPLITS
        if vars(args)[split]
    }
    lists = Lists(
        records(args.documents, "DOC", ("DOCNO", "TITLE", "TEXT")), args.depth
    )
    unknown = {name for found in grades.values() for name in found} - {*lists.places}
    if unknown:
        print(f"{len(unknown)} judged documents are not there", file=sys.stderr)
    args.output.mkdir(parents=True, exist_ok=True)
    for split, found in queries.items():
        path = args.output / f"{split}.parquet"
        write(path, lists, found, grades, with_judged=split == "train")


if __name__ == "__main__":
    main()
