"""One seed decides all that is random, whether it is given or drawn."""

from __future__ import annotations

import numpy as np

from tests.pipeline.training_helpers import changed, make_config, read_json
from tfr_pipeline.experiment.build import build_pipeline


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
