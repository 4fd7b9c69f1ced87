"""The folder that conversions fill, several at once too."""

from __future__ import annotations

import pytest

from tests.pipeline.training_helpers import tree
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.errors import DataError


@pytest.mark.parametrize("same", [True, False])
def test_splits_converted_at_once_have_the_same_features_or_one_is_refused(
    tmp_path, same
):
    output = str(tmp_path / "data")
    (tmp_path / "train.csv").write_text("label,qid,a,b,text\n1,1,2,3,x\n")
    (tmp_path / "valid.csv").write_text(
        f"label,qid,a,{'b' if same else 'c'}\n1,1,2,3\n"
    )
    valid: dict[str, bytes] = {}

    def meanwhile(line: str) -> None:
        # The conversion of the other split has begun, and says what it leaves out.
        assert "text" in line
        convert(
            str(tmp_path / "valid.csv"),
            output,
            input_format="csv",
            split="valid",
            report=lambda _: None,
        )
        valid.update(tree(output))

    def train() -> None:
        begun: list[str] = []

        def report(line: str) -> None:
            if not begun:
                begun.append(line)
                meanwhile(line)

        convert(str(tmp_path / "train.csv"), output, input_format="csv", report=report)

    if same:
        train()
        assert tree(output).items() >= valid.items()
        assert "train.stats.json" in tree(output)
    else:
        with pytest.raises(DataError, match="expected .* columns a, c, found .* a, b"):
            train()
        shards = {name: content for name, content in tree(output).items()}
        assert shards == {n: c for n, c in valid.items() if not n.startswith(".train")}
