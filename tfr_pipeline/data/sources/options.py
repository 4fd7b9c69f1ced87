"""How input files are to be read: plain settings, checked where they are used."""

from __future__ import annotations

import dataclasses

from tfr_pipeline.features import Feature

TEXT_FORMATS = ("libsvm", "csv", "tsv", "parquet")
RECORD_FORMATS = ("elwc", "eie", "seq", "example")  # TFRecord files
FORMATS = (*TEXT_FORMATS, *RECORD_FORMATS)
NAN = ("error", "keep", "zero")


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of `read_lists` and `convert`.

    Attributes:
      num_features: LibSVM: the largest feature index; by default found in the data.
        Tables: checked against the columns if given.
      nan: NaN and infinite features: `error`, `keep`, or `zero` to make them 0.
      query_file: LibSVM without `qid:`: files with the list lengths, one a line, as a
        path, a glob or comma-separated globs; one for each input file.
      group_by_query: Whether to bring rows of one query together.
      classes: Labels are names of classes, and each row is a list of its own: the
        names, those that are not among them being errors; none yet where they are
        still to be found. None for data to rank.
      label_column: Tables and TFRecord: the column (the feature) of the grade.
      label_columns: Tables: in place of `label_column`, the columns of the labels of
        several tasks, which are called after them. An empty cell is no label.
      qid_column: The same for the query id. In TFRecord files it may be missing.
      docid_column: The same for the document id; by default the line (CSV, TSV) or row
        (Parquet) number is the id, in TFRecord files the feature `docid` or a number.
      weight_column: The same for the document weight, if any.
      feature_columns: Tables: the features in order; by default every numeric column
        that has no other role. TFRecord: which document features to take; all by
        default.
      context_columns: Tables: columns that belong to the query; the value in its
        first row is taken. TFRecord: which query features to take; all by default,
        with `example` none.
      types: Tables: what some columns are, one of `column_types.NAMES`; they are
        features beside those that are taken anyway. By default, what is seen in the
        file.
      known: Tables: what columns have become in files of the kind before. That goes
        before what is seen, and `types` before that.
      features: TFRecord: path of a `features.json` that describes the input, instead of
        what the first records tell.
      require_label: Whether a document must have a label: without, a table may lack
        `label_column`, and what is no grade is no label.
      work_dir: Folder for temporary files of `group_by_query`; the system's by
        default.
    """

    num_features: int | None = None
    nan: str = "error"
    query_file: str = ""
    group_by_query: bool = False
    label_column: str = "label"
    qid_column: str = "qid"
    docid_column: str = ""
    weight_column: str = ""
    feature_columns: tuple[str, ...] = ()
    context_columns: tuple[str, ...] = ()
    features: str = ""
    require_label: bool = True
    label_columns: tuple[str, ...] = ()
    work_dir: str | None = None
    types: dict[str, str] = dataclasses.field(default_factory=dict)
    known: dict[str, Feature] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] | None = None

    def remembered(self, input_format: str) -> dict[str, str]:
        """Returns what `predict` needs to know to read files as these were read."""
        known = {"input_format": input_format, "nan": self.nan}
        if input_format != "libsvm":
            known |= {"qid_column": self.qid_column, "docid_column": self.docid_column}
        if self.classes is not None:
            known.pop("qid_column", None)
        return known
