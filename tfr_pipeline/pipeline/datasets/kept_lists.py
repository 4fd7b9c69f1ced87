"""The part of a dataset builder that reads files, once, and keeps what is in them."""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf

from tfr_pipeline import files
from tfr_pipeline.data.batching.loose import can_keep
from tfr_pipeline.data.lists import Lists
from tfr_pipeline.data.reading import loading
from tfr_pipeline.data.reading.described import check_columns
from tfr_pipeline.data.reading.parser import RecordParser
from tfr_pipeline.data.reading.record_reader import RecordReader
from tfr_pipeline.data.records import formats
from tfr_pipeline.data.records.formats import AUTO, PACKED
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.layout import BlockLayout

Specs = dict[str, Any]


class KeepsLists:
    """Reads the lists of each split when they are first asked for."""

    _context_feature_spec: Specs
    _example_feature_spec: Specs
    _training_only_context_spec: Specs
    _training_only_example_spec: Specs
    _hparams: Any
    _query_id: str | None
    _document_id: str | None = None

    def _open(self) -> None:
        """Prepares for reading; needs the hyperparameters."""
        self._memory: dict[tuple[str, str], Lists] = {}
        # Hyperparameters of TF-Ranking's own class lack our fields.
        self._reader = RecordReader(
            self._hparams.dataset_reader,
            tuple(getattr(self._hparams, "reader_args", None) or ()),
            getattr(self._hparams, "compression", AUTO),
        )

    @property
    def _all_example_specs(self) -> Specs:
        return {**self._example_feature_spec, **self._training_only_example_spec}

    @property
    def _all_context_specs(self) -> Specs:
        return {**self._context_feature_spec, **self._training_only_context_spec}

    @property
    def _packs(self) -> bool:
        """Whether all features of documents stand in matrices."""
        return BlockLayout.can_pack(self._all_example_specs) and all(
            isinstance(spec, tf.io.FixedLenFeature)
            for spec in self._all_context_specs.values()
        )

    @property
    def _in_memory(self) -> bool:
        """Whether lists are parsed once and kept."""
        specs = {**self._all_example_specs, **self._all_context_specs}
        return bool(self._all_example_specs) and all(map(can_keep, specs.values()))

    def _pattern(self, split: str) -> str:
        patterns = {
            "train": self._hparams.train_input_pattern,
            "valid": self._hparams.valid_input_pattern,
            "test": getattr(self._hparams, "test_input_pattern", ""),
        }
        if split not in patterns:
            raise ConfigError(unknown_name("split", split, patterns))
        return patterns[split]

    def lists(self, split: str, layout: str = "padded") -> Lists:
        """Returns the lists of `train`, `valid` or `test`, read once and then kept.

        Raises:
          DataError: Files are missing, empty, corrupt or do not match the specs.
        """
        if (split, layout) not in self._memory:
            other = self._memory.get((split, "padded"))
            lists = None
            # A cache on disk has both, and memory may not.
            if layout == "packed" and other is not None and not self._cache_folder:
                lists = self._repacked(other)
            if lists is None:
                lists = self._read(self._pattern(split), layout)
            self._memory[split, layout] = lists
        return self._memory[split, layout]

    def _repacked(self, lists: Lists) -> Lists | None:
        """Returns lists of padded batches as those of packed ones, None if it cannot.

        So files are read once where training and evaluation differ in layout.
        """
        return None

    def _read(self, pattern: str, layout: str) -> Lists:
        """Reads files for padded batches: labels stand among the features."""
        paths = files.expand(pattern, "data")
        data_format = self._format(paths)
        if data_format == PACKED:
            raise DataError(
                f"{paths[0]}: packed files hold one label and one weight. Labels of "
                "another kind need --output_format=elwc."
            )
        parser = RecordParser(
            self._all_context_specs,
            self._all_example_specs,
            query_id=self._query_id,
            document_id=self._kept_document_id,
            data_format=data_format,
        )
        return loading.load(
            paths, parser, None, reader=self._reader, cache_folder=self._cache_folder
        )

    @property
    def _kept_document_id(self) -> str | None:
        """Name of the document id if it is to be read, None if not.

        Raises:
          ConfigError: It is to be, and has no name.
        """
        if not getattr(self._hparams, "keep_document_ids", False):
            return None
        if self._document_id is None:
            raise ConfigError(
                "keep_document_ids: expected the name of the feature that holds the id "
                f"of a document, found none in {type(self).__name__}. Give document_id "
                "to the dataset builder, or name it in features.json."
            )
        return self._document_id

    def _format(self, paths: list[str]) -> str:
        """Returns the format of files: what was said, or what their records are.

        Raises:
          DataError: They are of another format, or have other columns.
        """
        wanted = formats.canonical(getattr(self._hparams, "input_format", AUTO))
        found = loading.sniff_format(paths, self._reader, wanted)
        features = None
        with contextlib.suppress(DataError):  # specs that no file can describe
            features = getattr(self, "features", None)
        if features is not None:
            check_columns(paths, features, found)
        return found

    @property
    def _cache_folder(self) -> str:
        return getattr(self._hparams, "cache_folder", "")
