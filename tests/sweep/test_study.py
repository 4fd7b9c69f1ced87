"""Budgets that are kept exactly: many workers, deaths, databases that go away."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.pipeline.training_helpers import ROOT
from tests.sweep.study_worker import LOG, STEPS, make_study, steps, train, work
from tfr_pipeline.errors import ConfigError
from tfr_pipeline.pipeline.run.lock import held
from tfr_pipeline.sweep import hyper, storage
from tfr_pipeline.sweep.attributes import BEAT
from tfr_pipeline.sweep.plan import settled
from tfr_pipeline.sweep.settings import Settings
from tfr_pipeline.sweep.study import Study

optuna = pytest.importorskip("optuna")
BEAT_SECONDS = "0.2"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("TFR_PIPELINE_SWEEP_BEAT", BEAT_SECONDS)


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "sweep")


class Workers:
    """Processes that work at a study."""

    def __init__(self, folder, trials, seconds=0.0):
        self.folder, self.trials, self.seconds = folder, trials, seconds
        self.running = []

    def start(self, url):
        words = [url, self.folder, str(self.trials), str(self.seconds)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.study_worker", *words],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return process

    def wait(self, seconds=120):
        for process in self.running:
            output, _ = process.communicate(timeout=seconds)
            assert process.returncode in (0, -signal.SIGKILL), output


@pytest.fixture
def workers(folder):
    made = []

    def make(trials, seconds=0.0):
        made.append(Workers(folder, trials, seconds))
        return made[-1]

    yield make
    for process in (process for one in made for process in one.running):
        if process.poll() is None:
            process.kill()
            process.wait()


def until(condition, seconds=60):
    """Waits for a condition."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def finished(folder):
    """Returns number, process and steps of each trial that a worker finished."""
    try:
        with open(os.path.join(folder, LOG), encoding="ascii") as file:
            return [tuple(map(int, line.split())) for line in file]
    except FileNotFoundError:
        return []


def check_exact(url, folder, trials):
    """Checks that each trial was finished once, with all of its steps, and no other."""
    study = optuna.load_study(study_name="test", storage=storage.connect(url))
    states = {trial.number: trial.state.name for trial in study.get_trials()}
    assert states == dict.fromkeys(range(trials), "COMPLETE")
    # One that dies between the study and the log leaves no line.
    lines = finished(folder)
    numbers = [number for number, _, _ in lines]
    assert len(set(numbers)) == len(numbers)
    assert all(done == STEPS for _, _, done in lines)
    return numbers


@pytest.mark.slow
def test_four_processes_on_sqlite_finish_each_trial_once(sqlite, folder, workers):
    jobs = workers(40)
    for _ in range(4):
        jobs.start(sqlite)
    jobs.wait()
    assert sorted(check_exact(sqlite, folder, 40)) == list(range(40))


def test_a_trial_draws_the_same_point_whoever_draws(tmp_path):
    drawn = []
    for name in ("one", "two"):
        folder = str(tmp_path / name)
        study = make_study(f"sqlite:///{tmp_path}/{name}.db", folder, 3)
        claims = []
        for _ in range(3):
            claims.append(study.claim())
            study.complete(claims[-1], [0.0])
        drawn.append([claim.point["x"] for claim in claims])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3


@pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("journal", marks=pytest.mark.slow)]
)
def test_what_a_killed_worker_left_goes_on_where_it_was(
    tmp_path, folder, workers, kind
):
    url = f"{kind}:///{tmp_path}/study"
    jobs = workers(1, seconds=0.3)
    process = jobs.start(url)
    run = os.path.join(folder, "trials", "00000")
    until(lambda: os.path.exists(os.path.join(run, "steps")))
    process.kill()
    process.wait()
    done = os.path.getsize(os.path.join(run, "steps"))
    assert 0 < done < STEPS
    study = make_study(url, folder, 1)
    claim = study.claim()
    assert claim.number == 0 and claim.run == run and steps(claim) == done
    with study.beating(claim):
        assert study.complete(claim, [train(claim, 0.0)])
    check_exact(url, folder, 1)


