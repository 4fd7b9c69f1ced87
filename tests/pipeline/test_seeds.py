"""One seed decides all that is random, whether it is given or drawn."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.test_fit import parts
from tests.pipeline.training_helpers import changed, make_config, read_json
from tfr_pipeline.experiment.build import build_pipeline
from tfr_pipeline.pipeline.simple import SimplePipeline


@pytest.mark.slow
def test_a_drawn_seed_is_recorded_and_repeats_the_run(data, tmp_path, capsys):
    config = make_config(data, tmp_path / "drawn", num_epochs=1, export_best_model=True)
    config["seed"] = None
    build_pipeline(config).train_and_validate(verbose=2)
    seed = read_json(tmp_path / "drawn" / "config.json")["seed"]
    assert f"seed {seed}, drawn" in capsys.readouterr().out
    assert read_json(tmp_path / "drawn" / "environment.json")["seed"] == seed
    # Without a seed again, the run goes on with the order of data that it had.
    going_on = changed(config, pipeline__num_epochs=2)
    found = build_pipeline(going_on).train_and_validate()
    assert read_json(tmp_path / "drawn" / "environment.json")["seed"] == seed
    again = changed(going_on, seed=seed, model_dir=str(tmp_path / "given"))
    wanted = build_pipeline(again).train_and_validate()
    for a, b in zip(found.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_dry_run_takes_the_step_of_its_seed(data, tmp_path):
    lines = []
    for seed in (3, 3, 4):
        config = changed(make_config(data, tmp_path / "run"), seed=seed)
        found = build_pipeline(config).dry_run()
        assert f"seed: {seed}" in found
        lines.append(found[-1])
    assert lines[0] == lines[1] != lines[2]


@pytest.mark.slow
def test_a_run_from_python_is_finished_and_gone_on_with_by_the_seed_that_it_drew(
    data, tmp_path
):
    run = tmp_path / "run"

    def pipeline(dataset=None, epochs=1, model_dir=run, seed=None):
        model, new, hparams = parts(data, model_dir, num_epochs=epochs, seed=seed)
        new.hparams.seed = None
        return SimplePipeline(model, dataset or new, hparams)

    def written(name):
        return read_json(run / name)["seed"]

    first = pipeline()
    dataset = first._dataset_builder
    first.train()
    seed = written("config.json")
    assert written("environment.json") == seed == first._checkpoints.state.seed
    assert dataset.hparams.seed == seed
    wanted = first.finish()["valid"]
    # The builder may have served another run by then, or be another one.
    pipeline(dataset, model_dir=tmp_path / "other").train()
    assert dataset.hparams.seed != seed
    for builder in (dataset, None):
        assert pipeline(builder).finish()["valid"] == wanted
        assert written("config.json") == written("environment.json") == seed
    found = pipeline(dataset, epochs=2).train()
    assert written("environment.json") == seed == dataset.hparams.seed
    same = pipeline(epochs=2, model_dir=tmp_path / "given", seed=seed)
    for a, b in zip(found.get_weights(), same.train().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
