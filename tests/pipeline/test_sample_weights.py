"""Document weights, from a column of the input to the loss."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.pipeline.training_helpers import fit, make_config
from tfr_pipeline.data.convert.conversion import convert
from tfr_pipeline.data.sources.options import Options
from tfr_pipeline.experiment.build import build_pipeline


@pytest.fixture(scope="module")
def weighted_data(tmp_path_factory):
    """Returns a function from a kind of weights to a folder of converted data."""
    folder = tmp_path_factory.mktemp("weighted")

    def make(kind):
        random = np.random.default_rng(0)
        output = folder / kind
        for split in ("train", "valid"):
            lines = ["qid,label,weight,a,b\n"]
            for query in range(24):
                for _ in range(5):
                    a, b = random.normal(size=2)
                    label = int(np.clip(round(a + 1), 0, 3))
                    weight = random.uniform(0.1, 4.0)
                    if kind == "ones":
                        weight = 1.0
                    lines.append(f"{query},{label},{weight:.4f},{a:.4f},{b:.4f}\n")
            source = folder / f"{kind}-{split}.csv"
            source.write_text("".join(lines))
            options = Options(
                weight_column="weight" if kind != "none" else "",
                feature_columns=("a", "b"),
            )
            convert(
                str(source),
                str(output),
                input_format="csv",
                split=split,
                options=options,
            )
        return output

    return make


@pytest.fixture(scope="module")
def losses(weighted_data):
    """Returns a function from weights and settings to losses and metrics."""

    @functools.cache
    def train(kind, **pipeline):
        config = make_config(
            weighted_data(kind),
            "unused",
            num_epochs=1,
            loss="mean_squared_loss",
            **pipeline,
        )
        config["model"]["scorer_args"].update(use_batch_norm=False, dropout=0.0)
        _, (row,) = fit(build_pipeline(config))
        return row

    return train


def test_weights_of_one_change_nothing(losses):
    without, ones = losses("none"), losses("ones")
    for key in ("loss", "val_loss", "val_metric/ndcg_10"):
        assert ones[key] == pytest.approx(without[key], rel=1e-5)


def test_both_layouts_weigh_documents_alike(losses):
    packed = losses("random", use_weighted_metrics=True)
    padded, without = losses("random", layout="padded"), losses("none")
    for key in ("loss", "val_loss", "val_metric/ndcg_10"):
        assert padded[key] == pytest.approx(packed[key], rel=1e-4)
    assert abs(packed["loss"] - without["loss"]) > 0.01 * without["loss"]


def test_weighted_metrics_are_reported_beside_the_plain_ones(losses):
    row = losses("random", use_weighted_metrics=True)
    plain, weighted = row["val_metric/ndcg_10"], row["val_weighted_metric/ndcg_10"]
    assert 0 < weighted < 1
    assert weighted != pytest.approx(plain, rel=1e-6)
