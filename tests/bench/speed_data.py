"""The files of the speed benchmark: one data set in the formats of all systems.

Lists as long as those of MSLR-WEB30K (118 documents on average, a long tail), 136
scalar float features, grades that a network can learn and a line cannot; see
`tfr_pipeline.data.synthesize`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np

from tfr_pipeline import files
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.records import encode, tfrecord
from tfr_pipeline.data.synthesize import documents_of_query
from tfr_pipeline.features import Feature, Features

FEATURES = 136
LONGEST = 1000
SHARDS = 4


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the files of one size are.

    Attributes:
      folder: Holds all of them.
      train_lists: Training lists.
      valid_lists: Validation lists.
    """

    folder: pathlib.Path
    train_lists: int = 2000
    valid_lists: int = 300

    def pattern(self, split: str, data_format: str) -> str:
        """Returns the glob of the TFRecord files of a split."""
        return str(self.folder / data_format / f"{split}-*")

    def arrays(self, split: str) -> Lists:
        """Returns a split as arrays, memory-mapped."""
        folder = self.folder / "arrays" / split
        parts = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("values", "labels", "row_splits")
        }
        splits = parts["row_splits"]
        return Lists(
            values={"float32": parts["values"]},
            row_splits=splits,
            labels=parts["labels"],
            query_ids=np.array([str(i) for i in range(len(splits) - 1)], object),
            document_ids=np.full(int(splits[-1]), "", object),
        )

    @property
    def features(self) -> Features:
        """Description of the data."""
        return Features.load(str(self.folder / "elwc"))

    def make(self) -> Data:
        """Writes the files, unless they are there; returns itself."""
        done = self.folder / "done.json"
        if done.exists():
            return self
        counts = {}
        for split, count, seed in (
            ("train", self.train_lists, 1),
            ("valid", self.valid_lists, 2),
        ):
            lists, _ = make_lists(count, seed)
            counts[split] = lists.num_documents
            folder = self.folder / "arrays" / split
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / "values.npy", lists.values["float32"])
            np.save(folder / "labels.npy", lists.labels)
            np.save(folder / "row_splits.npy", lists.row_splits)
            for data_format in ("elwc", "packed"):
                self.write(lists, split, data_format, self.folder / data_format)
        files.write_text(str(done), json.dumps(counts))
        return self

    @staticmethod
    def write(lists: Lists, split: str, data_format: str, folder: pathlib.Path) -> None:
        """Writes the files of a split, and features.json."""
        names = [f"custom_features_{column}" for column in range(FEATURES)]
        features = Features(
            context={},
            example={name: Feature(default=0.0) for name in names},
            label=("label", Feature(default=-1.0)),
            query_id="query_id",
            document_id="document_id",
            data_format=data_format,
        )
        folder.mkdir(parents=True, exist_ok=True)
        features.save(str(folder))
        records = encode.elwc if data_format == "elwc" else encode.packed
        for shard in range(SHARDS):
            first, last = (lists.num_lists * (shard + i) // SHARDS for i in (0, 1))
            path = folder / f"{split}-{shard:05d}-of-{SHARDS:05d}.tfrecord"
            with path.open("wb") as file:
                for start in range(first, last, 50):
                    part = lists.slice(start, min(start + 50, last))
                    file.writelines(tfrecord.frame(records(part, features)))


def make_lists(count: int, seed: int) -> tuple[Lists, np.ndarray]:
    """Returns lists and the true utility of their documents, float64."""
    random = np.random.default_rng(seed)
    lengths = random.lognormal(np.log(118) - 0.18, 0.6, count).astype(np.int64)
    lengths = lengths.clip(1, LONGEST)
    parts = [documents_of_query(random, int(n), FEATURES) for n in lengths]
    grades, matrices, utilities = zip(*parts, strict=True)
    lists = Lists(
        values={"float32": np.concatenate(matrices).astype(np.float32)},
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.concatenate(grades).astype(np.float32),
        query_ids=np.array([str(i) for i in range(count)], object),
        document_ids=np.array(
            [f"{q}-{d}" for q in range(count) for d in range(lengths[q])], object
        ),
    )
    return lists, np.concatenate(utilities)
