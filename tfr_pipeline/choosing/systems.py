"""What `compare` is given: runs, cross-validations, or tables of queries."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfr_pipeline import files, urls
from tfr_pipeline.choosing.folder import PLAN
from tfr_pipeline.data.sources.table_files import arrow
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.metrics import query_table
from tfr_pipeline.metrics.query_values import QueryValues, by_seed, by_task, read

if TYPE_CHECKING:
    import pyarrow as pa

# What `sweep best --train --seeds=K` writes beside its runs.
_SEEDS = "seeds.json"


@dataclasses.dataclass(frozen=True)
class System:
    """Something whose queries were measured.

    Attributes:
      name: How it is called.
      path: Where it was found.
      table: A row a query, and seed.
      seeds: How many seeds there are of each query.
    """

    name: str
    path: str
    table: pa.Table
    seeds: int

    @property
    def splits(self) -> list[str]:
        """Names of the splits it was measured on."""
        return [text or "" for text in self.table["split"].unique().to_pylist()]

    def values(self, split: str) -> dict[str, QueryValues]:
        """Returns what was measured of a split by task: of each query, over seeds."""
        return {
            task: QueryValues.mean_of(by_seed(rows))
            for task, rows in by_task(self.table, split)
        }


def find(paths: Sequence[str]) -> list[System]:
    """Reads systems.

    Args:
      paths: Run directories; folders of `cv`, or of the seeds of `sweep best --train`;
        files that `evaluate --per_query` wrote.

    Raises:
      ConfigError: One is named twice.
      DataError: There is nothing of this kind.
    """
    real = [os.path.realpath(path) for path in paths]
    for place, path in enumerate(paths):
        if real.index(real[place]) < place:
            raise ConfigError(f"{path}: named more than once.")
    return [
        System(name, path, *_read(path))
        for name, path in zip(_names(paths), paths, strict=True)
    ]


def _read(path: str) -> tuple[pa.Table, int]:
    if os.path.isfile(path) or path.endswith(".parquet"):
        table = _table(path)
    elif _is_there(path, query_table.FILE_NAME):
        table = _table(os.path.join(path, query_table.FILE_NAME))
    elif _is_there(path, _SEEDS):
        seeds = files.read_json(os.path.join(path, _SEEDS))["seeds"]
        table = _of_seeds(path, seeds)
    else:
        raise DataError(f"{path}: {_problem(path)}")
    if not table.num_rows:
        raise DataError(f"{path}: it has no queries.")
    seeds = 1
    if "seed" in table.column_names:
        seeds = len(table["seed"].unique())
    return table, seeds


def _of_seeds(folder: str, seeds: Sequence[int]) -> pa.Table:
    pa = arrow()
    tables = []
    for seed in seeds:
        run = os.path.join(folder, f"seed-{seed}")
        if not _is_there(run, query_table.FILE_NAME):
            raise DataError(
                f"{run}: expected {query_table.FILE_NAME} in it, which a run has at "
                "its end; the same command of sweep best goes on."
            )
        table = _table(os.path.join(run, query_table.FILE_NAME))
        column = pa.array([seed] * table.num_rows, pa.int64())
        tables.append(table.append_column("seed", column))
    return pa.concat_tables(tables, promote_options="default")


def _is_there(folder: str, name: str) -> bool:
    return files.exists(os.path.join(folder, name))


def _table(path: str) -> pa.Table:
    """Reads a file of this machine, or a copy of a remote one."""
    return read(files.expand(glob.escape(path), "compare")[0])


def _problem(path: str) -> str:
    wanted = (
        f"expected a run directory, a folder of tfr-pipeline cv, or a "
        f"{query_table.FILE_NAME}, found "
    )
    if not urls.is_remote(path) and not os.path.exists(path):
        return wanted + "nothing of that name."
    if _is_there(path, PLAN):
        return (
            f"{wanted}a cross-validation that has not ended; the same command of cv "
            "goes on."
        )
    if _is_there(path, "config.json"):
        return (
            f"{wanted}a run that has measured nothing: it has not ended, or has "
            "neither validation nor test data. tfr-pipeline evaluate "
            "--per_query=FILE.parquet measures its model."
        )
    return wanted + f"a folder without {query_table.FILE_NAME}."


def _names(paths: Sequence[str]) -> list[str]:
    """Returns the last part of each path that tells it from the others."""
    parts = []
    for path in paths:
        words = os.path.abspath(path).split(os.sep)
        if len(words) > 2 and words[-1] == query_table.FILE_NAME:
            del words[-1]
        parts.append(words)
    for length in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(words[-length:]) for words in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
