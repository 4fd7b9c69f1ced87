"""Float32 features in 16 bits: what they become, and what does not survive.

float16 has 11 significant bits and numbers from 6.1e-5 to 65504, and with fewer bits
down to 6e-8; bfloat16 has 8 bits and the range of float32. Between those bounds a value
keeps its bits but for the last, which is what was asked for; here the others are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np

from tfr_pipeline.data.convert.description import names_of_floats
from tfr_pipeline.data.sources.libsvm import Parsed
from tfr_pipeline.errors import ConfigError, DataError, unknown_name
from tfr_pipeline.features import Features
from tfr_pipeline.layout import FEATURE_DTYPES

_SHOWN = 8


@dataclasses.dataclass
class Losses:
    """Values that did not survive in 16 bits; all counts are int64 `[columns]`.

    Attributes:
      dtype: Name of the narrow dtype.
      too_large: Finite values that it has no finite number for.
      became_zero: Values other than 0 that are 0 in it.
      imprecise: Other values that are further from what they became, relative to their
        size, than half a unit in the last place.
    """

    dtype: str
    too_large: np.ndarray
    became_zero: np.ndarray
    imprecise: np.ndarray

    def add(self, other: Losses) -> None:
        """Adds the counts of documents that come later."""
        self.too_large = self.too_large + other.too_large
        self.became_zero = self.became_zero + other.became_zero
        self.imprecise = self.imprecise + other.imprecise

    def of_column(self, number: int) -> dict[str, int]:
        """Returns the counts of a column by name, those above 0."""
        found = {name: int(getattr(self, name)[number]) for name in _KINDS}
        return {name: count for name, count in found.items() if count}

    def warnings(self, columns: Sequence[str], nan: str) -> Iterator[str]:
        """Yields a line for each kind of loss that there is.

        Args:
          columns: Names of the columns.
          nan: What became of values that are too large, see `Options`.
        """
        info = ml_dtypes.finfo(self.dtype)
        became = "0, for --nan=zero" if nan == "zero" else "infinite, for --nan=keep"
        told = {
            "too_large": f"beyond {float(info.max):.6g} became {became}",
            "became_zero": f"too small for {self.dtype} became 0",
            "imprecise": f"below {float(info.smallest_normal):.3g} lost more than the "
            "last of their bits",
        }
        for kind, what in told.items():
            counts = getattr(self, kind)
            worst = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
            if not len(worst):
                continue
            named = ", ".join(f"{columns[i]} ({counts[i]:,})" for i in worst[:_SHOWN])
            more = len(worst) - _SHOWN
            named += f" and {more} more features" if more > 0 else ""
            total = int(counts.sum())
            values = "1 value" if total == 1 else f"{total:,} values"
            yield f"warning: --feature_dtype={self.dtype}: {values} {what}: {named}"


_KINDS = ("too_large", "became_zero", "imprecise")


def check_dtype(feature_dtype: str, output_format: str) -> None:
    """Refuses dtypes that there are not, or that a format does not hold.

    Raises:
      ConfigError: It is one of those.
    """
    if feature_dtype not in FEATURE_DTYPES:
        raise ConfigError(
            unknown_name("feature_dtype", str(feature_dtype), FEATURE_DTYPES)
        )
    if feature_dtype != FEATURE_DTYPES[0] and output_format != "packed":
        raise ConfigError(
            f"--feature_dtype={feature_dtype} needs --output_format=packed: the protos "
            f"of {output_format!r} hold float32."
        )


def rounded(matrix: np.ndarray, dtype: str) -> tuple[np.ndarray, Losses]:
    """Returns what a matrix is when it comes back from 16 bits, and what was lost.

    Args:
      matrix: float32 `[documents, columns]`.
      dtype: `float16` or `bfloat16`.

    Returns:
      float32 `[documents, columns]`, rounded to nearest, and the losses.

    Example:
      >>> import numpy as np
      >>> row, losses = rounded(np.float32([[1.0001, 1e5, 1e-9]]), "float16")
      >>> row.tolist(), losses.too_large.tolist(), losses.became_zero.tolist()
      ([[1.0, inf, 0.0]], [0, 1, 0], [0, 0, 1])
    """
    info = ml_dtypes.finfo(dtype)
    with np.errstate(over="ignore"):
        result = matrix.astype(dtype).astype(np.float32)
    sizes = np.abs(matrix)
    small = (sizes < np.float32(info.smallest_normal)) & (sizes > 0)
    large = (sizes > np.float32(info.max)) & (sizes < np.inf)
    # Within the normal range rounding keeps its promise; few values are left.
    rows, columns = np.nonzero(small | large)
    before = matrix[rows, columns].astype(np.float64)
    after = result[rows, columns].astype(np.float64)
    too_large, became_zero = np.isinf(after), after == 0
    with np.errstate(invalid="ignore"):  # of infinite ones, which are counted already
        error = np.abs(after - before) > 0.5 * float(info.eps) * np.abs(before)
    imprecise = error & ~too_large & ~became_zero

    def by_column(lost: np.ndarray) -> np.ndarray:
        return np.bincount(columns[lost], minlength=matrix.shape[1])

    counts = map(by_column, (too_large, became_zero, imprecise))
    return result, Losses(dtype, *counts)


def narrow(parsed: Parsed, features: Features, nan: str) -> Losses | None:
    """Rounds the float32 features of lists to what their description stores.

    Args:
      parsed: The lists; their matrix is replaced.
      features: Description of what is written.
      nan: What to do with values that are too large: `error`, `keep` for infinite
        ones, `zero`.

    Returns:
      What was lost; None where features are stored as they are.

    Raises:
      DataError: A value is too large, and `nan` is `error`.
    """
    if features.feature_dtype == FEATURE_DTYPES[0]:
        return None
    lists, dtype = parsed.lists, features.feature_dtype
    matrix = lists.values["float32"]
    result, losses = rounded(matrix, dtype)
    if losses.too_large.any() and nan != "keep":
        bad = np.isinf(result) & np.isfinite(matrix)
        if nan == "error":
            row, column = np.argwhere(bad)[0]
            number = int(np.searchsorted(lists.row_splits, row, "right")) - 1
            path, line = parsed.places[number]
            where = f"{path}:{line}" if line else path
            raise DataError(
                f"{where}: feature {names_of_floats(features)[column]!r} is "
                f"{matrix[row, column]:g} in {lists.place(row)}; expected at most "
                f"{float(ml_dtypes.finfo(dtype).max):.6g}, the largest {dtype}. Use "
                + ("--feature_dtype=bfloat16, " if dtype == "float16" else "")
                + "--feature_dtype=float32, or --nan=zero to write 0."
            )
        result[bad] = 0
    lists.values = {**lists.values, "float32": result}
    return losses
