"""Files of tree ensembles of LightGBM, XGBoost and CatBoost, as what scores documents.

Their libraries are imported when a file of theirs is read.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfr_pipeline.errors import ConfigError, DataError

LIGHTGBM, XGBOOST, CATBOOST = "lightgbm", "xgboost", "catboost"
_HEAD = 1 << 16
# What libraries call columns that they were given no names of.
_NAMELESS = re.compile(r"(Column_|f|feature_)?\d+")


class TreeFile:
    """A file of a tree ensemble.

    Args:
      path: The file.

    Attributes:
      path: As given.
      kind: `lightgbm`, `xgboost` or `catboost`.
      num_features: How many columns it takes.
      names: Their names, none where it knows none.

    Raises:
      ConfigError: The library is not installed.
      DataError: There is no file, or none of the three.
    """

    def __init__(self, path: str):
        self.path, self.kind = path, kind_of(path)
        library = _library(self.kind, path)
        try:
            self._score, self.num_features, names = _READERS[self.kind](library, path)
        except Exception as error:  # each library has its own
            cause = " ".join(str(error).split())[:300]
            raise DataError(
                f"{path}: cannot be read as a model of {self.kind} "
                f"{library.__version__}: {cause}"
            ) from error
        nameless = all(_NAMELESS.fullmatch(name) for name in names)
        self.names = () if nameless else tuple(names)

    def score(self, values: np.ndarray) -> np.ndarray:
        """Returns float32 `[documents]`, raw scores: sums over trees.

        Args:
          values: float32 `[documents, num_features]`.

        Raises:
          DataError: It has several numbers a document, as a model of classes.
        """
        found = np.asarray(self._score(values))
        if found.shape != (len(values),):
            raise DataError(
                f"{self.path}: expected one score a document, found a model with "
                f"scores of shape {list(found.shape[1:])} each."
            )
        return found.astype(np.float32)


def kind_of(path: str) -> str:
    """Returns which library wrote a file, by its content.

    Raises:
      DataError: None of those that are known, or there is no such file.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file.")
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if re.match(rb"tree\r?\n", head):
        return LIGHTGBM
    if head.startswith(b"CBM1"):
        return CATBOOST
    # JSON; UBJSON, which begins in the same way; and the format of before.
    found = _keys(path) if head.lstrip().startswith(b"{") else set()
    if found & {"oblivious_trees", "model_info"}:
        return CATBOOST
    if "learner" in found or b"learner" in head or head.startswith((b"binf", b"bs64")):
        return XGBOOST
    raise DataError(
        f"{path}: expected a model file that LightGBM (save_model), XGBoost (.json, "
        ".ubj) or CatBoost (.cbm, .json) wrote; found something else."
    )


def _keys(path: str) -> set[str]:
    """Returns the keys of a JSON file; none of any other."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError:
        return set()
    return set(found) if isinstance(found, dict) else set()


def _library(kind: str, path: str) -> Any:
    try:
        return importlib.import_module(kind)
    except ImportError as error:
        raise ConfigError(
            f"{path}: a model of {kind} needs its library ({error}). Install it with: "
            f"pip install {kind}"
        ) from error


Reader = Callable[[Any, str], tuple[Callable[[Any], Any], int, Sequence[str]]]


def _of_lightgbm(library: Any, path: str) -> Any:
    booster = library.Booster(model_file=path)

    def score(values: np.ndarray) -> Any:
        return booster.predict(values, raw_score=True)

    return score, booster.num_feature(), booster.feature_name()


def _of_xgboost(library: Any, path: str) -> Any:
    booster = library.Booster()
    with open(path, "rb") as file:  # by content: of a file it would go by the name
        booster.load_model(bytearray(file.read()))
    if "c" in (booster.feature_types or ()):
        raise ValueError("it takes categories; expected numbers alone")
    names = booster.feature_names
    # Those behind the best one are in the file, too.
    best = booster.attr("best_iteration")
    trees = (0, 0 if best is None else int(best) + 1)

    def score(values: np.ndarray) -> Any:
        # NaN is what is missing, here as in the data.
        matrix = library.DMatrix(values, feature_names=names)
        return booster.predict(matrix, output_margin=True, iteration_range=trees)

    return score, booster.num_features(), names or ()


def _of_catboost(library: Any, path: str) -> Any:
    model = library.CatBoost()
    with open(path, "rb") as file:
        is_json = file.read(_HEAD).lstrip().startswith(b"{")
    model.load_model(path, format="json" if is_json else "cbm")
    others = ("cat", "text", "embedding")
    if any(getattr(model, f"get_{kind}_feature_indices")() for kind in others):
        raise ValueError(
            "it takes categories, texts or vectors; expected numbers alone"
        )

    def score(values: np.ndarray) -> Any:
        return model.predict(values, prediction_type="RawFormulaVal")

    names = model.feature_names_
    return score, len(names), names


_READERS: dict[str, Reader] = {
    LIGHTGBM: _of_lightgbm,
    XGBOOST: _of_xgboost,
    CATBOOST: _of_catboost,
}
