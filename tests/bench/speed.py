"""Speed beside TF-Ranking's own pipeline, on the same files: `make bench`.

    python tests/bench/speed.py --output=bench
    python tests/bench/speed.py --output=bench --cases=small,gam --rounds=1

Makes its files once (1.4 GB in `--output`), then runs every system of every case in
turns, each run in a process of its own, and prints medians and ratios. `results.json`
has every run; `speed.svg` the picture. Run it on an idle machine.

- documents/s: real documents of the training steps of an epoch by their time, the first
  epoch of a process left out; validation is not in it.
- seconds: from the start of the process until both exports are written (and, ours,
  loaded back, compared and evaluated).
- peak: largest resident memory of the process.
- NDCG@10: of the validation lists, whole, through the exported model, with one code for
  all systems. It has to agree: a fast wrong answer loses.
- `limit`: the training step of our model on one resident batch, without input or loop.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from speed_cases import CASES
from speed_data import Data

HERE = pathlib.Path(__file__).resolve().parent


def run(data: Data, case: str, system: str, seed: int) -> dict:
    """Runs one system in a process of its own and returns its figures."""
    output = data.folder / f"run-{case}-{system}-{seed}.json"
    output.unlink(missing_ok=True)
    program = [sys.executable, str(HERE / "speed_run.py")]
    options = {"data": data.folder, "case": case, "system": system}
    options.update(seed=seed, output=output)
    started = {"BENCH_START": str(time.time()), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        program + [f"--{name}={value}" for name, value in options.items()],
        env={**os.environ, **started},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{case}, {system}: failed\n{done.stderr[-3000:]}")
    result = json.loads(output.read_text())
    output.unlink()
    return {"case": case, "system": system, "seed": seed, **result}


def median(runs: list[dict], case: str, system: str, key: str) -> float | None:
    """Median of a figure over the runs of a system."""
    values = [
        r[key] for r in runs if r["case"] == case and r["system"] == system and key in r
    ]
    return statistics.median(values) if values else None


def table(runs: list[dict]) -> str:
    """Returns the medians as a Markdown table."""
    columns = {
        "documents_per_second": "{:,.0f}",
        "seconds": "{:.1f}",
        "peak_gib": "{:.2f}",
        "valid_ndcg@10": "{:.4f}",
    }
    titles = ["case", "system", "documents/s", "seconds", "peak GiB", "NDCG@10"]
    titles += ["speed", "start"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for case in dict.fromkeys(r["case"] for r in runs):
        for system in dict.fromkeys(r["system"] for r in runs if r["case"] == case):
            row = [case, system]
            for key, style in columns.items():
                value = median(runs, case, system, key)
                row.append("" if value is None else style.format(value))
            row += ratios(runs, case) if system == "ours" else ["", ""]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def ratios(runs: list[dict], case: str) -> list[str]:
    """Returns how many times faster ours is than TF-Ranking, with the target."""
    result = []
    for key, target, inverse in (
        ("documents_per_second", CASES[case].speed, False),
        ("seconds", CASES[case].start, True),
    ):
        pair = [median(runs, case, system, key) for system in ("ours", "tf_ranking")]
        if None in pair:
            result.append("")
            continue
        ratio = pair[1] / pair[0] if inverse else pair[0] / pair[1]
        wanted = "" if target is None else f" ({target:g}x wanted)"
        result.append(f"**{ratio:.1f}x**{wanted}")
    return result


def plot(runs: list[dict], path: pathlib.Path) -> None:
    """Draws documents a second and seconds of both systems, a group a case."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    cases = [c for c in CASES if median(runs, c, "tf_ranking", "seconds")]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, key, title in zip(
        axes,
        ("documents_per_second", "seconds"),
        ("documents a second in training", "seconds from start to both exports"),
        strict=True,
    ):
        for offset, system in ((-0.2, "tf_ranking"), (0.2, "ours")):
            values = [median(runs, case, system, key) for case in cases]
            places = [i + offset for i in range(len(cases))]
            bars = axis.bar(places, values, 0.4, label=system.replace("_", "-"))
            axis.bar_label(bars, [f"{v:,.0f}" for v in values], fontsize=7)
        axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xticks(range(len(cases)), cases, rotation=20, ha="right")
    axes[0].legend()
    figure.savefig(path)


def time_to_quality(runs: list[dict]) -> str:
    """Returns when ours reaches what LightGBM ends with."""
    goal = median(runs, "lightgbm", "lightgbm", "valid_ndcg@10")
    if goal is None:
        return ""
    seconds = median(runs, "lightgbm", "lightgbm", "seconds")
    history = [r["history"] for r in runs if r["case"] == "lightgbm" and "history" in r]
    reached = [t for t, ndcg in history[0] if ndcg >= goal]
    ours = f"after {reached[0]:.1f} s" if reached else "not within its epochs"
    return (
        f"LightGBM: NDCG@10 {goal:.4f} after {seconds:.1f} s; ours reaches it {ours}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("bench"))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    names = arguments.cases.split(",")
    for name in names:
        if name not in CASES:
            parser.error(f"unknown case {name!r}; known: {', '.join(CASES)}")
    data = Data(arguments.output / "data").make()
    results = arguments.output / "results.json"
    runs: list[dict] = []
    for number in range(arguments.rounds):
        for name in names:
            # TF-Ranking on whole lists takes minutes; one run says enough.
            if number >= (CASES[name].rounds or arguments.rounds):
                continue
            for system in CASES[name].systems:
                runs.append(run(data, name, system, number))
                shown = {k: v for k, v in runs[-1].items() if k != "history"}
                print(json.dumps(shown), flush=True)
                results.write_text(json.dumps(runs, indent=1))
    print(table(runs))
    print(time_to_quality(runs))
    if any(r["system"] == "tf_ranking" for r in runs):
        plot(runs, arguments.output / "speed.svg")


if __name__ == "__main__":
    main()
