"""What a new project holds beside the examples: README, requirements, a test."""

from __future__ import annotations

from tfr_pipeline import __version__

README = """\
# A ranking project

Made by `tfr-pipeline new`. Everything here is yours to change.

| folder | what |
|---|---|
| `configs/` | one file an experiment: `get_config()` |
| `builders/` | models of your own; `parts.py`: every part that a config may name |
| `launch/` | starts training on several machines |
| `tests/` | trains the smallest config on made-up data: `python -m pytest` |

## Begin

```sh
pip install -r requirements.txt

# 1. Queries, documents and grades as LibSVM text; take your own files instead.
tfr-pipeline synthesize --output=text

# 2. To what training reads, split by split.
for split in train valid test; do
  tfr-pipeline convert --input=text/$split.txt --output=data --split=$split
done

# 3. Train, evaluate, export.
tfr-pipeline train --config=configs/letor.py:best \\
  --config.data.dir=data --config.model_dir=run
```

Then rank what is new, and serve what stands in `run/export`:

```sh
tfr-pipeline predict --model=run --input=text/test.txt --output=ranking.tsv
```

`tfr-pipeline doctor` says what is wrong with an installation, and
`tfr-pipeline COMMAND --help` what a command takes.
"""

REQUIREMENTS = f"""\
tfr_pipeline=={__version__}
pytest
"""

GITIGNORE = """\
__pycache__/
.pytest_cache/
.venv/
/text/
/data/
/run*/
"""

TEST = '''\
"""The smallest config trains on made-up data, through the command line."""

import json
import pathlib
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[1]


def run(*words):
    command = [sys.executable, "-m", "tfr_pipeline", *words]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=300)


def test_the_smallest_config_trains_on_synthesized_data(tmp_path):
    text, data, model = tmp_path / "text", tmp_path / "data", tmp_path / "run"
    size = ["--queries=40", "--documents=10", "--features=8"]
    run("synthesize", f"--output={text}", *size)
    for split in ("train", "valid", "test"):
        source = f"--input={text}/{split}.txt"
        run("convert", source, f"--output={data}", f"--split={split}")
    run(
        "train",
        "--config=configs/letor.py:best",
        f"--config.data.dir={data}",
        f"--config.model_dir={model}",
        "--config.model.scorer_args.hidden_layer_dims=(8,)",
        "--config.pipeline.num_epochs=1",
    )
    metrics = json.loads((model / "metrics.json").read_text())
    assert 0 < metrics["test"]["ndcg@10"]["skip"] <= 1
    assert list((model / "export" / "latest_model").iterdir())
'''

# Path in a project to content.
FILES = {
    "README.md": README,
    "requirements.txt": REQUIREMENTS,
    ".gitignore": GITIGNORE,
    "tests/test_training.py": TEST,
}