def test_a_worker_on_another_machine_is_dead_when_its_beat_stands_still(
    sqlite, folder, monkeypatch
):
    study = make_study(sqlite, folder, 1)
    claim = study.claim()
    other = ["elsewhere:1:2:3", 7]
    study.storage.set_trial_system_attr(claim.trial._trial_id, BEAT, other)
    assert study.claim() is None
    started = time.monotonic()
    until(lambda: study.claim() is not None, 10)
    assert time.monotonic() - started > 5 * float(BEAT_SECONDS)


def test_a_worker_that_holds_its_run_directory_is_not_dead(sqlite, folder):
    study = make_study(sqlite, folder, 1)
    claim = study.claim()
    with held(claim.run):
        assert study.claim() is None
    assert study.claim().number == 0


def test_what_was_given_to_another_worker_does_not_count_twice(sqlite, folder):
    study = make_study(sqlite, folder, 1)
    claim = study.claim()
    with study.beating(claim) as lost:
        other = ["elsewhere:1:2:3", 7]
        study.storage.set_trial_system_attr(claim.trial._trial_id, BEAT, other)
        assert lost.wait(10)
        assert not study.complete(claim, [0.5])
    assert study.counts().finished == 0


def test_a_trial_at_which_workers_die_again_and_again_is_given_up(sqlite, folder):
    study = make_study(sqlite, folder, 1)
    for deaths in range(5):
        claim = study.claim()
        assert (claim.deaths, claim.hopeless) == (deaths, "")
        # Whoever asks next finds that nobody is at it.
    assert "5 workers died" in study.claim().hopeless


def test_a_parked_trial_comes_first_and_nobody_died(sqlite, folder):
    study = make_study(sqlite, folder, 3)
    first, second = study.claim(), make_study(sqlite, folder, 3).claim()
    study.park(first)
    again = study.claim()
    assert (again.number, again.deaths, again.point) == (0, 0, first.point)
    assert second.number == 1


def test_a_larger_budget_goes_on_and_a_smaller_one_has_nothing_to_do(sqlite, folder):
    work(make_study(sqlite, folder, 2), 0.0)
    assert make_study(sqlite, folder, 1).claim() is None
    work(make_study(sqlite, folder, 3), 0.0)
    check_exact(sqlite, folder, 3)


def test_a_finite_space_gives_each_point_once_over_all_workers(tmp_path, sqlite):
    space = hyper.product(hyper.sweep("a", [1, 2, 3]), hyper.sweep("b", [(8,), (4, 2)]))

    def make():
        told = Settings.of()
        found = storage.connect(sqlite)
        return Study(found, "grid", str(tmp_path / "sweep"), space, told, {})

    one, two = make(), make()
    assert one.budget == 6 and one.settings.sampler == "grid"
    claims = []
    for worker in (one, two) * 3:
        claims.append(worker.claim())
        worker.complete(claims[-1], [0.0])
    assert [claim.point for claim in claims] == list(space.points())
    params = [trial.params for trial in one.optuna.get_trials()]
    assert params[3] == {"a": 2, "b": "[4, 2]"}
    assert one.claim() is None


@pytest.mark.parametrize(
    ("sampler", "trials", "wanted"),
    [
        ("auto", None, ("grid", 6)),
        ("auto", 9, ("grid", 6)),
        ("auto", 5, ("tpe", 5)),
        ("grid", 5, ("grid", 5)),
        ("random", None, ("random", 6)),
    ],
)
def test_a_finite_space_is_counted_off_if_there_are_trials_enough(
    sampler, trials, wanted
):
    space = hyper.product(hyper.sweep("a", [1, 2, 3]), hyper.sweep("b", [4, 5]))
    settings, budget = settled(space, Settings.of(sampler=sampler), trials)
    assert (settings.sampler, budget) == wanted


