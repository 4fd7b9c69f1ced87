"""The folder that conversions fill, several at once too."""

from __future__ import annotations

import pytest

from tests.pipeline.training_helpers import tree
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.errors import DataError


def visible(folder):
    """Returns the files of a folder without those that are being written."""
    return {k: v for k, v in tree(folder).items() if not k.startswith(".")}


@pytest.mark.parametrize("same", [True, False])
def test_splits_converted_at_once_have_the_same_features_or_one_is_refused(
    tmp_path, same
):
    output = str(tmp_path / "data")
    other = "b" if same else "c"
    (tmp_path / "train.csv").write_text("label,qid,a,b,text\n1,1,2,3,x\n")
    (tmp_path / "valid.csv").write_text(f"label,qid,a,{other}\n1,1,2,3\n")
    valid: dict[str, bytes] = {}

    def meanwhile(line: str) -> None:
        # The conversion of the other split has begun, and says what it leaves out.
        if not valid:
            source = str(tmp_path / "valid.csv")
            convert(source, output, input_format="csv", split="valid", report=print)
            valid.update(visible(output))

    def train() -> None:
        source = str(tmp_path / "train.csv")
        convert(source, output, input_format="csv", report=meanwhile)

    if same:
        train()
        assert visible(output).items() >= valid.items()
        assert "train.stats.json" in visible(output)
    else:
        with pytest.raises(DataError, match=r"expected .* columns a, c, found .* a, b"):
            train()
        assert tree(output) == valid
    assert "valid.stats.json" in valid
