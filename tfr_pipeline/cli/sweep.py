"""`tfr-pipeline sweep`: trains trials of a study, with others who give the command."""

from __future__ import annotations

import argparse
import functools
import os
import re
import shlex
import warnings
from typing import TYPE_CHECKING

from tfr_pipeline import files, urls
from tfr_pipeline.cli import arguments
from tfr_pipeline.cli.arguments import count as _count
from tfr_pipeline.cli.arguments import positive as _positive
from tfr_pipeline.cli.quiet import load_tensorflow
from tfr_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from tfr_pipeline.experiment.config_files import ConfigFile
    from tfr_pipeline.pipeline.run.console import Console
    from tfr_pipeline.sweep.jobs import Launcher
    from tfr_pipeline.sweep.settings import Settings
    from tfr_pipeline.sweep.space import Space
    from tfr_pipeline.sweep.standing import Standing
    from tfr_pipeline.sweep.study import Study

TAKES_CONFIG = True
# What there is to do with a study beside working at it: `cli/sweep_<word>.py`.
COMMANDS = {
    "status": "how a study stands, also while workers work",
    "best": "the best trial: shown, as a config file, or trained again",
    "export": "the trials as CSV",
    "plot": "a study as one HTML page",
}
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Of a long space, a dry run shows so many trials.
_SHOWN = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.description = (
        "Trains with the settings that get_sweep of a config describes, and keeps what "
        "came of them in a study. The same command goes on with a study; on another "
        "terminal or machine it joins it."
    )
    parser.epilog = (
        "  tfr-pipeline sweep --config=configs/letor.py:dnn --config.data.dir=DIR \\\n"
        "    --config.model_dir=SWEEP --trials=40 --workers=2\n"
        "trains 40 trials, each in SWEEP/trials/NUMBER; docs/sweeps.md has more.\n\n"
        "of a study, tfr-pipeline sweep WORD SWEEP:\n"
        + "\n".join(f"  {name:<7} {text}" for name, text in COMMANDS.items())
    )
    add = parser.add_argument
    add("--config", required=True, type=arguments.path, help="FILE.py[:argument]")
    add("--trials", type=_positive, help="trials of the study, over all its workers")
    add(
        "--storage",
        help="URL of the study: sqlite:///FILE (by default study.db in model_dir), "
        "postgresql://USER@HOST/DATABASE, journal:///FILE, grpc://HOST:PORT; "
        "TFR_PIPELINE_STORAGE does the same, where nobody reads passwords",
    )
    add("--name", help="name of the study; by default that of the folder")
    add("--workers", type=_positive, default=1, help="processes on this machine")
    add(
        "--launch",
        help="a trial is a job: what starts it, 'launch/local.sh --workers=2 --'",
    )
    add("--isolate", action="store_true", help="a fresh process for each trial")
    add("--keep", type=_count, default=1, help="trials that keep checkpoints, exports")
    add("--time_budget", type=_seconds, help="begin no trial after it: 90m, 8h")
    add("--metric", help="what to choose by; several with commas (default ndcg@10)")
    add("--direction", help="maximize or minimize, for each metric")
    add("--sampler", help="auto, tpe, random, grid, qmc, cmaes, gp, nsgaii")
    add("--pruner", help="none, median, hyperband, asha")
    add("--repeats", type=_positive, help="runs a trial; their mean counts")
    add("--folds", type=_positive, help="folds by query: a run each, the mean counts")
    add("--seeds", help="fixed or per_trial")
    add("--seed", type=_count, help="seed of the sampler")
    add("--give_up", type=_positive, default=5, help="failures that end a sweep")
    add("--dry_run", action="store_true", help="show the trials, or the space")
    add("--cores", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if args.cores:  # of a worker that `--workers` started
        os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    from tfr_pipeline.experiment.config_files import ConfigFile
    from tfr_pipeline.sweep.attributes import TRIALS
    from tfr_pipeline.sweep.plan import described

    prepare = functools.partial(load_tensorflow, gpus=args.launch is None)
    file = ConfigFile(args.config, args.overrides, prepare)
    given = {
        key: getattr(args, key)
        for key in (
            *("metric", "direction", "sampler", "pruner"),
            *("repeats", "folds", "seeds"),
        )
    }
    space, settings = described(file, {**given, "seed": args.seed})
    launcher = None
    if args.launch is not None:
        from tfr_pipeline.sweep.jobs import Launcher

        launcher = Launcher(args.launch, file)
        if args.isolate:
            args.isolate = False
            warnings.warn(
                "--isolate has no effect beside --launch: a job is a process of its "
                "own.",
                stacklevel=1,
            )
    folder = file.config().get("model_dir")
    if args.dry_run:
        if launcher is not None:
            run = os.path.join(folder or "SWEEP", TRIALS, "00000")
            print(f"job of trial 0: {shlex.join(launcher.command(run))}")
        return _dry_run(space, settings, args.trials)
    if not folder:
        raise ConfigError(
            "config.model_dir: a value is required, the folder of the sweep "
            "(--config.model_dir=...)."
        )
    folder = files.local(folder, "config.model_dir")
    if urls.is_remote(folder):
        raise ConfigError(
            "config.model_dir: expected a folder of this machine, or one that machines "
            f"share, found {folder!r}."
        )
    from tfr_pipeline.sweep import processes, storage

    url = args.storage or os.environ.get(processes.STORAGE, "")
    url = url or storage.default_url(folder)
    from tfr_pipeline.sweep import live, standing

    if (args.workers > 1 or args.isolate) and not args.cores:
        # What all workers would be refused for is said once, before there are any.
        study = _study(args, file, space, settings, folder, url)
        command, name = ["sweep", *_words_of_worker(args)], study.name
        console = live.LiveConsole(lambda: standing.find(folder, url, name))
        console.say(_begins(study, url))
        budget = args.time_budget
        jobs = processes.Processes(command, url, args.workers, budget, console)
        with console.running():
            code = jobs.run()
        if not code:
            _report(standing.find(folder, url, name), console)
        return code
    return _work(args, file, space, settings, folder, url, launcher)


def _study(
    args: argparse.Namespace,
    file: ConfigFile,
    space: Space,
    settings: Settings,
    folder: str,
    url: str,
) -> Study:
    from tfr_pipeline.serialization import plain
    from tfr_pipeline.sweep import storage
    from tfr_pipeline.sweep.study import Study

    config = plain(file.config(), "config", strict=True)
    name = args.name or os.path.basename(os.path.abspath(folder))
    connected = storage.connect(url)
    return Study(connected, name, folder, space, settings, config, args.trials)


def _begins(study: Study, url: str) -> str:
    from tfr_pipeline.sweep import storage

    counts = study.counts()
    return (
        f"study {study.name}, {storage.shown(url)}: "
        f"{'joined' if study.joined else 'new'}, sampler {study.settings.sampler}, "
        f"{counts.finished} of {counts.budget} trials finished"
    )


def _work(
    args: argparse.Namespace,
    file: ConfigFile,
    space: Space,
    settings: Settings,
    folder: str,
    url: str,
    launcher: Launcher | None,
) -> int:
    from tfr_pipeline.sweep import live
    from tfr_pipeline.sweep.standing import Standing

    study = _study(args, file, space, settings, folder, url)
    console = live.LiveConsole(lambda: Standing(study.optuna, folder))
    with console.stage("loading TensorFlow", "TensorFlow loaded"):
        load_tensorflow(gpus=launcher is None)
    from tfr_pipeline.compat import tf

    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        # Each trial has a model of its own, which is traced: it would warn of that.
        tf.get_logger().setLevel("ERROR")
    from tfr_pipeline.sweep.worker import Worker

    if not args.cores:
        console.say(_begins(study, url))
    worker = Worker(
        study,
        file,
        launcher=launcher,
        keep=args.keep,
        seconds=args.time_budget,
        most=1 if args.isolate else None,
        give_up=args.give_up,
        console=console,
    )
    with console.running():
        code = worker.run()
    if not code and not args.cores:
        _report(Standing(study.optuna, folder), console)
    return code


def _report(standing: Standing, console: Console) -> None:
    from tfr_pipeline.sweep import status_text

    front = standing.front()
    if len(front) > 1:
        console.say(f"none better in all of {', '.join(standing.names)}:")
        for line in status_text.table(front, standing.names):
            console.say(line)
        console.say(f"more: tfr-pipeline sweep best {standing.folder}")
        return
    for row in front:
        values = zip(standing.names, row.values, strict=True)
        texts = [f"{name} {value:.6g}" for name, value in values]
        console.say(f"best: trial {row.number}, {', '.join(texts)}")
        for line in status_text.point_lines(row):
            console.say(line)
        console.say(f"run directory: {os.path.join(standing.folder, row.run)}")


def _dry_run(space: Space, settings: Settings, trials: int | None) -> int:
    from tfr_pipeline.sweep.domains import as_text
    from tfr_pipeline.sweep.plan import first_points, settled

    settings, budget = settled(space, settings, trials)
    print(
        f"{budget} trials, sampler {settings.sampler}, pruner {settings.pruner}, "
        + ", ".join(f"{o.direction} {o.name}" for o in settings.objectives)
    )
    if settings.sampler != "grid":
        for line in space.describe():
            print(line)
        return 0
    points = first_points(space, budget)
    for number, point in enumerate(points[:_SHOWN]):
        print(f"{number:5}: {', '.join(f'{k}={as_text(v)}' for k, v in point.items())}")
    if len(points) > _SHOWN:
        print(f"... and {len(points) - _SHOWN} more")
    return 0


def _words_of_worker(args: argparse.Namespace) -> list[str]:
    """Returns the words of this command for one of its workers."""
    dropped = {"storage", "workers", "cores", "time_budget"}
    words = list(args.overrides)
    for key, value in vars(args).items():
        if key == "overrides" or key in dropped or value in (None, False):
            continue
        words.append(f"--{key}" if value is True else f"--{key}={value}")
    return words


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 90m or 8h, found {text!r}"
        )
    return float(found[1]) * _UNITS[found[2]]