def test_a_space_without_a_last_point_needs_a_number_of_trials():
    space = hyper.interval("a", 0.0, 1.0)
    with pytest.raises(ConfigError, match="--trials: expected a number"):
        settled(space, Settings.of(), None)
    with pytest.raises(ConfigError, match="grid counts off"):
        settled(space, Settings.of(sampler="grid"), 4)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes", "nsgaii"])
def test_workers_of_all_samplers_go_on_where_others_stopped(sqlite, folder, sampler):
    one, two = (make_study(sqlite, folder, 8, sampler=sampler) for _ in range(2))
    parked = two.claim()
    two.park(parked)
    for worker in (one, two) * 4:
        claim = worker.claim()
        assert 0.0 <= claim.point["x"] <= 1.0
        assert worker.complete(claim, [claim.point["x"]])
    check_exact(sqlite, folder, 8)
    assert one.optuna.trials[0].params == parked.point
    assert len({trial.value for trial in one.optuna.trials}) > 4


@pytest.mark.parametrize("pruner", ["median", "hyperband", "asha"])
def test_pruners_end_what_is_behind_and_keep_the_best(sqlite, folder, pruner):
    study = make_study(sqlite, folder, 12, pruner=pruner, prune_on="val_x")
    pruned = 0
    for number in range(12):
        claim = study.claim()
        # The later, the worse.
        values = [1.0 - 0.05 * number + 0.01 * epoch for epoch in range(1, STEPS + 1)]
        if any(study.report(claim, i + 1, v) for i, v in enumerate(values[:-1])):
            assert study.prune(claim)
            pruned += 1
        else:
            assert study.complete(claim, [values[-1]])
    assert pruned > 0
    assert study.best()[0].number == 0
    assert study.counts().pruned == pruned and study.counts().finished == 12


def test_values_of_which_less_is_better_are_turned_round(sqlite, folder):
    study = make_study(sqlite, folder, 2, pruner="median", prune_on="val_loss")
    study.report(study.claim(), 1, 0.25)
    assert study.optuna.trials[0].intermediate_values == {1: -0.25}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "qmc"}, "sampler is 'random' there and 'qmc' here"),
        ({"repeats": 2}, "repeats is 1 there and 2 here"),
        ({"metric": "mrr"}, "metric is ['ndcg@10'] there and ['mrr'] here"),
    ],
)
def test_a_study_with_other_settings_is_refused_with_the_difference(
    sqlite, folder, change, words
):
    make_study(sqlite, folder, 3)
    with pytest.raises(ConfigError) as error:
        make_study(sqlite, folder, 3, **change)
    assert words in str(error.value)


def test_a_study_with_another_space_or_config_is_refused_with_the_difference(
    sqlite, folder
):
    make_study(sqlite, folder, 3)
    space = hyper.product(hyper.interval("x", 0.0, 2.0))
    told = Settings.of(sampler="random")
    config = {"pipeline": {"num_epochs": 7, "steps_per_execution": 3}, "model_dir": "x"}
    with pytest.raises(ConfigError) as error:
        Study(storage.connect(sqlite), "test", folder, space, told, config, 3)
    assert "'x: 0.0 to 1.0' there and 'x: 0.0 to 2.0' here" in str(error.value)
    assert "pipeline.num_epochs is 5 there and 7 here" in str(error.value)
    # What changes no result is free.
    assert "steps_per_execution" not in str(error.value)


def test_the_folder_of_another_study_is_refused(tmp_path, sqlite, folder):
    work(make_study(sqlite, folder, 1), 0.0)
    with pytest.raises(ConfigError, match="of another study"):
        make_study(f"sqlite:///{tmp_path}/other.db", folder, 1)


def test_a_study_that_others_made_is_refused(sqlite, folder):
    study = optuna.create_study(study_name="test", storage=sqlite, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigError, match="did not make"):
        make_study(sqlite, folder, 1)


# PostgreSQL


