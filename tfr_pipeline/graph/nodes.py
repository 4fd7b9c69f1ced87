"""Nodes of a graph: how they are called, and which data set they are of.

A document is a node by its query and its own id in one text, `query/document`; a query
by its id; a `tf.train.Example` by its id feature. In the two parts of the first `/`,
and what would break a line of TSV, is percent-encoded, as in URLs, so that no two
documents share a name and `urllib.parse.unquote` gives the parts back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import numpy as np

from tfr_pipeline.data.lists import Lists
from tfr_pipeline.errors import ConfigError, DataError, unknown_name

DOCUMENTS, QUERIES, EXAMPLES = "documents", "queries", "examples"
KINDS = (DOCUMENTS, QUERIES, EXAMPLES)
_SPECIAL = re.compile("[%/\t\n\r]")
_BITS = 128


def escape(part: str) -> str:
    """Returns an id as it stands in the name of a node.

    Example:
      >>> escape("a/b 100%")
      'a%2Fb 100%25'
    """
    if _SPECIAL.search(part) is None:
        return part
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", part)


def document_node(query: str, document: str) -> str:
    """Returns the name of the node of a document.

    Example:
      >>> document_node("wiki/cats", "7")
      'wiki%2Fcats/7'
    """
    return f"{escape(query)}/{escape(document)}"


def of_lists(lists: Lists, kind: str = DOCUMENTS) -> np.ndarray:
    """Returns the names of the nodes of lists.

    Args:
      lists: Lists with ids.
      kind: `documents`, or `queries`.

    Returns:
      Object array of `str`, `[documents]` or `[lists]`, in their order.

    Raises:
      DataError: A document has no id.
      ConfigError: There is no such kind of nodes.
    """
    queries = [escape(str(query)) for query in lists.query_ids]
    if kind == QUERIES:
        return _texts(queries)
    if kind != DOCUMENTS:
        raise ConfigError(unknown_name("nodes", kind, (DOCUMENTS, QUERIES)))
    empty = np.flatnonzero(lists.document_ids == "")
    if len(empty):
        place = lists.place(int(empty[0]))
        raise DataError(
            f"{place}: expected documents with ids, for they are the nodes of a graph; "
            f"found {len(empty)} without. `tfr-pipeline graph identify` makes them."
        )
    names = lists.document_ids.tolist()
    pairs = zip(lists.row_ids.tolist(), names, strict=True)
    return _texts([f"{queries[row]}/{escape(str(name))}" for row, name in pairs])


def _texts(values: list[str]) -> np.ndarray:
    result = np.empty(len(values), object)
    result[:] = values
    return result


class Fingerprint:
    """Tells data sets apart by the names of their nodes.

    It depends neither on the order of the nodes nor on the files that they are in, and
    can be made of parts that are added up. What documents contain is in it where
    `graph identify` made their ids of that.

    Example:
      >>> one, other = Fingerprint(["a", "b"]), Fingerprint(["b"])
      >>> other.add(["a"])
      >>> str(one) == str(other)
      True
    """

    def __init__(self, nodes: Iterable[str] = ()) -> None:
        self._sum, self.count = 0, 0
        self.add(nodes)

    def add(self, nodes: Iterable[str]) -> None:
        """Adds nodes, each of them once."""
        for node in nodes:
            digest = hashlib.blake2b(node.encode(), digest_size=_BITS // 8).digest()
            self._sum += int.from_bytes(digest, "little")
            self.count += 1
        self._sum %= 1 << _BITS

    def merge(self, other: Fingerprint) -> None:
        """Adds the nodes of another part."""
        self._sum = (self._sum + other._sum) % (1 << _BITS)
        self.count += other.count

    def __str__(self) -> str:
        """Returns it in hexadecimal digits."""
        return f"{self._sum:0{_BITS // 4}x}"
