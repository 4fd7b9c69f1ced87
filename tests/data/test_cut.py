"""`--splits`: one input in several splits, each query always in the same one."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.data.conversion_helpers import all_records, libsvm_text, write
from tests.pipeline.training_helpers import tree
from tfr_pipeline.cli.main import main
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.convert.cut import Cut
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.errors import ConfigError, DataError
from tfr_pipeline.features import Features
from tfr_pipeline.pipeline.datasets.hparams import DatasetHparams
from tfr_pipeline.pipeline.datasets.simple import SimpleDatasetBuilder

SHARES = "train:.6,valid:.25,test:.15"


def split_of(name: str) -> str:
    """What the documentation says of the hash, word by word."""
    place = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64
    return "train" if place < 0.6 else "valid" if place < 0.85 else "test"


def text_of(names: list[str], seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    return libsvm_text(
        [
            (float(random.integers(0, 3)), name, {1: float(random.normal())})
            for name in names
            for _ in range(2)
        ]
    )


def queries(folder: Any, split: str) -> list[str]:
    pattern = f"{folder}/{split}-*"
    builder = SimpleDatasetBuilder.from_features(
        Features.load(str(folder)), DatasetHparams(pattern, pattern, 1, 1)
    )
    return builder.lists("train").query_ids.tolist()


def test_each_query_goes_by_the_documented_hash(tmp_path: pathlib.Path) -> None:
    names = [f"q{number}ö" for number in range(60)]
    path = write(tmp_path / "a.txt", text_of(names))
    stats = convert(path, str(tmp_path / "out"), splits=SHARES)
    for split in ("train", "valid", "test"):
        wanted = [name for name in names if split_of(name) == split]
        assert queries(tmp_path / "out", split) == wanted
        assert stats[split]["queries"] == len(wanted)
        assert stats[split]["splits"] == SHARES


def test_records_and_counts_are_those_of_files_cut_by_hand(
    tmp_path: pathlib.Path,
) -> None:
    names = [f"q{number}" for number in range(60)]
    whole = text_of(names)
    stats = convert(
        write(tmp_path / "a.txt", whole),
        str(tmp_path / "out"),
        splits=SHARES,
        num_shards=3,
        num_workers=2,
    )
    for split in ("train", "valid", "test"):
        lines = whole.splitlines(keepends=True)
        own = [line for line in lines if split_of(line.split()[1][4:]) == split]
        # The comment keeps the id that a document has by its line in the whole file.
        numbered = [
            f"{line.rstrip()} #docid = {lines.index(line) + 1}\n" for line in own
        ]
        path = write(tmp_path / f"{split}.txt", "".join(numbered))
        alone = convert(path, str(tmp_path / "alone"), split=split, num_shards=3)
        assert all_records(tmp_path / "out", split) == all_records(
            tmp_path / "alone", split
        )
        for key in ("documents", "grades", "list_length", "features", "shard_bytes"):
            assert stats[split][key] == alone[key], key


def test_other_order_files_and_formats_make_the_same_splits(
    tmp_path: pathlib.Path,
) -> None:
    names = [f"q{number}" for number in range(60)]
    convert(write(tmp_path / "a.txt", text_of(names)), str(tmp_path / "a"),
            splits=SHARES)  # fmt: skip
    csv = "".join(f"{name},1,0.5\n" for name in reversed(names))
    convert(
        write(tmp_path / "b.csv", f"qid,label,x\n{csv}"),
        str(tmp_path / "b"),
        input_format="csv",
        splits=SHARES,
    )
    # What one conversion wrote is read by another, all splits of it at once.
    convert(
        f"{tmp_path}/a/*.tfrecord",
        str(tmp_path / "c"),
        input_format="elwc",
        splits=SHARES,
        output_format="packed",
    )
    for split in ("train", "valid", "test"):
        found = {name: sorted(queries(tmp_path / name, split)) for name in "abc"}
        assert found["a"] == found["b"] == found["c"]


def test_thresholds_of_labels_are_those_of_the_first_split(
    tmp_path: pathlib.Path,
) -> None:
    names = [f"q{number}" for number in range(80)]
    random = np.random.default_rng(0)
    rows = [(float(random.integers(1, 50)), name, {1: 1.0}) for name in names]
    # In validation and test labels are ten times as large.
    rows = [
        (label * (1 if split_of(name) == "train" else 10), name, features)
        for label, name, features in rows
    ]
    output = str(tmp_path / "out")
    path = write(tmp_path / "a.txt", libsvm_text(rows))
    convert(path, output, splits=SHARES, label_transform="quantiles:4")
    train = [row for row in rows if split_of(row[1]) == "train"]
    path = write(tmp_path / "train.txt", libsvm_text(train))
    convert(path, str(tmp_path / "alone"), label_transform="quantiles:4")
    alone = Features.load(str(tmp_path / "alone"))
    assert Features.load(output).label_transform == alone.label_transform


def test_a_second_run_replaces_all_splits_and_names_those_it_leaves(
    tmp_path: pathlib.Path,
) -> None:
    output = tmp_path / "out"
    path = write(tmp_path / "a.txt", text_of([f"q{n}" for n in range(60)]))
    convert(path, str(output), splits=SHARES, num_shards=2)
    first = tree(output)
    lines: list[str] = []
    convert(path, str(output), splits=SHARES, num_shards=2, report=lines.append)
    assert tree(output) == first
    assert not any("earlier conversion" in line for line in lines)
    # Other columns are no contradiction to splits that are replaced, too.
    csv = "".join(f"q{n},1,0.5,1\n" for n in range(60))
    path = write(tmp_path / "b.csv", f"qid,label,x,y\n{csv}")
    convert(path, str(output), input_format="csv", splits=SHARES)
    assert Features.load(str(output)).example["features"].columns == ("x", "y")
    convert(
        path,
        str(output),
        input_format="csv",
        splits="train:.8,valid:.2",
        report=lines.append,
    )
    assert any("also has test of an earlier conversion" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:.8,valid:.1", "add up to 1, found .*make 0.9"),
        ("train:.8,valid:.3", "add up to 1, found .*make 1.1"),
        ("train:.5,train:.5", "each split once, found 'train' again"),
        ("train:.5,vaild:.5", "unknown split 'vaild'.*did you mean 'valid'"),
        ("train", "names and shares above 0, such as .*found 'train'"),
        ("train:1,valid:0", "shares above 0.*found 'valid:0'"),
        ("train:2,valid:-1", "shares above 0.*found 'valid:-1'"),
        ("train:nan,valid:1", "shares above 0.*found 'train:nan'"),
        ("train:1/0", "shares above 0"),
        ("", "shares above 0"),
    ],
)
def test_shares_that_cannot_be_are_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cut.parse(text)


def test_thirds_add_up_to_one() -> None:
    of = Cut.parse("train:1/3,valid:1/3,test:1/3").of(map(str, range(3000)))
    assert np.bincount(of).min() > 900


def test_what_cannot_be_cut_is_an_error_and_leaves_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.txt", text_of(["q1", "q2", "q3"]))
    output = str(tmp_path / "out")
    with pytest.raises(DataError, match="each split, found none for 'valid'"):
        convert(path, output, splits="train:.999999,valid:.000001")
    write(tmp_path / "b.txt", "1 1:1\n0 1:2\n")
    sizes = write(tmp_path / "b.query", "2\n")
    with pytest.raises(ConfigError, match="expected query ids, by which lists are cut"):
        options = Options(query_file=sizes)
        convert(str(tmp_path / "b.txt"), output, splits=SHARES, options=options)
    with pytest.raises(ConfigError, match="--split or --splits, found both"):
        convert(path, output, split="valid", splits=SHARES)
    flags = ["convert", f"--input={path}", f"--output={output}", f"--splits={SHARES}"]
    assert main([*flags, "--split=train"]) == 2
    assert "--split or --splits, found both" in capsys.readouterr().err
    assert main([*flags, "--splits="]) == 2
    assert not os.path.exists(output)


def test_beam_refuses_to_cut(tmp_path: pathlib.Path) -> None:
    beam = pytest.importorskip("tfr_pipeline.data.convert.beam", exc_type=ImportError)
    path = write(tmp_path / "a.txt", text_of(["q1", "q2"]))
    with pytest.raises(ConfigError, match="--splits: expected no --runner"):
        convert(
            path,
            str(tmp_path / "out"),
            splits=SHARES,
            engine=beam.BeamEngine("in_process", []),
        )
