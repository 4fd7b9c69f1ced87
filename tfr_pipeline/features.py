"""Which features, label, weight and ids a data set has: one description for all.

`Features` is written by `convert` as `features.json` beside the data, read by the
dataset and model builders, and stored inside every export, so that the three can
never disagree. It is plain data: TensorFlow is imported only when specs are made.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from tfr_pipeline import files, urls
from tfr_pipeline.errors import DataError
from tfr_pipeline.layout import FEATURE_DTYPES

FILE_NAME = "features.json"
VERSION = 1
# Labels and scores of documents that are padding.
PADDING_LABEL = -1.0
DEFAULT_MASK = "__list_mask__"

_MOST_VALUES = 1 << 24
_KINDS = ("fixed", "varlen", "ragged")
# What the values of a feature may be; `numeric` if nobody says.
TYPES = ("numeric", "integer", "boolean", "date", "text", "categorical", "list")
_FORMATS = ("elwc", "packed")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature: how it is stored and how it is parsed.

    Attributes:
      dtype: `float32`, `int64` or `string`.
      shape: Shape of one document's (or one query's) value.
      default: None, one number or string for every element, or a (nested) tuple with
        one for each; taken when a document lacks the feature.
      kind: `fixed`, `varlen` or `ragged`, after the classes of `tf.io`.
      columns: Names of the elements of a vector feature, in order; may be empty.
      types: What the values are, one of `TYPES` for each column, or for all of the
        feature where it has no columns; empty where nobody said. Plain data for
        whoever chooses how to treat a feature: parsing goes by the other fields.

    Example:
      >>> Feature("float32", (2,), 0.0).to_spec().shape
      (2,)
    """

    dtype: str = "float32"
    shape: tuple[int, ...] = (1,)
    default: Any = None
    kind: str = "fixed"
    columns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    def to_spec(self) -> Any:
        """Returns the `tf.io.FixedLenFeature`, `VarLenFeature` or `RaggedFeature`."""
        from tfr_pipeline.compat import tf

        dtype = tf.dtypes.as_dtype(self.dtype)
        if self.kind == "varlen":
            return tf.io.VarLenFeature(dtype)
        if self.kind == "ragged":
            return tf.io.RaggedFeature(dtype)
        default = _as_lists(self.default)
        size = math.prod(self.shape)
        if default is not None and not isinstance(default, list) and size > 1:
            default = [default] * size  # parse_example does not broadcast
        return tf.io.FixedLenFeature(self.shape, dtype, default)

    @classmethod
    def from_spec(cls, spec: Any) -> Feature:
        """Returns the description of a `tf.io` spec; the reverse of `to_spec`."""
        from tfr_pipeline.compat import tf

        dtype = tf.dtypes.as_dtype(spec.dtype).name
        if isinstance(spec, tf.io.FixedLenFeature):
            default = _as_tuples(spec.default_value)
            shape = tuple(tf.TensorShape(spec.shape).as_list())
            size = math.prod(shape)
            # `to_spec` repeats one value for all elements of a vector.
            if size > 1 and default == (_flat(default)[0],) * size:
                default = default[0]
            return cls(dtype, shape, default)
        if isinstance(spec, tf.io.VarLenFeature):
            return cls(dtype, (), None, "varlen")
        if spec == tf.io.RaggedFeature(spec.dtype):
            return cls(dtype, (), None, "ragged")
        raise DataError(
            f"cannot describe {spec!r}: expected tf.io.FixedLenFeature, VarLenFeature "
            "or a RaggedFeature of a dtype and nothing else."
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-serialisable dict without the fields that have defaults."""
        result: dict[str, Any] = {
            "kind": self.kind,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "default": self.default,
        }
        for name in ("columns", "types"):
            if found := getattr(self, name):
                result[name] = list(found)
        return result

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "") -> Feature:
        """Reverse of `to_json`.

        Raises:
          DataError: A field is missing or has an unknown value.
        """
        try:
            kind, dtype = value.get("kind", "fixed"), value["dtype"]
            shape = tuple(_whole(side) for side in value["shape"])
            default = _as_tuples(value.get("default"))
            columns, types = (_names(value, key) for key in ("columns", "types"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{where}: a feature needs 'dtype' and 'shape', found {value!r} "
                f"({error})."
            ) from error
        if kind not in _KINDS or dtype not in ("float32", "int64", "string"):
            raise DataError(
                f"{where}: expected kind in {_KINDS} and dtype float32, int64 or "
                f"string, found kind {kind!r} and dtype {dtype!r}."
            )
        if any(side < 1 for side in shape):
            raise DataError(f"{where}: expected a shape of sizes >= 1, found {shape}.")
        if math.prod(shape) > _MOST_VALUES:
            raise DataError(
                f"{where}: expected at most {_MOST_VALUES} values a document, found "
                f"shape {list(shape)}."
            )
        if columns and len(columns) != math.prod(shape):
            raise DataError(
                f"{where}: expected {math.prod(shape)} columns, for the shape is "
                f"{list(shape)}; found {len(columns)}."
            )
        if types and (
            len(types) != max(1, len(columns)) or not set(types).issubset(TYPES)
        ):
            raise DataError(
                f"{where}: expected {max(1, len(columns))} types of {TYPES}, found "
                f"{list(types)}."
            )
        accepted = {"string": str, "int64": int}.get(dtype, (int, float))
        flat = [] if default is None else _flat(default)
        if (
            not all(isinstance(element, accepted) for element in flat)
            or (dtype == "int64" and not all(-(2**63) <= n < 2**63 for n in flat))
            or (isinstance(default, tuple) and len(flat) != math.prod(shape))
        ):
            raise DataError(
                f"{where}: expected as default one {dtype} or {math.prod(shape)} of "
                f"them, found {value['default']!r}."
            )
        return cls(dtype, shape, default, kind, columns, types)


def _names(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if isinstance(found := value.get(key, ()), str):
        raise TypeError(f"expected a list of {key}, found {found!r}")
    return tuple(str(name) for name in found)


def _classes(names: Any, where: str) -> tuple[str, ...]:
    good = isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
    if not good or len(set(names)) < len(names) or len(names) == 1:
        raise DataError(
            f"{where}: expected as classes the different names of two or more, found "
            f"{names!r:.200}."
        )
    return tuple(names)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected whole numbers as shape, found {value!r}")
    return value


def _as_tuples(value: Any) -> Any:
    """Returns a default of a spec, or of JSON, as plain values and nested tuples."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_as_tuples(element) for element in value)
    return value.decode() if isinstance(value, bytes) else value


def _as_lists(value: Any) -> Any:
    return [_as_lists(v) for v in value] if isinstance(value, tuple) else value


def _pair_spec(pair: tuple[str, Feature] | None) -> tuple[str, Any] | None:
    return None if pair is None else (pair[0], pair[1].to_spec())


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return [element for part in value for element in _flat(part)]
    return [value]


@dataclasses.dataclass(frozen=True)
class Features:
    """Description of a data set.

    Attributes:
      context: Maps names of query features to descriptions.
      example: Maps names of document features to descriptions.
      label: Name and description of the relevance label.
      weight: The same for the document weight, or None.
      list_weight: The same for the list weight, a query feature, or None.
      labels: Maps each task to name and description of its label, in data with
        several; `label` then is the first of them.
      query_id: Name of the string context feature that holds the query id, or None.
      document_id: Name of the string example feature with the document id, or None.
      data_format: `elwc` or `packed`: how the files beside it are written.
      label_transform: How labels were made of those of the input, see
        `tfr_pipeline.data.convert.label_transform`; None if they are the same.
      feature_dtype: What packed files hold the float32 features as: `float32`, or
        `float16` or `bfloat16` in half the room.
      classes: Names of the classes, where a label is the number of one and each list
        is one example; empty for data to rank.
      reading: How the input was read (`input_format`, `nan`, columns of the ids), for
        those who read more of the kind; empty if nobody knows.

    Example:
      >>> features = Features(example={"features": Feature("float32", (42,))})
      >>> Features.from_json(features.to_json()) == features
      True
    """

    context: dict[str, Feature] = dataclasses.field(default_factory=dict)
    example: dict[str, Feature] = dataclasses.field(default_factory=dict)
    label: tuple[str, Feature] = ("label", Feature("float32", (1,), PADDING_LABEL))
    weight: tuple[str, Feature] | None = None
    query_id: str | None = "qid"
    document_id: str | None = "docid"
    data_format: str = "elwc"
    list_weight: tuple[str, Feature] | None = None
    labels: dict[str, tuple[str, Feature]] = dataclasses.field(default_factory=dict)
    label_transform: dict[str, Any] | None = None
    reading: dict[str, str] = dataclasses.field(default_factory=dict)
    feature_dtype: str = FEATURE_DTYPES[0]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels:
            object.__setattr__(self, "label", next(iter(self.labels.values())))

    @property
    def context_spec(self) -> dict[str, Any]:
        """`tf.io` specs of the query features, by name."""
        return {name: feature.to_spec() for name, feature in self.context.items()}

    @property
    def example_spec(self) -> dict[str, Any]:
        """`tf.io` specs of the document features, by name."""
        return {name: feature.to_spec() for name, feature in self.example.items()}

    @property
    def label_spec(self) -> tuple[str, Any]:
        """Name and `tf.io` spec of the label, as `SimpleDatasetBuilder` takes it."""
        return self.label[0], self.label[1].to_spec()

    @property
    def weight_spec(self) -> tuple[str, Any] | None:
        """Name and `tf.io` spec of the weight, or None."""
        return _pair_spec(self.weight)

    @property
    def list_weight_spec(self) -> tuple[str, Any] | None:
        """Name and `tf.io` spec of the list weight, or None."""
        return _pair_spec(self.list_weight)

    @property
    def labels_spec(self) -> dict[str, Any]:
        """Label specs by task, as `MultiLabelDatasetBuilder` takes them."""
        return {task: _pair_spec(pair) for task, pair in self.labels.items()}

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `features.json`."""

        def named(pair: tuple[str, Feature] | None) -> dict[str, Any] | None:
            return None if pair is None else {"name": pair[0], **pair[1].to_json()}

        more: dict[str, Any] = {}
        if self.list_weight is not None:
            more["list_weight"] = named(self.list_weight)
        if self.labels:
            more["labels"] = {task: named(pair) for task, pair in self.labels.items()}
        for key in ("label_transform", "reading"):
            if value := getattr(self, key):
                more[key] = value
        if self.feature_dtype != FEATURE_DTYPES[0]:
            more["feature_dtype"] = self.feature_dtype
        if self.classes:
            more["classes"] = list(self.classes)
        return {
            "version": VERSION,
            "data_format": self.data_format,
            "context": {name: f.to_json() for name, f in self.context.items()},
            "example": {name: f.to_json() for name, f in self.example.items()},
            "label": named(self.label),
            "weight": named(self.weight),
            "query_id": self.query_id,
            "document_id": self.document_id,
            **more,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = FILE_NAME) -> Features:
        """Reverse of `to_json`.

        Raises:
          DataError: The version is unknown or a field is missing or malformed.
        """
        if not isinstance(value, Mapping) or value.get("version") != VERSION:
            found = value.get("version") if isinstance(value, Mapping) else type(value)
            raise DataError(f"{where}: expected version {VERSION}, found {found!r}.")
        data_format = value.get("data_format", "elwc")
        if data_format not in _FORMATS:
            raise DataError(
                f"{where}: expected data_format in {_FORMATS}, found {data_format!r}."
            )
        feature_dtype = value.get("feature_dtype", FEATURE_DTYPES[0])
        known = FEATURE_DTYPES if data_format == "packed" else FEATURE_DTYPES[:1]
        if feature_dtype not in known:
            raise DataError(
                f"{where}: expected feature_dtype in {known}, for data_format is "
                f"{data_format!r}; found {feature_dtype!r}."
            )
        for key in ("query_id", "document_id"):
            if not isinstance(value.get(key), str | None):
                raise DataError(
                    f"{where}: expected {key} to be a name or null, found "
                    f"{value[key]!r}."
                )

        reading = value.get("reading", {})
        transform = value.get("label_transform")
        if not isinstance(reading, Mapping) or not all(
            isinstance(setting, str) for setting in reading.values()
        ):
            raise DataError(
                f"{where}: expected reading to map names to texts, found {reading!r}."
            )
        if not isinstance(transform, Mapping | None):
            raise DataError(
                f"{where}: expected label_transform to be a dict or null, found "
                f"{transform!r}."
            )

        def named(key: str, pair: Any) -> tuple[str, Feature]:
            if not isinstance(pair["name"], str):
                raise TypeError(f"the name of {key} is {pair['name']!r}")
            return pair["name"], Feature.from_json(pair, f"{where}: {key}")

        try:
            weights = {
                key: named(key, value[key])
                for key in ("weight", "list_weight")
                if value.get(key) is not None
            }
            return cls(
                context={
                    name: Feature.from_json(f, f"{where}: context feature {name!r}")
                    for name, f in value["context"].items()
                },
                example={
                    name: Feature.from_json(f, f"{where}: example feature {name!r}")
                    for name, f in value["example"].items()
                },
                label=named("label", value["label"]),
                labels={
                    task: named(f"label of {task!r}", label)
                    for task, label in value.get("labels", {}).items()
                },
                **weights,
                query_id=value.get("query_id"),
                document_id=value.get("document_id"),
                data_format=data_format,
                label_transform=None if transform is None else dict(transform),
                reading=dict(reading),
                feature_dtype=feature_dtype,
                classes=_classes(value.get("classes", ()), where),
            )
        except DataError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{where}: expected the keys context, example and label as written by "
                f"`tfr-pipeline convert`; {type(error).__name__}: {error}."
            ) from error

    def save(self, path: str) -> None:
        """Writes the description to a file or into a folder as `features.json`."""
        if os.path.isdir(path):
            path = os.path.join(path, FILE_NAME)
        files.write_text(path, json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str) -> Features:
        """Reads the description from a file, or from the `features.json` of a folder.

        Raises:
          DataError: The file is missing, is not JSON or has another layout.
        """
        remote_folder = urls.is_remote(path) and not path.endswith(".json")
        if os.path.isdir(path) or remote_folder:
            path = os.path.join(path, FILE_NAME)
        if not files.exists(path):
            raise DataError(
                f"{path}: not found. Expected the description that "
                "`tfr-pipeline convert` writes beside its data."
            )
        return cls.from_json(files.read_json(path), path)