class Link:
    """A connection to a server that can be cut: a port of its own, handed on."""

    def __init__(self, port):
        self._to, self._open, self._pairs = port, True, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self._hand_on, args=(a, b), daemon=True).start()

    @staticmethod
    def _hand_on(a, b):
        try:
            while received := a.recv(65536):
                b.sendall(received)
        except OSError:
            pass
        finally:
            # `close` alone tells nobody while the other thread waits for bytes.
            for one in (a, b):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def cut(self):
        """Breaks all connections; there are no new ones until `mend`."""
        self._open = False
        for pair in self._pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._pairs = []

    def mend(self):
        self._open = True

    def close(self):
        self.cut()
        self._listener.close()


@pytest.mark.slow
def test_on_postgresql_a_kill_a_lost_connection_and_a_restart_lose_nothing(
    postgresql, folder, workers
):
    url = postgresql.make_database("crash")
    link = Link(postgresql.port)
    cut = url.replace(str(postgresql.port), str(link.port))
    jobs = workers(60, seconds=0.1)
    first, _, _ = (jobs.start(url), jobs.start(url), jobs.start(cut))

    def until_more(trials):
        wanted = len(finished(folder)) + trials
        until(lambda: len(finished(folder)) >= wanted)

    # Each of the three is at work.
    until(lambda: len({process for _, process, _ in finished(folder)}) == 3)
    first.kill()
    until_more(4)
    link.cut()
    until_more(6)
    link.mend()
    until_more(6)
    postgresql.stop()
    postgresql.start()
    jobs.wait()
    link.close()
    assert len(check_exact(url, folder, 60)) >= 59


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_twenty_kills_at_random_moments_lose_nothing(
    kind, request, sqlite, folder, workers
):
    url = sqlite
    if kind == "postgresql":
        url = request.getfixturevalue("postgresql").make_database("kills")
    moments = random.Random(7)
    jobs = workers(60, seconds=0.05)
    alive = [jobs.start(url) for _ in range(3)]
    for process in alive:
        process.stdout.readline()
    for _ in range(20):
        # Whatever a worker is at after so long; a death is no synchronisation.
        time.sleep(moments.uniform(0.05, 0.6))
        victim = alive.pop(moments.randrange(len(alive)))
        victim.kill()
        replacement = jobs.start(url)
        replacement.stdout.readline()
        alive.append(replacement)
    jobs.wait()
    numbers = check_exact(url, folder, 60)
    assert len(numbers) >= 40


def test_the_password_of_a_database_that_is_not_there_is_not_shown():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"postgresql://ann:secret@127.0.0.1:{free.getsockname()[1]}/db"
        with pytest.raises(storage.StorageError) as error:
            storage.connect(url)
    assert "ann:" not in str(error.value) and "secret" not in str(error.value)
    assert "cannot be reached" in str(error.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("study.db", "expected a URL"),
        ("sqlite://", "in memory"),
        ("nothing://x/y", "nothing"),
        ("grpc://host", "grpc://HOST:PORT"),
        ("journal://", "found no file"),
    ],
)
def test_a_storage_that_is_none_is_explained(url, words):
    with pytest.raises(ConfigError) as error:
        storage.connect(url)
    assert words in str(error.value)


def test_a_grpc_proxy_serves_a_study(sqlite, folder):
    if int(importlib.metadata.version("protobuf").split(".")[0]) < 5:
        with pytest.raises(ConfigError, match="needs protobuf 5 or later"):
            storage.connect("grpc://localhost:1")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import optuna, sys; optuna.storages.run_grpc_proxy_server("
        "optuna.storages.get_storage(sys.argv[1]), host='localhost', "
        "port=int(sys.argv[2]))"
    )
    server = subprocess.Popen([sys.executable, "-c", code, sqlite, str(port)])
    try:
        url = f"grpc://localhost:{port}"
        study = make_study(url, folder, 3)
        study.park(study.claim())
        work(study, 0.0)
        check_exact(url, folder, 3)
    finally:
        server.kill()
        server.wait()
